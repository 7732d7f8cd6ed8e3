"""The report of two checkpoints: what happened to the weights, in words, figures and tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlvr.geometry.findings import MASK, null_range
from rlvr.geometry.matrix import Measured
from rlvr.geometry.settings import ANGLE_RANK
from rlvr.geometry.table import COLUMNS, EMPTY, W
from rlvr.plots import geometry as draw
from rlvr.plots.theme import THEMES, Draw, ordered_kinds, png
from rlvr.reports import pages
from rlvr.reports.geometry_words import (
    PRINCIPAL,
    Summary,
    alternatives,
    headline_numbers,
    largest_angle,
    opening,
    percent,
    short,
    verdict,
)

EXEMPLARS = ("q_proj", "o_proj", "down_proj")

READING: dict[str, dict[str, str]] = {
    "overlap": {
        "What you see": "The share of the moved entries that lies in a mask of the base weights. "
        "Dot with its 95 % interval: this update. Bar: random places (the size of the mask). "
        "Diamonds: what an update that does not know the weights shows, one for each plausible way "
        "in which the run stored them.",
        "What to look for": "A dot with its interval left of the bar and of all diamonds: the "
        "update avoids these weights. Right of all: it seeks them.",
        "Random": "Dot among the diamonds. They may differ from the bar: bf16 rounds small updates "
        "of large weights away, so any update seems to prefer small weights.",
    },
    "sparsity": {
        "What you see": "The share of entries of each matrix that are the same bf16 number before "
        "and after: an average where a block has several matrices of a kind.",
        "What to look for": "Blocks or kinds of matrices that training did not touch, or one that "
        "did most of the work.",
        "Random": "One even colour. Matrices with larger weights are an exception: there an update "
        "of the same size is rounded away more often.",
    },
    "angles": {
        "What you see": "How far the space of the strongest directions of each matrix turned: the "
        "largest angle between before and after.",
        "What to look for": "Below a degree or so the matrix still reads and writes the same main "
        "directions. Tens of degrees: some of them were replaced.",
        "Random": "The dotted line: an update with the same singular values in random places. "
        "Solid below dotted: the update turns them less than its size by itself would.",
    },
    "spectra": {
        "What you see": "Above, the singular values of a few matrices before and after, one on the "
        "other. Below, by how much each changed.",
        "What to look for": "Two curves that cannot be told apart: training rotated and nudged, "
        "and did not rescale. A bump at the left: the strongest directions were amplified.",
        "Random": "The grey line below: an update with the same singular values in random places.",
    },
    "stripes": {
        "What you see": "One matrix: the share of entries that moved in each row and each column.",
        "What to look for": "Stripes: runs of rows or columns far outside of the grey band. They "
        "mark the outputs or inputs that training worked on.",
        "Random": "Dots inside the grey band, without a trend.",
    },
}
# Beside the page, by what they are.
FILES = {
    "card.png": "the four numbers as a picture",
    "matrices.csv": "all matrices as CSV",
    "matrices.columns.json": "units and formulas",
    "summary.json": "summary as JSON",
}
TITLES = {
    "overlap": "Which weights moved?",
    "sparsity": "Where in the network?",
    "angles": "Did the main directions turn?",
    "spectra": "Did the strengths change?",
    "stripes": "Is there a pattern inside a matrix?",
}


def figures(measured: Sequence[Measured], summary: Summary) -> dict[str, dict[str, bytes]]:
    """Return the figures as PNG by name and theme."""
    rows = [item.row for item in measured]
    plans: dict[str, tuple[Draw, tuple]] = {
        "overlap": draw.overlap_figure(summary["by_kind"], summary["all"]),
        "sparsity": draw.sparsity_figure(rows),
        "angles": draw.angles_figure(rows),
    }
    # A few matrices: spectra of all of them would be unreadable.
    chosen = exemplars(measured)
    names = [short_name(item.row) for item in chosen]
    vectors = [{key: value.numpy() for key, value in item.vectors.items()} for item in chosen]
    plans["spectra"] = draw.spectra_figure(names, vectors)
    shape = (chosen[0].row["rows"], chosen[0].row["cols"])
    plans["stripes"] = draw.stripes_figure(names[0], shape, vectors[0])
    about = f"{_end_of(summary['base'])} → {_end_of(summary['tuned'])}"
    plans["card"] = draw.card_figure(about, headline_numbers(summary))
    return {
        name: {theme: png(how, size, colors) for theme, colors in THEMES.items()}
        for name, (how, size) in plans.items()
    }


def _end_of(path: str) -> str:
    return "/".join(path.rstrip("/").split("/")[-2:])


def exemplars(measured: Sequence[Measured]) -> list[Measured]:
    """Return up to three matrices of the middle block, the query projection first."""
    # The middle block stands for the others: the first and the last are often unlike them.
    layers = sorted({m.row["layer"] for m in measured if m.row["layer"] is not None})
    middle = layers[len(layers) // 2] if layers else None
    own = [m for m in measured if m.row["layer"] == middle] or list(measured)
    kinds = {m.row["kind"]: m for m in reversed(own)}  # reversed: the first of a kind stays
    order = [kind for kind in EXEMPLARS if kind in kinds]
    # Families with other names of projections show their first kinds.
    order += [kind for kind in ordered_kinds(list(kinds)) if kind not in order]
    return [kinds[kind] for kind in order[:3]]


def short_name(row: Mapping[str, Any]) -> str:
    return row["kind"] if row["layer"] is None else f"block {row['layer']}, {row['kind']}"


def build(measured: Sequence[Measured], summary: Summary, images: dict, extra: str = "") -> str:
    """Return the HTML of the report; ``extra`` comes after the first numbers."""
    alt = alternatives([item.row for item in measured], summary)
    parts = [
        pages.paragraph(opening(summary), "lead"),
        pages.badges(summary["storage"]),
        pages.paragraph(verdict(summary), "lead"),
        pages.paragraph(PRINCIPAL),
        _headline(summary),
        pages.links(FILES),
        _repeat(summary),
        extra,
    ]
    for name, reading in READING.items():
        parts.append(pages.heading(TITLES[name]))
        parts.append(pages.figure(images[name], alt[name], reading))
    parts += [pages.heading("Numbers"), _by_kind(summary), _matrices(measured)]
    parts.append(_definitions(summary))
    subtitle = f"{summary['base']}  →  {summary['tuned']}"
    return pages.page("Where the update went", subtitle, parts)


def _repeat(summary: Summary) -> str:
    made = f"Measured on {summary['date']} with rlvr {summary['rlvr']}. The command repeats it."
    lines = [verdict(summary), summary["command"], f"rlvr {summary['rlvr']}, {summary['date']}"]
    return pages.repeat(summary["command"], made, "\n".join(lines))


def steps_part(steps: Sequence[Mapping[str, Any]]) -> str:
    """Return the sparsities of a run's checkpoints as a part of the page."""
    if not steps:
        return ""
    rows = []
    for row in steps:
        since = "base" if row["previous_step"] is None else f"step {row['previous_step']}"
        shares = (row["sparsity_bf16"], row["sparsity_bf16_from_previous"])
        cells = [(str(row["step"]), float(row["step"])), (percent(shares[0], 2), shares[0])]
        rows.append([*cells, (percent(shares[1], 2), shares[1]), (since, None)])
    titles = ["step", "unchanged since the base", "unchanged since …", "…"]
    words = (
        "Share of the target entries with the same bf16 value. Between two neighbouring "
        "checkpoints almost nothing moves, and what moved may move back. Only the first column "
        "says how sparse the whole update is."
    )
    return pages.heading("Over the run") + pages.paragraph(words) + pages.table(titles, rows)


def _headline(summary: Summary) -> str:
    total = summary["all"]
    low, high = null_range(total, MASK)
    dtypes = ", ".join(summary["dtypes"])
    whole = summary["settings"]["targets"] == ["linear"]
    ranks = summary["angle_ranks"]
    at = f"k = {ranks[0]}" if len(ranks) == 1 else f"k = {ranks[0]} to {ranks[-1]} by its size"
    # A published number is a comparison only under the settings that it was measured with.
    same_angles = whole and summary["settings"]["exact"] and ranks == [ANGLE_RANK]
    details = [
        f" (files store {dtypes}); {percent(total['sparsity_exact'])} as stored",
        "",
        f" ({at})",
        "",
    ]
    against = [
        "Published, whole models: RL 36 to 92 %, supervised fine-tuning 1 to 19 %" * whole,
        f"Random places {percent(total[f'{MASK}_random'])}; knowing no weights {percent(low)} to "
        f"{percent(high)}, by how the files were stored",
        "Published at this k: RL below 0.5°, supervised fine-tuning above 10°" * same_angles,
        "Published: RL about 1e-5, supervised fine-tuning 1e-3 to 1e-1" * whole,
    ]
    numbers = headline_numbers(summary)
    return pages.cards(
        [
            (number, what + detail, other)
            for (number, what), detail, other in zip(numbers, details, against, strict=True)
        ]
    )


def _by_kind(summary: Summary) -> str:
    kinds = ordered_kinds(list(summary["by_kind"]))
    lines = [("all", summary["all"]), *((kind, summary["by_kind"][kind]) for kind in kinds)]
    titles = ["matrices", "count", "unchanged (bf16)", "in principal", "random", "rounding",
              "in smallest", "random", "rounding", "energy outside top directions", "random",
              "mean shift", "largest angle"]  # fmt: skip
    rows = []
    for name, row in lines:
        angle = largest_angle(row)
        shares = ["sparsity_bf16"]
        shares += [f"overlap_{mask}{end}" for mask in ("principal", "low") for end in _ENDS]
        shares += ["energy_off_principal", "energy_off_principal_random"]
        cells = [(name, None), (str(row["matrices"]), float(row["matrices"]))]
        # The text for the eye, the number for sorting.
        cells += [(percent(row[key]), row[key]) for key in shares]
        cells += [
            (short(row["mean_nss"], ".1e"), row["mean_nss"]),
            (short(angle, ".2g", "°"), angle),
        ]
        rows.append(cells)
    return pages.table(titles, rows)


_ENDS = ("", "_random", "_null")
_MATRIX_COLUMNS = {
    "sparsity_bf16": "unchanged (bf16)",
    "sparsity_exact": "unchanged (stored)",
    "nss": "shift",
    "max_angle_left_deg": "angle left",
    "max_angle_right_deg": "angle right",
    "energy_off_principal": "energy outside",
    "overlap_principal": "in principal",
    "overlap_low": "in smallest",
    "overlap_principal_not_low": "principal, not small",
    "row_spread": "row stripes (1 is random)",
    "col_spread": "column stripes",
    "relative_update": "relative size",
}


def _matrices(measured: Sequence[Measured]) -> str:
    rows = []
    for item in measured:
        cells: list[tuple[str, float | None]] = [(item.row["name"], None)]
        for key in _MATRIX_COLUMNS:
            value = item.row[key]
            # value != value is true only for NaN.
            if value is None or value != value:
                cells.append(("-", None))
            elif COLUMNS[key][0] == "share":
                cells.append((percent(value), value))
            else:
                cells.append((f"{value:.3g}", value))
        rows.append(cells)
    inside = pages.table(["matrix", *_MATRIX_COLUMNS.values()], rows)
    return pages.details(f"All {len(rows)} matrices (press a title to sort)", inside)


def _definitions(summary: Summary) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in summary["settings"].items())
    rows = [[(key, None), (unit, None), (words, None)] for key, (unit, words) in COLUMNS.items()]
    inside = (
        pages.paragraph(f"{W}. {EMPTY}")
        + pages.paragraph(f"Settings: {settings}.")
        + pages.table(["column", "unit", "formula"], rows, kind="text")
    )
    notes = pages.paragraph(
        f"Measured on {summary['all']['matrices']} matrices with {summary['all']['entries']:,} "
        f"entries; {summary['left_out']} other tensors of the base checkpoint (embeddings, norms, "
        "biases, or outside of the targets) were left out. Principal weights: the largest entries "
        "of the part of W0 that its strongest directions make. Published values: arXiv 2511.08567 "
        "and 2606.07082."
    )
    return notes + pages.details("Definitions of every column of matrices.csv", inside)
