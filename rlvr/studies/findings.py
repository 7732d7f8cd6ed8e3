"""What a study found, in sentences that its numbers and their intervals bear."""

from collections.abc import Sequence

from rlvr.intervals import Estimate
from rlvr.studies.results import Cell, over_seeds
from rlvr.studies.spec import Study
from rlvr.studies.statistics import Difference

NAMED = 4  # arms that a sentence lists one by one
CHEAP = 2  # an arm gets a sentence of its own when the control has this many times its state
PRICED = 2  # such sentences


def sentences(study: Study, cells: Sequence[Cell]) -> list[str]:
    """Return what a reader may repeat: what the arms reach, at what price, and how sure that is."""
    priced = prices(study, cells)
    compared = [cell for cell in cells if "accuracy" in cell.differences]
    if compared:
        return [*priced, _differences(study, compared)]
    problems = [cell.over_problems.n for cell in cells if cell.over_problems is not None]
    if problems:
        caveat = (
            f"Each arm ran once: the intervals are over {min(problems)} problems, and another seed "
            "may change an arm by more."
        )
        return [*(priced or [_single_differences(study, cells)]), caveat]
    return [*priced, "No accuracy is compared yet: that takes a finished run of two arms."]


def prices(study: Study, cells: Sequence[Cell]) -> list[str]:
    """Return a sentence for arms with far less optimizer state than the control's, least first.

    At most ``PRICED`` arms, those that are not seen below the control; where every one is, the arm
    with the least state. A sweep has none: its cells are not told apart here.
    """
    control = next((cell for cell in cells if cell.arm == study.control), None)
    state = None if control is None else over_seeds(control, "optimizer_state_bytes")
    if control is None or not state or "accuracy" not in control.means or study.swept is not None:
        return []
    cheap = []
    for cell in cells:
        own = over_seeds(cell, "optimizer_state_bytes")
        if own and CHEAP * own <= state and "accuracy" in cell.means:
            cheap.append((own, cell))
    cheap.sort(key=lambda pair: pair[0])
    equal = [(own, cell) for own, cell in cheap if not _is_below(cell)]
    return [_price(cell, control, state / own) for own, cell in (equal or cheap[:1])[:PRICED]]


def _price(cell: Cell, control: Cell, ratio: float) -> str:
    density = over_seeds(cell, "density")
    if density is None:
        subject = f"{cell.name} reaches"
    else:
        subject = f"{100 * density:.2g} % of the weights ({cell.name}) reach"
    text = (
        f"{subject} {cell.means['accuracy'].mean:.1f} % where {control.name} reaches "
        f"{control.means['accuracy'].mean:.1f} %, with 1/{ratio:.0f} of its optimizer state"
    )
    # Below a factor of two the size is not worth the reader's memory.
    size, whole = (over_seeds(one, "checkpoint_bytes") for one in (cell, control))
    if size and whole and 2 * size <= whole:
        text += f" and a checkpoint of {100 * size / whole:.2g} % of its size"
    return f"{text}; {_strength(cell)}."


def _strength(cell: Cell) -> str:
    between = cell.differences.get("accuracy", cell.over_problems)
    if between is None:
        return "the two were not evaluated on the same problems"
    numbers = f"{between.mean:+.1f} points [{between.low:.1f}, {between.high:.1f}]"
    if _is_apart(between):
        return f"it is {'above' if between.mean > 0 else 'below'} by more than chance, {numbers}"
    return f"the difference of {numbers} may be chance"


def _is_below(cell: Cell) -> bool:
    between = cell.differences.get("accuracy", cell.over_problems)
    return between is not None and between.mean < 0 and _is_apart(between)


def _is_apart(between: Estimate | Difference) -> bool:
    # Over seeds the verdict is corrected for all comparisons; over problems the interval decides.
    if isinstance(between, Difference):
        return between.is_seen
    return not between.low <= 0 <= between.high


def _differences(study: Study, compared: Sequence[Cell]) -> str:
    seen = [cell for cell in compared if cell.differences["accuracy"].is_seen]
    if not seen:
        widths = [c.differences["accuracy"].high - c.differences["accuracy"].low for c in compared]
        return (
            f"No difference in accuracy from {study.control} is seen ({len(compared)} compared); "
            f"the narrowest interval is ± {min(widths) / 2:.1f} points."
        )
    rest = " The others cannot be told apart from it." if len(seen) < len(compared) else ""
    return (
        f"{len(seen)} of {len(compared)} comparisons with {study.control} "
        f"{'differs' if len(seen) == 1 else 'differ'} in accuracy: {_named(seen)}.{rest}"
    )


def _named(seen: Sequence[Cell]) -> str:
    """Return the arms and their differences; of more than ``NAMED`` arms the highest and lowest."""
    ordered = sorted(seen, key=lambda cell: -cell.differences["accuracy"].mean)
    words = [
        f"{cell.name} {'above' if cell.differences['accuracy'].mean > 0 else 'below'} by "
        f"{abs(cell.differences['accuracy'].mean):.1f} points"
        for cell in ordered
    ]
    return ", ".join(words) if len(words) <= NAMED else f"from {words[0]} to {words[-1]}"


def _single_differences(study: Study, cells: Sequence[Cell]) -> str:
    words = [
        f"{cell.name} {between.mean:+.1f} points [{between.low:.1f}, {between.high:.1f}]"
        for cell in cells
        if (between := cell.over_problems) is not None
    ]
    shown = words if len(words) <= NAMED else [*words[: NAMED - 1], f"and {len(words) - 3} more"]
    return f"Accuracy minus {study.control}'s: {', '.join(shown)}."
