"""The dataset ``mix``: several sources as one, each problem once, in given shares or whole."""

import math
from typing import Any

from rlvr.data.filters import drop_duplicates
from rlvr.data.prepare import DataSpec, load_source, parse_dataset
from rlvr.data.rows import Loaded, Row
from rlvr.registry import dataset
from rlvr.schema import RecipeError


@dataset
def mix(*, parts: list[dict[str, Any]], shares: list[float] | None = None) -> Loaded:
    """The rows of ``parts``, one part after the other, without a problem that an earlier part has.

    With ``shares`` s_i, which sum to 1, part i gives its first floor(s_i N) rows, N the largest for
    which every part has as many: N = min n_i / s_i. What each part left out is counted.
    """
    specs = _parse(parts, "data")
    sources = [_labelled(s, label) for s, label in zip(specs, _labels(specs), strict=True)]
    loaded = Loaded([row for source in sources for row in source.rows])
    for source in sources:
        for reason, identities in source.dropped.items():
            loaded.dropped.setdefault(reason, []).extend(identities)
        loaded.invalid |= source.invalid
    # Before the shares, so that a share counts problems that the mix really has.
    drop_duplicates(loaded)
    if shares is not None:
        # By identity: equal rows of two sources are still two rows.
        kept = set(map(id, loaded.rows))
        groups = [[row for row in source.rows if id(row) in kept] for source in sources]
        _keep_shares(loaded, groups, shares)
    return loaded


@dataset.checks_options("mix")
def _check_mix(options: dict[str, Any], where: str) -> None:
    count = len(_parse(options["parts"], where))
    if count < 2:
        raise RecipeError(f"{where}.parts: a mix needs at least two, got {count}")
    shares = options["shares"]
    if shares is None:
        return
    if len(shares) != count or min(shares) <= 0 or not math.isclose(sum(shares), 1.0):
        raise RecipeError(
            f"{where}.shares: need {count} above 0 that sum to 1, one for each part, got {shares}"
        )


def _parse(parts: list[dict[str, Any]], where: str) -> list[DataSpec]:
    """Return the checked parts; what is the same for all rows is the mix's to say."""
    specs = []
    for index, part in enumerate(parts):
        place = f"{where}.parts[{index}]"
        spec = parse_dataset(part, place)
        for key in part:
            if key != "name" and key not in spec.source:
                raise RecipeError(
                    f"{place}.{key}: applies to all rows of a mix; write it as {where}.{key}"
                )
        specs.append(spec)
    return specs


def _labels(specs: list[DataSpec]) -> list[str]:
    """Return the parts' names, numbered where several are alike; no path, for ids fix the order."""
    names = [spec.name for spec in specs]
    return [f"{n}{i}" if names.count(n) > 1 else n for i, n in enumerate(names)]


def _labelled(spec: DataSpec, label: str) -> Loaded:
    """Load a part; its ids get its label in front, since two parts may count their rows alike."""
    part = load_source(spec, "data")
    rows = [Row(**{**row, "id": f"{label}/{row['id']}"}) for row in part.rows]
    dropped = {
        reason: [f"{label}/{identity}" for identity in identities]
        for reason, identities in part.dropped.items()
    }
    return Loaded(rows, dropped, part.invalid)


def _keep_shares(loaded: Loaded, groups: list[list[Row]], shares: list[float]) -> None:
    total = min(len(rows) / share for rows, share in zip(groups, shares, strict=True))
    loaded.rows = []
    for rows, share in zip(groups, shares, strict=True):
        # The product of a share with its own quotient may fall a hair below the count.
        count = math.floor(share * total + 1e-9)
        loaded.rows += rows[:count]
        for row in rows[count:]:
            loaded.drop("beyond its share", row["id"])
