"""Which folder a name means, and which files of a folder are its weights; no torch is imported.

A run holds its policy twice, for two kinds of readers:

* ``RUN/policy`` (``EXPORT``), or ``RUN/policy.delta`` of a run that stores deltas: the policy a
  user loads, in the dtype that computes the trained one. Evaluation, curvature and a recipe's
  ``model.path`` read it.
* ``RUN/checkpoints/step-NNNNNN``: the masters, as weights, an adapter or a delta. Resume and
  geometry read the newest one that is undamaged (``runs.newest_checkpoint``).
"""

import json
from collections.abc import Mapping
from pathlib import Path

from rlvr.schema import RecipeError

SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"
INDEX = f"{SAFETENSORS}.index.json"
EXPORT = "policy"  # in a run
LORA, ADAPTER = "lora", "adapter"  # in a run's checkpoint with an adapter
ADAPTER_CONFIG = "adapter_config.json"  # PEFT's
DELTA = "policy.delta"  # in a run or its checkpoint, where it stands for the weights
DELTA_START = b'{"__metadata__":{"sha256":"'  # of a delta file, after 8 bytes of length
_COMPANIONS = ("*.json", "*.jinja", "*.txt", "*.model")
_FOREIGN = ("consolidated*", "*/*")  # the same weights once more, in their maker's format


def is_local(path: str) -> bool:
    """Whether ``path`` is meant as a folder here, rather than as a hub id."""
    return path.startswith(("./", "../", "/", "~")) or Path(path).exists() or path.count("/") > 1


def model_folder(path: str, revision: str | None = None, *, download: bool = True) -> Path:
    """Return the folder of a policy's files: ``path`` itself, or a hub id at ``revision``.

    With ``download`` false only ``config.json`` is fetched from the hub, and the folder may lack
    the weights.

    Raises:
        RecipeError: there is no such folder, and nothing of that name on the hub.
    """
    if is_local(path):
        folder = Path(path).expanduser()
        if not folder.exists():
            raise RecipeError(f"{path}: does not exist; name a checkpoint folder or hub id")
        return folder
    # Imported here: --help and checks of local models need no hub.
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import RevisionResolutionError

    try:
        folder = Path(hf_hub_download(path, "config.json", revision=revision)).parent
        # .bin only if the repository has no safetensors: many hold both, at twice the bytes.
        for weights in ("*.safetensors", "*.bin") if download else ():
            if _is_whole(folder):
                break
            wanted = [*_COMPANIONS, weights]
            snapshot_download(
                path, revision=revision, allow_patterns=wanted, ignore_patterns=list(_FOREIGN)
            )
    except (OSError, ValueError, RevisionResolutionError) as error:
        at = "" if revision is None else f" at revision {revision}"
        raise RecipeError(
            f"{path}{at}: neither a folder here nor on the hub: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    return folder


def cached_folder(path: str) -> Path | None:
    """Return the folder of a policy that is on this machine, a hub id's from its cache.

    ``None`` if it is not here; nothing is downloaded.
    """
    if not path or is_local(path):
        folder = Path(path).expanduser()
        return folder if path and (folder / "config.json").is_file() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        file = try_to_load_from_cache(path, "config.json")
    except HFValidationError:
        return None
    # Where the hub was asked once and has no such file, it is an object and no path.
    return Path(file).parent if isinstance(file, str) else None


def model_file(path: str, name: str, revision: str | None = None) -> Path | None:
    """Return one file of a policy, fetched from the hub where need be; ``None`` if it has none."""
    if is_local(path):
        file = model_folder(path) / name
        return file if file.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(path, name, revision=revision))
    except EntryNotFoundError:
        return None


def _is_whole(folder: Path) -> bool:
    try:
        return bool(weight_files(folder))
    except RecipeError:  # a download that was interrupted
        return False


def is_run(path: Path) -> bool:
    """Whether ``path`` is a run directory."""
    # A model folder may hold checkpoints/ of Trainer; it has a config.json.
    has_checkpoints = (path / "checkpoints").is_dir() and not (path / "config.json").is_file()
    return has_checkpoints or (path / "recipe.json").is_file()


def base_of_run(run_dir: Path) -> Path:
    """Return the folder of the base policy that the recipe of a run names."""
    try:
        model = json.loads((run_dir / "recipe.json").read_text(encoding="utf-8"))["model"]
        return model_folder(model["path"], model.get("revision"))
    except RecipeError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecipeError(
            f"{run_dir}: is no run directory (recipe.json is missing or names no model.path); "
            "give BASE and TUNED for two checkpoints"
        ) from error


def hint(path: Path) -> str:
    """Return what to name in place of a path that is no whole policy; empty if nothing helps."""
    kind = _kind(path)
    run_dir = next((p for p in (path, *path.resolve().parents[:4]) if is_run(p)), None)
    if not kind:
        return ""
    if run_dir is not None and (run_dir / DELTA).is_file():
        return f"is {kind}; `rlvr delta apply BASE {run_dir / DELTA} OUT` gives its policy OUT"
    if run_dir is not None:
        policy = run_dir / EXPORT
        end = "" if policy.is_dir() else ", which the run writes at its end"
        return f"is {kind}; name the policy of its run, {policy}{end}"
    if kind == "a delta":
        return "is a delta; `rlvr delta apply BASE DELTA OUT` gives the whole policy OUT to name"
    if kind == "a file":
        return "is a file; name the folder that holds the weights and config.json"
    return (
        f"is {kind}; merge it with PEFT's merge_and_unload, save it with save_pretrained, and name "
        "that folder"
    )


def _kind(path: Path) -> str:
    """Return what stands at ``path``, if that is anything else than weights."""
    if path.is_file():
        return "a delta" if is_delta(path) else "a file"
    if is_run(path):
        return "a run directory"
    if (path / ADAPTER_CONFIG).is_file():
        return "an adapter without its base"
    if (path / DELTA).is_file():
        return "a delta"
    return "an adapter without its base" if (path / ADAPTER).is_dir() else ""


def is_delta(path: Path) -> bool:
    """Whether ``path`` is a delta file, by its first bytes."""
    with open(path, "rb") as file:
        # The first 8 bytes are the length of a safetensors header.
        return file.read(8 + len(DELTA_START))[8:] == DELTA_START


def weight_files(folder: Path) -> list[Path]:
    """Return the files from which transformers loads a policy; none where it finds no weights.

    A whole file goes before shards, and safetensors before torch's own format.

    Raises:
        RecipeError: an index is no index, or names a shard that is missing.
    """
    for name in (SAFETENSORS, BIN):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = sorted(set(read_index(index).values()))
            for shard in shards:
                if not (folder / shard).is_file():
                    raise RecipeError(
                        f"{folder}: {shard} is missing, which {index.name} names; copy it there"
                    )
            return [folder / shard for shard in shards]
    return []


def policy_bytes(checkpoint: Path) -> int:
    """Return the bytes that make the base policy the one of a run's checkpoint.

    They are those of its delta, else of its adapter, else of all weights.
    """
    if (checkpoint / DELTA).is_file():
        files = [checkpoint / DELTA]
    else:
        # ``lora`` first: it is the adapter as one plain LoRA, where there is such a form.
        adapters = [checkpoint / name for name in (LORA, ADAPTER) if (checkpoint / name).is_dir()]
        factors = sorted(adapters[0].rglob("*.safetensors")) if adapters else []
        files = factors or weight_files(checkpoint)
    return sum(file.stat().st_size for file in files)


def read_index(index: Path) -> Mapping[str, str]:
    """Return the file of each tensor of a sharded checkpoint, by the tensor's name."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if all(isinstance(place, str) for place in places.values()):
            return places
        problem = "weight_map holds what is no file name"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = repr(error)
    raise RecipeError(f"{index}: no index of weights ({problem}); copy it again")
