"""When too many verdicts of a run are no verdicts, the run has no reward to follow."""

from collections import deque

from rlvr.rewards.calls import Judgement
from rlvr.schema import RunError

WINDOW = 256  # latest completions that count
FEWEST = 32  # completions before a share is judged


class UnverifiedLimit:
    """Time-outs and crashes among the latest rewards of each function, against a limit.

    A completion on which a reward function itself fails counts as a crash.

    ``record`` is called by each process on its own completions, ``check`` on the sums of all.
    """

    def __init__(self, limit: float, names: list[str]) -> None:
        self.limit, self.names = limit, names
        self._latest: dict[str, list[int]] = {name: [0, 0, 0] for name in names}
        self._window: dict[str, deque[list[int]]] = {name: deque() for name in names}

    def record(self, name: str, judgement: Judgement) -> None:
        statuses = judgement.statuses
        crashes = statuses["crashed"] + len(judgement.failures)
        added = (statuses["timeout"], crashes, len(judgement.rewards))
        self._latest[name] = [a + b for a, b in zip(self._latest[name], added, strict=True)]

    def take(self) -> list[list[int]]:
        """Return (time-outs, crashes, completions) of each reward since the last call."""
        counts = [self._latest[name] for name in self.names]
        # Each count is taken once: the sums of all processes go to `check`.
        self._latest = {name: [0, 0, 0] for name in self.names}
        return counts

    def check(self, counts: list[list[int]]) -> None:
        """Add ``counts``, in the order of the names, to the windows.

        Raises:
            RunError: more than ``limit`` of a reward's latest results are time-outs or crashes.
        """
        for name, count in zip(self.names, counts, strict=True):
            window = self._window[name]
            window.append(count)
            # Drop old rows only while WINDOW completions remain: rows hold whole batches.
            while sum(row[2] for row in window) - window[0][2] >= WINDOW:
                window.popleft()
            timeouts, crashes, total = (sum(column) for column in zip(*window, strict=True))
            if total >= FEWEST and timeouts + crashes > self.limit * total:
                raise RunError(
                    f"rewards: of the latest {total} completions, {name!r} timed out on {timeouts} "
                    f"and crashed on {crashes}, more than run.max_unverified = {self.limit:g} "
                    "allows; see rollouts.jsonl for the completions, raise the deadline of "
                    f"{name!r}, or raise run.max_unverified"
                )
