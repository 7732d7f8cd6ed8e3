"""Settings under which published numbers were made; numbers of two presets never share a table."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlvr.config import EvalSettings


@dataclass(frozen=True)
class Preset:
    """How completions are drawn; ``samples`` by benchmark, ``others`` of each other problem."""

    temperature: float
    top_p: float
    max_new_tokens: int
    others: int
    samples: Mapping[str, int] = field(default_factory=dict)
    prompt: str = "boxed"


_LONG = 32768
# Sections 1 and 3 of the table in rlvr/eval/README.md say who uses which.
PRESETS = {
    "deepscaler": Preset(0.6, 0.95, _LONG, 16),
    "justrl": Preset(0.7, 0.9, 31744, 4, {"aime24": 32, "aime25": 32, "amc23": 32}),
    # The paper states no length; 32768 tokens cut off almost nothing.
    "paper": Preset(0.7, 0.8, _LONG, 2, {"aime24": 64, "aime25": 64, "amc23": 32, "math500": 2}),
    "greedy": Preset(0.0, 1.0, _LONG, 1),
}


@dataclass(frozen=True)
class Benchmark:
    """A data section, and the reward that judges its answers.

    ``prompt`` is the benchmark's own, where the policy reads no other.
    """

    data: Mapping[str, Any]
    verifier: str = "math"
    count: int | None = None
    prompt: str | None = None
    max_new_tokens: int | None = None


BENCHMARKS = {
    "aime24": Benchmark({"name": "aime24"}),
    "aime25": Benchmark({"name": "aime25"}),
    "amc23": Benchmark({"name": "amc23"}),
    "math500": Benchmark({"name": "math500"}),
    "minerva": Benchmark({"name": "minerva"}),
    "olympiadbench": Benchmark({"name": "olympiadbench"}),
    "gsm8k": Benchmark({"name": "gsm8k", "split": "test"}, count=1319),
    # Characters are its tokens: it knows no instruction, and its answers are short.
    "pocket": Benchmark(
        {"name": "pocket", "split": "test", "size": 512}, prompt="plain", max_new_tokens=40
    ),
}
GYM = "reasoning_gym/"  # before the name of a task of that package
_GYM_SIZE, _GYM_SEED = 100, 20_000  # apart from the seeds that recipes train on


def gym_benchmark(task: str) -> Benchmark:
    data = {"name": "reasoning_gym", "task": task, "size": _GYM_SIZE, "seed": _GYM_SEED}
    return Benchmark(data, "reasoning_gym")


def settings_for(
    preset: str, name: str, benchmark: Benchmark | None, chosen: Mapping[str, Any]
) -> EvalSettings:
    """Return the settings of a preset for one benchmark; ``chosen`` settings win."""
    known = PRESETS[preset]
    limit = benchmark and benchmark.max_new_tokens
    settings = EvalSettings(
        samples=known.samples.get(name, known.others),
        temperature=known.temperature,
        top_p=known.top_p,
        max_new_tokens=known.max_new_tokens if limit is None else limit,
        batch_size=64,
    )
    return dataclasses.replace(settings, **chosen)
