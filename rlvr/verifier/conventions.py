"""What mathematics leaves open, and a reward may decide."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Conventions:
    """Options of the verifier.

    ``rounded``: a decimal of six places or more may stand for the number that it rounds.
    ``percent``: an answer may add a percent sign that the gold answer leaves out, as ``50\\%`` for
    ``50``; left out it may be in any case.
    ``ordered``: items of a list must come in the order of the gold answer.
    """

    rounded: bool = True
    percent: bool = False
    ordered: bool = False


DEFAULT = Conventions()
