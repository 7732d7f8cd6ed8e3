"""The worker's side of ``reasoning_gym``; the package writes files while it is imported."""

import functools
import json
import math
from typing import Any

import reasoning_gym


@functools.cache
def _task(name: str) -> Any:
    return reasoning_gym.create_dataset(name, size=1, seed=0)


def score(request: dict[str, Any]) -> dict[str, Any]:
    """Return ``{score}`` of an answer by the entry's task, or ``gold`` or ``raised``: why not."""
    entry = dict(request["entry"])
    about = entry["metadata"]
    try:
        entry["metadata"] = json.loads(about) if isinstance(about, str) else about
        task = _task(entry["metadata"]["source_dataset"])
    except Exception as error:  # the package raises whatever its tasks raise
        # A broken entry is a fault of the row, not of the answer.
        return {"gold": f"metadata: {type(error).__name__}: {error}"[:300]}
    try:
        value = float(task.score_answer(answer=request["answer"], entry=entry))
    except Exception as error:
        return {"raised": f"{type(error).__name__}: {error}"[:300]}
    # A scorer that divides by zero gives NaN; the answer is then simply not right.
    return {"score": value if math.isfinite(value) else 0.0}
