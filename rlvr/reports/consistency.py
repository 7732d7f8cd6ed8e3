"""The report of several runs from one base: did they move the same weights?"""

from collections.abc import Mapping, Sequence
from typing import Any

from rlvr.geometry.consistency import COLUMNS
from rlvr.geometry.matrix import Measured
from rlvr.geometry.table import EMPTY
from rlvr.plots import geometry as draw
from rlvr.plots.theme import THEMES, ordered_kinds, png
from rlvr.reports import pages
from rlvr.reports.geometry import exemplars, short_name
from rlvr.reports.geometry_words import percent

_POINT = 0.01  # a difference of Jaccard indices that is worth a sentence
READING = {
    "agreement": {
        "What you see": "The Jaccard index, a mean over pairs of runs: both moved / at least one "
        "moved. Bar: independent runs. Diamond: runs that have only the size of each weight in "
        "common (bf16 shows a change of a small weight sooner).",
        "What to look for": "A dot far right of bar and diamond: the runs pick the same weights, "
        "so the choice belongs to the base model, not to the run or to the number format.",
        "Random": "Dot on the diamond.",
    },
    "stripes": {
        "What you see": "One matrix: how many of the runs moved an entry (0 to 100 %), averaged "
        "over each row and each column.",
        "What to look for": "Rows or columns far above the grey band, which all runs work on, or "
        "far below it, which none touches.",
        "Random": "Dots inside the grey band.",
    },
}
TITLES = {"agreement": "Do the runs agree?", "stripes": "Where do they agree?"}


def figures(measured: Sequence[Measured], summary: Mapping[str, Any]) -> dict:
    # One matrix stands for the others; the table has all of them.
    chosen = exemplars(measured)[0]
    vectors = {key: value.numpy() for key, value in chosen.vectors.items()}
    shape = (chosen.row["rows"], chosen.row["cols"])
    plans = {
        "agreement": draw.agreement_figure(summary["by_kind"], summary["all"]),
        "stripes": draw.stripes_figure(short_name(chosen.row), shape, vectors, chosen.row["runs"]),
    }
    return {
        name: {theme: png(how, size, colors) for theme, colors in THEMES.items()}
        for name, (how, size) in plans.items()
    }


def verdict(total: Mapping[str, Any]) -> str:
    """Return the finding in two plain sentences."""
    jaccard, chance = total["jaccard"], total["jaccard_random"]
    rounding = total["jaccard_rounding"]
    if jaccard is None:
        return "None of the runs moved a weight visibly in bf16, so there is nothing to agree on."
    low, high = total["jaccard_from"], total["jaccard_to"]
    if high < min(chance, rounding):
        lead = "The runs avoid each other's weights"
    elif low > max(chance, rounding) and jaccard - rounding >= _POINT:
        lead = "The runs move the same weights more often than chance and rounding explain"
    elif low > chance:
        lead = "The runs move the same weights no more often than rounding to bf16 explains"
    else:
        lead = "The runs move the same weights about as often as by chance"
    return (
        f"{lead}: a Jaccard index of {jaccard:.3f} [{low:.3f}, {high:.3f}] where "
        f"independent runs would have {chance:.3f}, and {rounding:.3f} with only rounding in "
        f"common. "
        f"{percent(total['moved_in_all'])} of the weights moved in every run (independent: "
        f"{percent(total['moved_in_all_random'])}), {percent(total['moved_in_none'])} in none "
        f"(independent: {percent(total['moved_in_none_random'])})."
    )


def build(measured: Sequence[Measured], summary: Mapping[str, Any], images: dict) -> str:
    """Return the HTML of the report."""
    parts = [pages.paragraph(verdict(summary["all"]), "lead")]
    for name, reading in READING.items():
        parts += [pages.heading(TITLES[name]), pages.figure(images[name], TITLES[name], reading)]
    kinds = ordered_kinds(list(summary["by_kind"]))
    lines = [("all", summary["all"]), *((kind, summary["by_kind"][kind]) for kind in kinds)]
    # By position: the table of the page and the CSV share one order of columns.
    keys = list(COLUMNS)[6:]  # after the place of a matrix and the number of runs
    rows = [[(name, None), *(_cell(row[key]) for key in keys)] for name, row in lines]
    titles = [key.replace("_", " ") for key in keys]
    parts += [pages.heading("Numbers"), pages.table(["matrices", *titles], rows)]
    rows = [[(m.row["name"], None), *(_cell(m.row[key]) for key in keys)] for m in measured]
    inside = pages.table(["matrix", *titles], rows)
    parts.append(pages.details(f"All {len(rows)} matrices (click a title to sort)", inside))
    rows = [[(key, None), (unit, None), (words, None)] for key, (unit, words) in COLUMNS.items()]
    inside = pages.paragraph(EMPTY) + pages.table(["column", "unit", "formula"], rows, kind="text")
    parts.append(pages.details("Definitions of every column of consistency.csv", inside))
    subtitle = f"{summary['base']}  →  {', '.join(summary['runs'])}"
    return pages.page("Do the runs move the same weights?", subtitle, parts)


def _cell(value: float | None) -> tuple[str, float | None]:
    # NaN too: it is the only value that differs from itself.
    return ("-", None) if value is None or value != value else (f"{value:.3g}", value)
