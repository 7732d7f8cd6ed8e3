"""A dataset of one's own: rows with a problem and its gold answer.

plugins: [my_dataset]
data: {name: sums, size: 256, shuffle: 0}
"""

import random

from rlvr.registry import dataset


@dataset
def sums(*, size: int, seed: int = 0) -> list[dict[str, str]]:
    """Sums of four digits.

    Further columns are for the rewards that read them; without an ``id`` a row gets one from its
    problem. Every source takes ``shuffle``, ``limit``, ``prompt``, ``deduplicate``, ...
    """
    draw = random.Random(seed)
    rows = {}
    while len(rows) < size:
        digits = [draw.randint(1, 9) for _ in range(4)]
        problem = "+".join(map(str, digits))
        rows[problem] = {"problem": problem, "answer": str(sum(digits))}
    return list(rows.values())
