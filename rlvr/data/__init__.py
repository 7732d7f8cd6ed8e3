"""Datasets in the one row schema: ``id, problem, answer, source``. Importing registers them."""

from rlvr.data import mix, presets
from rlvr.data.filters import Overlap, overlaps
from rlvr.data.prepare import DataSpec, load_prepared, load_rows, parse_dataset, require_files
from rlvr.data.prompts import generation_prompt, prompt_tokenizer, render, with_prefill
from rlvr.data.rows import Loaded, Row, plain_columns
from rlvr.data.solutions import demonstrations

__all__ = [
    "DataSpec",
    "Loaded",
    "Overlap",
    "Row",
    "demonstrations",
    "generation_prompt",
    "load_prepared",
    "load_rows",
    "mix",
    "overlaps",
    "parse_dataset",
    "plain_columns",
    "presets",
    "prompt_tokenizer",
    "render",
    "require_files",
    "with_prefill",
]
