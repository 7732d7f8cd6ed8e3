"""``rlvr mask build`` and ``rlvr mask show``: a mask as a file, without training.

A recipe takes it by ``mask: {builder: file, path: M.safetensors}``.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from rlvr.checkpoint import fingerprint, read_weights, weight_names
from rlvr.config import ModelSection, apply_overrides
from rlvr.masks import Mask, MaskSpec, build_mask, check_files, check_spec, parse_spec
from rlvr.policy import checkpoint_folder, load_skeleton
from rlvr.schema import RecipeError
from rlvr.targets import resolve_targets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="mask_verb", required=True, metavar="build|show")
    build = verbs.add_parser("build", help="base weights into a mask file")
    build.add_argument("model", help="hub id or folder of safetensors")
    build.add_argument("--builder", required=True, help="such as safe; its options as key=value")
    build.add_argument("--out", required=True, type=Path, help="the mask file to write")
    build.add_argument("--targets", nargs="+", default=["linear"], help="patterns of matrices")
    build.add_argument(
        "--measure-svd", action="store_true", help="record the overlap with the exact SVD's mask"
    )
    build.add_argument("overrides", nargs="*", metavar="key=value")
    show = verbs.add_parser("show", help="densities, provenance and fingerprint of a mask file")
    show.add_argument("file", type=Path)


def run(options: argparse.Namespace) -> int:
    if options.mask_verb == "show":
        print(describe(Mask.load(options.file)))
        return 0
    if options.out.exists():
        raise RecipeError(f"--out: {options.out} exists; choose another name")
    words = apply_overrides({"builder": options.builder}, options.overrides)
    mask = build(ModelSection(options.model), parse_spec(words), options.targets)
    if options.measure_svd:
        mask.provenance["iou_with_exact_svd"] = measure_svd(mask, ModelSection(options.model))
    mask.save(options.out)
    print(describe(mask))
    return 0


def build(section: ModelSection, spec: MaskSpec, patterns: list[str]) -> Mask:
    """Build a mask from a checkpoint's files, one matrix in memory at a time."""
    targets = resolve_targets(load_skeleton(section), patterns)
    check_spec(spec, targets)
    check_files(spec, targets)
    folder = checkpoint_folder(section)
    missing = set(targets) - weight_names(folder)
    if missing:
        raise RecipeError(f"{folder}: holds no weight {min(missing)!r} of its own model")
    provenance = {"model": section.path, "base_weights": fingerprint(read_weights(folder))}
    bar = tqdm(_targets_of(folder, targets), total=len(targets), desc="mask", unit="matrix")
    return build_mask(spec, bar, provenance)


def _targets_of(folder: Path, targets: Any) -> Iterator[tuple[str, Tensor]]:
    return ((name, weight) for name, weight in read_weights(folder) if name in targets)


def measure_svd(mask: Mask, section: ModelSection) -> dict[str, float]:
    """Return the least and the mean IoU over the matrices with the mask of the exact SVD."""
    spec = parse_spec(_with_exact(mask.provenance["spec"]))
    exact = build_mask(spec, _targets_of(checkpoint_folder(section), mask.shapes))
    overlaps = [
        float((mask[name] & exact[name]).sum() / (mask[name] | exact[name]).sum()) for name in mask
    ]
    return {"min": min(overlaps), "mean": sum(overlaps) / len(overlaps)}


def _with_exact(spec: Any) -> Any:
    """Return a spec's dict with every SVD in it exact."""
    if isinstance(spec, list):
        return [_with_exact(item) for item in spec]
    if not isinstance(spec, dict):
        return spec
    return {key: "exact" if key == "svd" else _with_exact(value) for key, value in spec.items()}


def describe(mask: Mask) -> str:
    """Return the densities by kind of matrix, the provenance and the fingerprint as text."""
    kinds: dict[str, list[str]] = {}
    for name in mask:
        kinds.setdefault(name.removesuffix(".weight").rsplit(".", 1)[-1], []).append(name)
    lines = [f"{'matrices':<14}{'count':>6}{'density':>10}{'least':>10}{'most':>10}"]
    for kind, names in kinds.items():
        densities = [mask.density(name) for name in names]
        moving = sum(map(mask.count, names)) / sum(map(mask.numel, names))
        row = f"{moving:>10.2%}{min(densities):>10.2%}{max(densities):>10.2%}"
        lines.append(f"{kind:<14}{len(names):>6}{row}")
    lines.append(f"{'all':<14}{len(mask):>6}{mask.density():>10.2%}")
    lines += [f"{key}: {value}" for key, value in mask.provenance.items()]
    return "\n".join([*lines, f"fingerprint: {mask.fingerprint()}"])
