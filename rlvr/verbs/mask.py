"""``rlvr mask build|show|calibrate``: masks without training."""

import csv
import dataclasses
import io
from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from rlvr import runtime
from rlvr.checkpoints.fingerprints import fingerprint_values
from rlvr.checkpoints.folders import model_folder
from rlvr.checkpoints.reader import open_checkpoint, select, weights_of
from rlvr.config import ModelSection
from rlvr.files import write_bytes, write_json
from rlvr.masks import (
    Calibration,
    Mask,
    MaskSpec,
    build_mask,
    calibrate,
    check_files,
    check_spec,
    parse_spec,
)
from rlvr.policy import load_skeleton
from rlvr.recipe_file import apply_overrides
from rlvr.registry import pop_plugins
from rlvr.schema import RecipeError
from rlvr.targets import resolve_targets


def run(options: Namespace) -> int:
    if options.mask_verb == "show":
        print(describe(Mask.load(options.file)))
        return 0
    if options.mask_verb == "calibrate":
        return run_calibrate(options)
    _require_free(options.out)
    words = pop_plugins(apply_overrides({"builder": options.builder}, options.overrides))
    mask = build(ModelSection(options.model), parse_spec(words), options.targets)
    if options.measure_svd:
        # In the provenance, not in the fingerprint: the bits of the mask are the same.
        mask.provenance["iou_with_exact_svd"] = measure_svd(mask, ModelSection(options.model))
    mask.save(options.out)
    print(describe(mask))
    return 0


def _require_free(out: Path) -> None:
    if out.exists():
        raise RecipeError(f"--out: {out} exists; choose another name")


def build(section: ModelSection, spec: MaskSpec, patterns: list[str]) -> Mask:
    """Build a mask from a checkpoint's files, one matrix in memory at a time."""
    skeleton = load_skeleton(section)
    targets = resolve_targets(skeleton, patterns)
    check_spec(spec, targets)
    check_files(spec, targets)
    # By the names that a run has: a file may store a tied head in addition.
    everything = _weights_of(section, [name for name, _ in skeleton.named_parameters()])
    provenance = {"model": section.path, "base_weights": fingerprint_values(everything)}
    # A second reading: generators are used up, and no whole model is kept in memory.
    weights = _weights_of(section, targets)
    bar = tqdm(weights, total=len(targets), desc="mask", unit="matrix")
    return build_mask(spec, bar, provenance)


def _weights_of(section: ModelSection, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield the named parameters of a checkpoint, one in memory at a time."""
    folder = model_folder(section.path, section.revision)
    return weights_of(select(open_checkpoint(folder), names, folder))


def measure_svd(mask: Mask, section: ModelSection) -> dict[str, float]:
    """Return the least and the mean IoU over the matrices with the mask of the exact SVD."""
    spec = parse_spec(_with_exact(mask.provenance["spec"]))
    exact = build_mask(spec, _weights_of(section, mask.shapes))
    overlaps = [
        float((mask[name] & exact[name]).sum() / (mask[name] | exact[name]).sum()) for name in mask
    ]
    return {"min": min(overlaps), "mean": sum(overlaps) / len(overlaps)}


def _with_exact(spec: object) -> Any:
    """Return a spec's dict with every SVD in it exact."""
    if isinstance(spec, list):
        return [_with_exact(item) for item in spec]
    if not isinstance(spec, dict):
        return spec
    # Recursive: a mask may be built of other masks.
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


def run_calibrate(options: Namespace) -> int:
    """Find a rank, print the table and write it."""
    if options.out is not None:
        _require_free(options.out)
        if options.out.suffix not in (".csv", ".json"):
            raise RecipeError(f"--out: {options.out} is neither .csv nor .json; choose one of them")
    section = ModelSection(options.model)
    densities = {
        "principal_density": options.principal_density,
        "low_density": options.low_density,
    }
    targets = resolve_targets(load_skeleton(section), options.targets)
    # Rank 1 fits every matrix: this checks the densities before any weight is read.
    check_spec(parse_spec({"builder": "safe", "rank": 1, **densities}), targets)
    device = runtime.default_device()

    def weights() -> Iterator[tuple[str, Tensor]]:
        matrices = ((name, weight.to(device)) for name, weight in _weights_of(section, targets))
        return iter(tqdm(matrices, total=len(targets), desc="calibrate", unit="matrix"))

    most = min(min(shape) for shape in targets.values())
    # The safe mask exists for ranks up to the smallest side of any target.
    best = calibrate(weights, most, options.target, **densities)
    print(describe_calibration(best, len(targets)))
    if options.out is not None:
        write_calibration(options.out, best, {"model": options.model, **densities})
    return 0


def describe_calibration(best: Calibration, matrices: int) -> str:
    """Return the table of ranks and densities, and the rank that answers, as text."""
    lines = [f"{'rank':>6}{'density':>10}"]
    for rank, density in best.densities.items():
        lines.append(f"{rank:>6}{density:>10.2%}{'  <' if rank == best.rank else ''}")
    lines.append(
        f"rank {best.rank}: density {best.densities[best.rank]:.4%}, {100 * best.error:+.4f} "
        f"points from {best.target:.2%}, over {matrices} matrices, {best.entries:,} entries"
    )
    if not best.reached:
        low, high = min(best.densities.values()), max(best.densities.values())
        lines.append(
            f"{best.target:.2%} is not reached: the densities go from {low:.2%} to {high:.2%}; "
            "change --low-density or --principal-density, or leave small matrices out by --targets"
        )
    # The density need not fall with the rank: several ranks may answer.
    elif len(best.brackets) > 1:
        places = ", ".join(f"{low} and {high}" for low, high in best.brackets)
        lines.append(f"the density crosses the target more than once, between the ranks {places}")
    return "\n".join(lines)


def write_calibration(out: Path, best: Calibration, about: dict[str, Any]) -> None:
    """Write the table as csv, or with all else as json."""
    if out.suffix == ".csv":
        text = io.StringIO(newline="")
        rows = csv.writer(text)
        rows.writerow(["rank", "density"])
        rows.writerows(best.densities.items())
        write_bytes(out, text.getvalue().encode())
        return
    answer = {"rank": best.rank, "error": best.error}
    write_json(out, {**about, **answer, **dataclasses.asdict(best)})
