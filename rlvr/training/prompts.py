"""The order in which dynamic sampling draws prompts."""

import torch


class PromptStream:
    """The prompts of the data without end: pass upon pass, each pass in an order of its own.

    The orders are those of TRL's sampler for ``seed``, epoch for epoch. ``place`` counts what was
    drawn, and is all that a checkpoint needs to hold.
    """

    def __init__(self, count: int, *, seed: int, shuffle: bool) -> None:
        self.count, self.seed, self.shuffle, self.place = count, seed, shuffle, 0
        self._pass, self._order = -1, []

    def take(self, number: int, taken: set[int]) -> list[int]:
        """Return the next ``number`` prompts that are not in ``taken``, and add them to it.

        They are fewer where ``taken`` then holds every prompt there is.
        """
        indices: list[int] = []
        while len(indices) < number and len(taken) < self.count:
            index = self._at(self.place)
            self.place += 1
            if index not in taken:
                taken.add(index)
                indices.append(index)
        return indices

    def _at(self, place: int) -> int:
        number = place // self.count
        # Only one permutation is kept: passes come in order, but for a resume.
        if number != self._pass:
            self._pass, self._order = number, self._permutation(number)
        return self._order[place % self.count]

    def _permutation(self, number: int) -> list[int]:
        if not self.shuffle:
            return list(range(self.count))
        generator = torch.Generator().manual_seed(self.seed)
        # Drawn and discarded, as in TRL: one generator runs on from pass to pass.
        for _ in range(number):
            torch.randperm(self.count, generator=generator)
        return torch.randperm(self.count, generator=generator).tolist()
