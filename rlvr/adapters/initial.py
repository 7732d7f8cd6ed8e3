"""The initial factors of an adapter: computed once, stored in the run, read again by a resume."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rlvr import runtime
from rlvr.adapters.factors import Matrix
from rlvr.adapters.methods import Method, scaling_of
from rlvr.adapters.report import start_row
from rlvr.checkpoints.fingerprints import fingerprint_values
from rlvr.files import replacing
from rlvr.schema import RunError

ROWS = torch.contiguous_format
INITIAL = "initial_adapter.safetensors"
Make = Callable[[], tuple[dict[str, Tensor], dict[str, dict[str, Any]]]]


def start_of(method: Method, matrix: Matrix, seed: int) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Return the initial factors A and B of one matrix and what they hold of it.

    They may be views of the matrix's decomposition: copy what outlives it.
    """
    assert method.factors is not None
    first, second = method.factors(matrix, seed=seed)
    return first, second, start_row(matrix, first, second, scaling_of(method.config))


def maker(method: Method, weights: Mapping[str, Tensor], wrapped: PeftModel, seed: int) -> Make:
    """Return a function that computes the initial tensors and, of factors, their report."""

    def from_peft() -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
        return {n: p.detach().cpu() for n, p in wrapped.named_parameters() if p.requires_grad}, {}

    def from_factors() -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
        tensors, rows = {}, {}
        for target, weight in weights.items():
            name = target.removesuffix(".weight")
            first, second, rows[name] = start_of(method, Matrix(weight, target), seed)
            for factor, value in (("A", first), ("B", second)):
                # A row-major copy: factors may be views of an SVD, which safetensors would store
                # whole.
                tensors[f"{name}.{factor}"] = value.cpu().float().clone(memory_format=ROWS)
        return tensors, rows

    return from_peft if method.factors is None else from_factors


def initial_tensors(
    make: Make, provenance: dict[str, Any], run_dir: Path | None
) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Return the stored initial tensors of the run, or make and store them."""
    path = None if run_dir is None else run_dir / INITIAL
    stored = _stored(path, provenance) if path is not None and path.is_file() else None
    if stored is not None:
        return stored
    tensors, rows = make()
    if path is not None:
        about = {**provenance, "report": rows, "sha256": fingerprint_values(tensors.items())}
        metadata = {key: json.dumps(value, sort_keys=True) for key, value in about.items()}
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
    return tensors, rows


def _stored(
    path: Path, provenance: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]] | None:
    """Return the initial tensors of a run; ``None`` where the file is damaged.

    They can be made again, and a resumed run compares them with those of its first start.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            about = {key: json.loads(text) for key, text in (file.metadata() or {}).items()}
        damage = (
            None if about["sha256"] == fingerprint_values(tensors.items()) else "it was changed"
        )
        made_with, rows = {key: about[key] for key in provenance}, about["report"]
    except Exception as error:  # noqa: BLE001  (safetensors' own error has no public name)
        tensors, made_with, rows = {}, {}, {}
        damage = f"{type(error).__name__}: {error}"
    if damage is not None:
        runtime.say(f"{path}: damaged ({damage}); the initial factors are computed again")
        return None
    for key, value in provenance.items():
        if made_with[key] != value:
            raise RunError(
                f"{path} was made with another {key} ({made_with[key]}, now {value}); resume with "
                "what the run was started with"
            )
    return tensors, rows
