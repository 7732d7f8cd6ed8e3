"""What a curvature measurement says, on a screen and in two figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlvr.plots import curvature as draw
from rlvr.plots.theme import LIGHT, png

Summary = Mapping[str, Any]


def figures(rows: Sequence[Mapping[str, Any]], summary: Summary) -> dict[str, bytes]:
    """Return the PNG of each figure by name."""
    images = {"curvature_masks": png(*draw.masks_figure(rows, summary["masks"]), LIGHT)}
    length = summary.get("length")
    # Without an update there is no length to draw.
    if length is not None and length["fisher_over_kl"]["mean"] is not None:
        images["fisher_length"] = png(*draw.length_figure(length["masks"]), LIGHT)
    return images


def text(summary: Summary) -> str:
    """Return the tables and the sentence that answers the question."""
    lines = [
        "",
        f"curvature of {summary['base']}: {summary['matrices']} matrices, {summary['prompts']} "
        f"prompts, {summary['tokens']} tokens, {summary['truncated']} completions cut off",
        "mean Fisher diagonal on a mask, over that of random masks (1) [95 % over prompts]",
        f"  {'mask':<18}{'density':>8}  {'of the same size':<22}{'median matrix':>13}"
        f"{'sharper in':>12}  of the same magnitudes",
    ]
    for mask, row in summary["masks"].items():
        # A diagonal of zeros has no ratios.
        median = "-" if row["median_ratio"] is None else f"{row['median_ratio']:.3f}"
        sharper = f"{row['matrices_sharper']} of {row['matrices']}"
        lines.append(
            f"  {mask:<18}{row['density']:>8.1%}  {_interval(row, 'ratio'):<22}{median:>13}"
            f"{sharper:>12}  {_interval(row, 'ratio_magnitude')}"
        )
    lines += [verdict(summary["masks"]["principal"]), *_traces(summary)]
    if "length" in summary:
        lines += _length(summary["length"])
    return "\n".join(lines)


def _interval(row: Mapping[str, Any], key: str) -> str:
    if row[key] is None:
        return "-"
    return f"{row[key]:.3f} [{row[f'{key}_low']:.3f}, {row[f'{key}_high']:.3f}]"


def verdict(row: Mapping[str, Any]) -> str:
    """Return one sentence on whether the principal weights are the sharper ones."""
    if row["ratio"] is None:
        return "the Fisher diagonal is zero: nothing can be said"
    place, matched = _side(row, "ratio", "z_shuffled"), "no random ones have their magnitudes"
    if row["ratio_magnitude"] is not None:
        side = _side(row, "ratio_magnitude", "z_magnitude")
        matched = f"{side} random ones of their magnitudes"
    return f"principal weights are {place} random ones of their number; {matched}"


def _side(row: Mapping[str, Any], key: str, z_key: str) -> str:
    """Return which side of 1 a ratio is on, where prompts and random masks agree on it."""
    low, high, z = row[f"{key}_low"], row[f"{key}_high"], row[z_key]
    shown = "" if z is None else f" (z {z:+.1f})"
    # Both must agree: the interval knows the prompts, z knows how masks of such stripes scatter.
    if z is not None and low > 1 and z > 2:
        return f"sharper{shown} than"
    if z is not None and high < 1 and z < -2:
        return f"flatter{shown} than"
    return f"not told apart{shown} from"


def _traces(summary: Summary) -> list[str]:
    lines = [f"trace of the Fisher information {summary['trace']:.4g} nats / (token weight^2)"]
    if "hutchinson" in summary:
        estimate = summary["hutchinson"]
        own = estimate["masks"]["principal"]
        ratio = "-" if own["ratio"] is None else f"{own['ratio']:.3f}"
        lines.append(
            f"  Hutchinson, {estimate['probes']} probes: trace {estimate['trace']:.4g}"
            f"{_error(estimate['trace_standard_error'])}, principal ratio {ratio}"
            f"{_error(own['standard_error'])}"
        )
    # Three of the reported eigenvalues fit a screen; the file has all.
    for place, pair in enumerate(summary.get("lanczos", [])[:3]):
        share = pair["share_of_energy"]["principal"]
        density = summary["masks"]["principal"]["density"]
        lines.append(
            f"  eigenvalue {place + 1}: {pair['value']:.4g} (within {pair['error']:.1g}), "
            f"{share:.1%} of its vector on principal weights ({density:.1%} of entries)"
        )
    return lines


def _error(value: float | None) -> str:
    return "" if value is None else f" (s.e. {value:.2g})"


def _length(length: Mapping[str, Any]) -> list[str]:
    fisher, kl = length["fisher_nats_per_token"], length["kl_nats_per_token"]
    if length["fisher_over_kl"]["mean"] is None:
        # The ratio has no value where both lengths are 0.
        return ["the two policies are the same: the update has no length"]
    ratio = length["fisher_over_kl"]
    lines = [
        f"Fisher length of the update {fisher['mean']:.4g} nats per token "
        f"[{fisher['low']:.4g}, {fisher['high']:.4g}]",
        f"  exact KL(base || tuned)   {kl['mean']:.4g} [{kl['low']:.4g}, {kl['high']:.4g}]; "
        f"ratio {ratio['mean']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}] (1: a small step)",
        f"  {'mask':<18}{'share of the length':<26}{'random masks':>13}{'squared norm':>14}",
    ]
    for mask, row in length["masks"].items():
        share = row["share"]
        cell = f"{share['mean']:.1%} [{share['low']:.1%}, {share['high']:.1%}]"
        lines.append(
            f"  {mask:<18}{cell:<26}{row['share_random']:>13.1%}{row['share_of_energy']:>14.1%}"
        )
    return lines
