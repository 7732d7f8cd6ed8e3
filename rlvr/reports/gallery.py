"""One page of several geometry results: a table to compare them by, with links to their reports."""

from collections.abc import Mapping

from rlvr.reports import pages
from rlvr.reports.geometry_words import PRINCIPAL, Summary, headline_numbers, verdict

_INTRO = (
    "Each line compares the weight matrices of one language model before and after training. The "
    "files of some were stored in other ways, so that only the verdicts are comparable throughout, "
    "not every share."
)


def build(summaries: Mapping[str, Summary]) -> str:
    """Return the HTML of the page; ``summaries`` are by the folder of each result."""
    titles = [
        "result",
        "unchanged in bf16",
        "principal, not small",
        "verdict",
        "largest turn",
        "shift",
    ]
    rows = []
    for folder, summary in summaries.items():
        numbers = [number for number, _ in headline_numbers(summary)]
        word = summary["all"]["verdict"] or "none"
        cells = [folder, numbers[0], numbers[1], word, numbers[2], numbers[3]]
        rows.append([(cell, None) for cell in cells])
    parts = [pages.paragraph(_INTRO, "lead"), pages.paragraph(PRINCIPAL), pages.table(titles, rows)]
    for folder, summary in summaries.items():
        parts.append(pages.heading(f"{summary['base']}  →  {summary['tuned']}"))
        parts.append(pages.badges(summary["storage"]))
        parts.append(pages.paragraph(verdict(summary)))
        parts.append(pages.links({f"{folder}/report.html": "report", f"{folder}/card.png": "card"}))
    return pages.page("Where updates went", f"{len(summaries)} results of rlvr geometry", parts)
