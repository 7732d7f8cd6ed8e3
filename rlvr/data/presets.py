"""Datasets that recipes name, as a table: where each is on the hub and what its columns are.

With ``path:`` each reads a local file instead: of the hub's columns, or already in the row schema.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from rlvr.data.datasets import hub_rows, read_local
from rlvr.data.rows import Extract, Loaded, Reading, read_records
from rlvr.registry import dataset
from rlvr.schema import RecipeError


@dataclass(frozen=True)
class Preset:
    """One dataset; ``count`` is the number of its problems where that is checked.

    ``folder`` is where its files are in a repository of several datasets without configurations.
    ``solution`` is the column of its worked solutions, where that has another name; a copy without
    it reads as well.
    """

    hub: str
    split: str
    columns: Mapping[str, str] = field(default_factory=dict)
    config: str | None = None
    folder: str | None = None
    extract: Extract = "text"
    keep: Mapping[str, list[Any]] = field(default_factory=dict)
    joins: bool = False
    count: tuple[int, ...] = ()
    solution: str | None = None


_QUESTION = {"problem": "question"}
PRESETS = {
    "deepscaler": Preset("agentica-org/DeepScaleR-Preview-Dataset", "train"),
    "simplerl": Preset(
        "hkust-nlp/SimpleRL-Zoo-Data",
        "train",
        {"problem": "question", "answer": "gt_answer"},
        folder="simplelr_qwen_level3to5",
        keep={"level": [3, 4, 5]},
    ),
    "dapo_math_17k": Preset(
        "open-r1/DAPO-Math-17k-Processed",
        "train",
        {"problem": "prompt", "answer": "solution", "id": "extra_info.index"},
        config="all",  # the 17 k; some are in Chinese, which "en" leaves out
    ),
    "deepmath_103k": Preset(
        "zwhe99/DeepMath-103K",
        "train",
        {"problem": "question", "answer": "final_answer"},
        solution="r1_solution_1",
    ),
    "hendrycks_math": Preset(
        "DigitalLearningGmbH/MATH-lighteval",
        "train",
        {"answer": "solution"},
        config="default",
        extract="boxed",
        count=(7500,),
    ),
    "gsm8k": Preset("openai/gsm8k", "train", _QUESTION, config="main", extract="auto"),
    "math500": Preset("HuggingFaceH4/MATH-500", "test", {"id": "unique_id"}, count=(500,)),
    "aime24": Preset("HuggingFaceH4/aime_2024", "train", count=(30,)),
    "aime25": Preset("math-ai/aime25", "test", count=(30,)),
    "amc23": Preset("math-ai/amc23", "test", _QUESTION, count=(40,)),
    "olympiadbench": Preset(
        "Hothan/OlympiadBench",
        "train",
        {"problem": "question", "answer": "final_answer"},
        config="OE_TO_maths_en_COMP",
        count=(674, 675),
        joins=True,
    ),
    "minerva": Preset("math-ai/minervamath", "test", _QUESTION, count=(272,)),
}


def _loader(name: str, preset: Preset) -> Callable[..., Loaded]:
    def load(
        *,
        path: str | None = None,
        split: str = preset.split,
        revision: str | None = None,
        size: int | None = None,
    ) -> Loaded:
        if path is None:
            records = hub_rows(preset.hub, split, preset.config, revision, preset.folder)
        elif revision is not None:
            raise RecipeError(f"data.revision: {path} is a local file; remove one of the two")
        else:
            records = read_local(path)
        # The first record tells which columns this copy has; `chain` puts it back below.
        first = next(records, None)
        columns = dict(preset.columns)
        solution = preset.solution
        if solution is not None and first is not None and solution in first[1]:
            columns["solution"] = solution
        reading = Reading(columns, preset.extract, preset.keep, preset.joins)
        if path is not None and first is not None and {"problem", "answer"} <= set(first[1]):
            kept = {key: v for key, v in preset.keep.items() if key in first[1]}
            # The copy is in our schema already: its answers were extracted when it was written.
            reading = Reading({}, "text" if preset.extract == "boxed" else preset.extract, kept)
        everything = chain([] if first is None else [first], records)
        loaded = read_records(everything, reading, name, size, path or f"data: {preset.hub}")
        # Only a whole default split has a known number of problems.
        whole = split == preset.split and size is None
        count = len(loaded.rows) + sum(map(len, loaded.dropped.values()))
        if preset.count and whole and count not in preset.count:
            raise RecipeError(
                f"data: {name} has {count} problems and should have "
                f"{' or '.join(map(str, preset.count))}; another copy is not comparable"
            )
        return loaded

    load.__name__ = name
    load.__doc__ = f"Rows of {preset.hub} ({preset.split})."
    return load


for _name, _preset in PRESETS.items():
    dataset(_loader(_name, _preset))
