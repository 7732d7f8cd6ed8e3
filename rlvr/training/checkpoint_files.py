"""Every file of a checkpoint that is not weights is the base's own.

Trainer and TRL write the configuration and the tokenizer as the run changed them: without a cache,
with another padding token, with a prefill in the chat template, with other generation settings.
These belong to the run. A user of the checkpoint gets what the base came with.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from rlvr.files import write_json

CONFIG = "config.json"
# Weights, states of the run and the base's own history (README, trainer_state) are none of these.
_PATTERNS = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "chat_template*",
    "additional_chat_templates/*",
    "LICENSE*",
    "NOTICE*",
)


def _files(folder: Path) -> Iterator[Path]:
    for pattern in _PATTERNS:
        yield from (path for path in sorted(folder.glob(pattern)) if path.is_file())


def restore_files(base: Path, folder: Path, dtype: str | None = None) -> None:
    """Replace the tokenizer and settings that ``folder`` holds by those of ``base``, byte for byte.

    Only the dtype in ``config.json`` is the one of the stored weights: ``dtype``, or what is there.
    """
    for path in _files(folder):
        path.unlink()
    for path in _files(base):
        target = folder / path.relative_to(base)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    if (folder / CONFIG).is_file():
        stored = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        config = json.loads((base / CONFIG).read_text(encoding="utf-8"))
        config.pop("torch_dtype", None)  # the name that transformers gave it before version 5
        write_json(folder / CONFIG, {**config, "dtype": dtype or stored["dtype"]})
