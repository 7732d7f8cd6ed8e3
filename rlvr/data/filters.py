"""Which rows are kept: length, difficulty, duplicates, overlap with benchmarks; and their order.

Every filter says which rows it dropped; none depends on the order of another run.
"""

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from rlvr.data.rows import Loaded, Row
from rlvr.schema import RecipeError

_WORD = re.compile(r"\w+")
SHORT = 8  # words of a benchmark problem that is looked for inside a longer one


def normalise(text: str) -> str:
    """Return ``text`` as duplicates are compared: NFKC, case and white space folded."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def keep_where(loaded: Loaded, reason: str, test: Callable[[Row], bool]) -> None:
    """Drop the rows that fail ``test``."""
    kept = []
    for row in loaded.rows:
        if test(row):
            kept.append(row)
        else:
            loaded.drop(reason, row["id"])
    loaded.rows = kept


def read_pass_rates(path: str, where: str) -> dict[str, float]:
    """Read ``{"id": …, "pass_rate": …}`` lines; rates are in [0, 1]."""
    file = Path(path)
    if not file.is_file():
        raise RecipeError(f"{where}.pass_rates: {path} does not exist; check the path")
    rates = {}
    with open(file, encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            try:
                content = json.loads(line)
                rate = content["pass_rate"]
                # A chained comparison with NaN is false, so NaN is refused too.
                if isinstance(rate, bool) or not 0 <= rate <= 1:
                    raise ValueError(f"a rate of {rate!r}")
                rates[str(content["id"])] = float(rate)
            except (ValueError, KeyError, TypeError) as error:
                raise RecipeError(
                    f"{path}, line {number}: expected {{'id': …, 'pass_rate': 0 to 1}} ({error})"
                ) from error
    return rates


def keep_difficulty(loaded: Loaded, path: str, low: float, high: float, where: str) -> None:
    """Keep the rows with a measured pass rate in [``low``, ``high``]."""
    rates = read_pass_rates(path, where)
    # None at all: the file is of other rows. Some missing ones are merely dropped.
    if loaded.rows and not any(row["id"] in rates for row in loaded.rows):
        raise RecipeError(
            f"{where}.pass_rates: {path} has none of the ids of the rows, such as "
            f"{loaded.rows[0]['id']!r}; measure the rates on these rows"
        )
    keep_where(loaded, "no pass rate", lambda row: row["id"] in rates)
    keep_where(loaded, "too hard", lambda row: rates[row["id"]] >= low)
    keep_where(loaded, "too easy", lambda row: rates[row["id"]] <= high)


def drop_duplicates(loaded: Loaded) -> None:
    """Keep the first row of each problem; a repeat with another answer has a reason of its own."""
    answers: dict[str, str] = {}
    kept = []
    for row in loaded.rows:
        problem, answer = normalise(row["problem"]), normalise(row["answer"])
        if problem not in answers:
            answers[problem] = answer
            kept.append(row)
        elif answers[problem] == answer:
            loaded.drop("duplicate", row["id"])
        else:
            loaded.drop("duplicate with another answer", row["id"])
    loaded.rows = kept


def require_distinct(rows: Iterable[Row], where: str) -> None:
    """Raise where two rows have one id: reports and pass rates name rows by it."""
    problems: dict[str, str] = {}
    for row in rows:
        other = problems.get(row["id"])
        problems[row["id"]] = row["problem"]
        if other is not None:
            same = normalise(other) == normalise(row["problem"])
            fix = "deduplicate: true drops one" if same else "name another column in columns.id"
            raise RecipeError(f"{where}: two rows have the id {row['id']!r}; {fix}")


def drop_overlaps(loaded: Loaded, benchmarks: dict[str, list[str]], ngram: int) -> None:
    """Drop the rows that share a problem, or ``ngram`` words in a row, with a benchmark.

    Words are compared in lower case, without punctuation and signs (Brown et al. 2020, appendix C,
    with 13 words); a shorter problem of at least ``SHORT`` words is found as a whole. A phrase that
    several problems of a benchmark share ("where m and n are relatively prime positive integers,
    find m + n") is no overlap, unless the row shares half of such a problem.
    """
    for name, problems in benchmarks.items():
        # `index=index` below binds this benchmark now: lambdas look names up when called.
        index = _Benchmark(problems, ngram)
        keep_where(loaded, f"overlaps {name}", lambda row, index=index: not index.shares(row))


@dataclass(frozen=True)
class Overlap:
    """A row that holds problems of a benchmark: ``exact`` the whole text, else n-grams of it."""

    row: str
    problems: tuple[str, ...]
    exact: bool


def overlaps(rows: Iterable[Row], benchmark: Iterable[Row], ngram: int) -> list[Overlap]:
    """Return the rows that share a problem, or ``ngram`` words in a row, with a benchmark."""
    ids: dict[str, list[str]] = {}
    for problem in benchmark:
        ids.setdefault(normalise(problem["problem"]), []).append(problem["id"])
    index, overlapping = _Benchmark(list(ids), ngram), []
    for row in rows:
        exact = row["problem"] in index
        texts = {normalise(row["problem"])} if exact else index.shared_by(row)
        if texts:
            named = sorted(id for text in texts for id in ids[text])
            overlapping.append(Overlap(row["id"], tuple(named), exact))
    return overlapping


class _Benchmark:
    """The n-grams of a benchmark's problems, and which problems own each."""

    def __init__(self, problems: list[str], ngram: int) -> None:
        self.texts = {normalise(problem) for problem in problems}
        self.order = sorted(self.texts)
        self.owners: dict[tuple[str, ...], set[int]] = {}
        self.sizes: list[int] = []
        self.lengths = {ngram}
        for index, text in enumerate(self.order):
            words = words_of(text)
            # A short problem is one n-gram of its own length; below SHORT words it has none.
            length = ngram if len(words) >= ngram else max(len(words), SHORT)
            # Every row is then cut into n-grams of each of these lengths.
            self.lengths.add(length)
            grams = set(ngrams(words, length))
            self.sizes.append(len(grams))
            for gram in grams:
                self.owners.setdefault(gram, set()).add(index)

    def shares(self, row: Row) -> bool:
        return row["problem"] in self or bool(self.shared_by(row))

    def __contains__(self, problem: str) -> bool:
        return normalise(problem) in self.texts

    def shared_by(self, row: Row) -> set[str]:
        """Return the problems, normalised, of which the row holds an n-gram."""
        words, shared, single = words_of(row["problem"]), Counter(), set()
        for length in self.lengths:
            for gram in set(ngrams(words, length)):
                owners = self.owners.get(gram, ())
                shared.update(owners)
                # An n-gram of one problem only: that problem is in the row.
                single.update(owners if len(owners) == 1 else ())
        # A phrase that several problems share counts only as half of one of them.
        half = {index for index, count in shared.items() if 2 * count >= self.sizes[index]}
        return {self.order[index] for index in half | single}


def words_of(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def ngrams(words: list[str], length: int) -> Iterable[tuple[str, ...]]:
    """Return every ``length`` words in a row."""
    return zip(*(words[start:] for start in range(length)), strict=False)


def shuffled(rows: list[Row], seed: int) -> list[Row]:
    """Return the rows in an order that the seed and the ids fix, whatever order they came in."""

    def key(row: Row) -> bytes:
        # A hash per row, not a shuffle: the order of the rest survives added or dropped rows.
        return hashlib.sha256(f"{seed}:{row['id']}".encode("utf-8", "surrogatepass")).digest()

    return sorted(rows, key=key)
