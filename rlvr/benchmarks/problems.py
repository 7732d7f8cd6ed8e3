"""From the names on a command line to benchmarks that are loaded, checked and can be judged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.benchmarks.presets import BENCHMARKS, GYM, PRESETS, Benchmark, gym_benchmark, settings_for
from rlvr.config import EvalSettings
from rlvr.data import DataSpec, Row, load_prepared, parse_dataset, prompt_tokenizer
from rlvr.eval import Task
from rlvr.provenance import rows_digest, tokenizer_digest
from rlvr.registry import dataset
from rlvr.rewards import RewardCall, check_columns, parse_reward
from rlvr.schema import RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SAME_NUMBERS = ("samples", "batch_size", "seed")  # other draws of the same numbers
DEFAULT_PRESET = "deepscaler"
RESERVED = ("base", "final", "summary", "report")  # names of other files of RUN/eval


@dataclass(frozen=True)
class Chosen:
    """What the user asked for: a preset and the single settings that replace some of it.

    ``prompt``, ``system`` and ``prefill`` are those of a data section.
    """

    preset: str = DEFAULT_PRESET
    settings: Mapping[str, Any] | None = None
    prompt: str | None = None
    system: str | None = None
    prefill: str | None = None
    verifier: str | None = None

    @property
    def label(self) -> str:
        """The preset with what replaces some of it: other settings make other numbers."""
        given = {**(self.settings or {}), "prompt": self.prompt, "system": self.system}
        given |= {"prefill": self.prefill, "verifier": self.verifier}
        changed = [f"{k} {v}" for k, v in given.items() if v is not None and k not in _SAME_NUMBERS]
        return f"{self.preset} with {', '.join(changed)}" if changed else self.preset


@dataclass(frozen=True)
class LoadedBenchmark:
    """A benchmark with its problems, settings and verifier."""

    name: str
    data: DataSpec
    rows: list[Row]
    verifier: RewardCall
    settings: EvalSettings

    @property
    def task(self) -> Task:
        return Task(self.rows, self.data.render, self.verifier.verdicts)

    def tokenizer(
        self, tokenizer: "PreTrainedTokenizerBase", template_kwargs: Mapping[str, Any]
    ) -> "PreTrainedTokenizerBase":
        """Return ``tokenizer`` with the chat template that renders the prompts."""
        prefill = self.data.shared["prefill"]
        return prompt_tokenizer(tokenizer, prefill, template_kwargs, f"benchmark {self.name}")

    def facts(self, tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
        """Return what decides a completion and its verdict, apart from the policy."""
        shared = self.data.shared
        return {
            "benchmark": self.name,
            "source": self.data.name,
            "revision": self.data.source.get("revision"),
            # Sorted: the order of the problems makes no difference.
            "rows_sha256": rows_digest(sorted(self.rows, key=lambda row: row["id"])),
            "prompt": [shared["prompt"], shared["system"]],
            "tokenizer": tokenizer_digest(tokenizer),
            "verifier": {"name": self.verifier.name, **self.verifier.options},
        }


def load_benchmarks(
    names: Sequence[str],
    files: Sequence[Path],
    options: Mapping[str, Mapping[str, Any]],
    chosen: Chosen,
) -> list[LoadedBenchmark]:
    """Load the named benchmarks and the local files.

    Args:
        names: of ``BENCHMARKS``, a task as ``reasoning_gym/TASK``, or a registered dataset.
        files: local JSONL or parquet files with the columns ``problem`` and ``answer``.
        options: of the datasets, by name, such as ``{"aime24": {"path": "aime24.jsonl"}}``.
        chosen: preset and settings.

    Raises:
        RecipeError: a name is unknown, the problems cannot be read, or their number is wrong.
    """
    named = [(name, _benchmark(name)) for name in names]
    for file in files:
        kind = "parquet" if file.suffix == ".parquet" else "jsonl"
        named.append((file.stem, Benchmark({"name": kind, "path": str(file)})))
    known = [name for name, _ in named]
    for name in known:
        if known.count(name) > 1:
            raise RecipeError(f"benchmark {name}: stands there twice; keep one")
        if name in RESERVED or "/" in name.removeprefix(GYM):
            raise RecipeError(f"benchmark {name}: the name is that of another file; rename it")
    for name in options:
        if name not in known:
            raise RecipeError(f"{name}: no benchmark of this call; it has {', '.join(known)}")
    return [_load(name, one, options.get(name, {}), chosen) for name, one in named]


def load_benchmark_rows(name: str) -> list[Row]:
    """Return the problems of a benchmark by its name, or of a local file."""
    path = Path(name)
    known = Benchmark({"name": "jsonl", "path": name}) if path.suffix else _benchmark(name)
    return _load(name, known, {}, Chosen()).rows


def _benchmark(name: str) -> Benchmark:
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    if name.startswith(GYM):
        return gym_benchmark(name.removeprefix(GYM))
    if name in dataset.functions:  # a plugin's, or a training set
        return Benchmark({"name": name})
    own = ", ".join([*BENCHMARKS, f"{GYM}TASK"])
    raise RecipeError(f"--benchmark {name}: unknown; known are {own}, or --data FILE")


def _load(
    name: str, benchmark: Benchmark, options: Mapping[str, Any], chosen: Chosen
) -> LoadedBenchmark:
    where = f"benchmark {name}"
    shared = {"prompt": chosen.prompt or benchmark.prompt or PRESETS[chosen.preset].prompt}
    shared |= {k: v for k in ("system", "prefill") if (v := getattr(chosen, k)) is not None}
    spec = parse_dataset({**benchmark.data, **shared, **options}, where)
    rows = load_prepared(spec, where).rows
    # A part of a benchmark, asked for by an option, has no published number of problems.
    whole = not {"size", "limit", "split", "keep"} & options.keys()
    if whole and benchmark.count not in (None, len(rows)):
        raise RecipeError(
            f"{where}: has {len(rows)} problems and should have {benchmark.count}; another copy "
            "is not comparable"
        )
    verifier = parse_reward({"name": chosen.verifier or benchmark.verifier}, "--verifier")
    check_columns([verifier], rows[0])
    settings = settings_for(chosen.preset, name, benchmark, chosen.settings or {})
    return LoadedBenchmark(name.replace("/", "-"), spec, rows, verifier, settings)
