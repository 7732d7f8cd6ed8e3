"""The columns of ``matrices.csv``: their order, units and formulas, and how the file is written."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlvr.files import write_bytes, write_json
from rlvr.geometry.storage import NULL_WORDS

W = "W0: base weights, W+: tuned weights, dW = W+ - W0 of the stored values, moved: bf16 mask"
PLACE: dict[str, tuple[str, str]] = {
    "name": ("", "parameter name in the base checkpoint"),
    "kind": ("", "last part of the name, such as q_proj"),
    "layer": ("", "index of the block, from 0; empty outside of the blocks"),
    "rows": ("entries", "outputs of the linear layer"),
    "cols": ("entries", "inputs of the linear layer"),
}


def _null_columns() -> dict[str, tuple[str, str]]:
    """Return the columns of every overlap: its interval, its nulls, its excess."""
    columns: dict[str, tuple[str, str]] = {}
    for mask in ("principal", "low", "principal_not_low"):
        key = f"overlap_{mask}"
        columns |= {
            f"{key}_from": ("share", f"lower end of the 95 % interval of {key}"),
            f"{key}_to": ("share", "upper end"),
            f"{key}_error": ("share", "its standard error, clustered by rows and by columns"),
            f"{key}_null": (
                "share",
                f"{key} of an update that does not know the weights, under the likeliest way of "
                "storing them: the first of the three below that is plausible",
            ),
        }
        for null, words in NULL_WORDS.items():
            columns[f"{key}_null_{null}"] = ("share", f"the same if {words}; empty: implausible")
        if mask != "low":
            columns[f"{key}_excess"] = ("share", f"{key} - {key}_null_size")
            columns[f"{key}_excess_error"] = ("share", "its standard error")
    return columns


COLUMNS: dict[str, tuple[str, str]] = {
    **PLACE,
    "dtype": ("", "storage dtype of the tuned matrix (of the base, where an adapter is merged)"),
    "sparsity_bf16": ("share", "1 - |moved| / n, moved = bf16(W0) != bf16(W+), +0 = -0"),
    "sparsity_exact": ("share", "share of entries equal as stored, in the wider dtype"),
    "same_bits": ("", "True: both store the same bits in the same dtype"),
    "nss": ("", "||sigma(W+) - sigma(W0)||_2 / ||sigma(W0)||_2 over all singular values"),
    "max_angle_left_deg": ("degrees", "largest principal angle of the left top-angle_rank spaces"),
    "max_angle_right_deg": ("degrees", "the same of the right spaces"),
    "energy_off_principal": ("share", "1 - ||U_k^T dW V_k||_F^2 / ||dW||_F^2, k = rank, of W0"),
    "overlap_principal": ("share", "|M & moved| / |moved|, M = principal: top density of |W0^(k)|"),
    "overlap_low": ("share", "the same with M = low: bottom low_density of |W0|"),
    "overlap_principal_not_low": ("share", "the same with M = principal and not low"),
    "density_principal": ("share", "|M| / n: what overlap_principal is for random places"),
    "density_low": ("share", "the same for overlap_low"),
    "density_principal_not_low": ("share", "the same for overlap_principal_not_low"),
    **_null_columns(),
    "verdict": (
        "",
        "avoids or seeks the weights that are principal and not small; empty without a finding. "
        "Needs: the interval outside chance and all nulls, the excess at least half a point and "
        "not 0 at the 5 % level, corrected for the number of matrices (Holm), an update that is "
        "not relative, and under 99 % of the entries moved",
    ),
    "relative": ("", "True: the moved share follows the size of the weights, so no null fits"),
    "groups": ("", "groups of neighbouring rows and columns that the errors are clustered in"),
    "storage": ("", "how both sides were stored, on which the nulls depend"),
    "energy_off_principal_random": ("share", "1 - k^2 / (rows cols): random directions"),
    "nss_null": (
        "",
        "nss of W0 + dW', dW' = dW with rows, columns and signs shuffled; empty with --fast",
    ),
    "max_angle_left_null_deg": ("degrees", "max_angle_left_deg of W0 + dW'; empty with --fast"),
    "max_angle_right_null_deg": ("degrees", "max_angle_right_deg of it; empty with --fast"),
    "sparsity_null": ("share", "sparsity_bf16 that the likeliest null expects"),
    "sparsity_atol": ("share", "share of entries with |dW| <= 1e-5 (arXiv 2505.11711)"),
    "below_half_ulp": ("share", "share of entries with |dW| < half a bf16 ULP of W0, 0 included"),
    "update_norm": ("weights", "||dW||_F"),
    "relative_update": ("", "||dW||_F / ||W0||_F"),
    "stable_rank_update": ("", "||dW||_F^2 / ||dW||_2^2; empty with --fast"),
    "numerical_rank_update": (
        "",
        "singular values of dW above max(rows, cols) 2^-52 sigma_1; empty with --fast",
    ),
    "top_energy_base": ("share", "energy of the top-rank singular values of W0 in all of them"),
    "top_energy_tuned": ("share", "the same of W+"),
    "row_spread": (
        "",
        "standard deviation over rows of the share of moved entries, divided by that of "
        "independent entries, sqrt(p (1-p) / cols): 1 is random, more is stripes",
    ),
    "col_spread": ("", "the same over columns, sqrt(p (1-p) / rows)"),
    "rank": ("", "k of the principal subspace and mask: the flag, at most min(rows, cols)"),
    "angle_rank": (
        "",
        "k of the angles: the flag, or a quarter of min(rows, cols), at most 512 (with --fast at "
        "most rank); an angle of the whole space is empty",
    ),
    "nss_error": ("", "bound on the rounding error of nss"),
    "max_angle_error_deg": (
        "degrees",
        "bound on the rounding error of both angles, from the gap below singular value "
        "angle_rank; 90: there is no gap and the subspace is not defined",
    ),
}
EMPTY = (
    "An empty cell is an undefined number: an overlap or energy share of an update that moved "
    "nothing, a spread of a mask that is empty or full, or what --fast leaves out."
)


def cell(value: object) -> Any:
    """Return ``value`` as it stands in the file: floats in full, undefined ones empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(value) if isinstance(value, float) else value


def write_table(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, tuple[str, str]],
    settings: Mapping[str, Any],
    empty: str = EMPTY,
) -> None:
    """Write a CSV, and ``<name>.columns.json`` with the unit and formula of each column."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([cell(row[key]) for key in columns] for row in rows)
    write_bytes(path, buffer.getvalue().encode())
    header = {
        "notation": W,
        "empty": empty,
        "settings": dict(settings),
        "columns": {key: {"unit": unit, "formula": text} for key, (unit, text) in columns.items()},
    }
    write_json(path.with_suffix(".columns.json"), header)
