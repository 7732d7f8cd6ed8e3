"""vLLM as the sampler of a run: the policy's weights, precision, revision and random stream.

What ``PolicySampler`` changes in TRL 1.16's ``VLLMGeneration``:

1. The engine computes in the precision of the run and loads the run's revision. TRL names neither.
2. vLLM seeds the process with the rank when it starts, so that runs of all seeds would draw the
   same completions. The random state is put back, and each generation is seeded from it. A server
   gets a seed for each prompt: with one for all, every prompt would draw the same noise.
3. An adapter's dense weights are pushed from a copy. TRL merges them in place and unmerges.
4. FSDP2's shards are parameters again before a push, where a forward has left them gathered.
5. The rounds of dynamic sampling share one push under sleep mode, which forgets the weights.
6. The engine ends before the process group that it uses.
"""

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import grpo_trainer

from rlvr.adapters import policy_weights
from rlvr.decoding import stream_seed
from rlvr.engines import reshard
from rlvr.eval.sampling import kept_random_state, seeded
from rlvr.precision import dtype_name

REQUESTS = 64  # prompts that a server is asked for at a time, as many as TRL's client keeps open


@dataclass(frozen=True)
class Source:
    """What a sampler must be: the run's ``revision``, dtype and end tokens.

    ``dense``: an adapter's dense weights are pushed instead of TRL's merged ones.
    """

    revision: str | None
    dtype: torch.dtype
    ends: Sequence[int]
    dense: bool


class PolicySampler(VLLMGeneration):
    """TRL's vLLM backend for one run."""

    llm: Any
    vllm_client: Any

    def __init__(self, source: Source, *args: Any, **kwargs: Any) -> None:
        self.source, self._seed, self._in_rounds = source, 0, False
        super().__init__(*args, **kwargs)

    def _init_vllm(self) -> None:
        engine = getattr(vllm_generation, "LLM", None)

        def load(**options: Any) -> object:
            assert engine is not None  # TRL has raised where vLLM is missing
            options |= {"revision": self.source.revision, "dtype": dtype_name(self.source.dtype)}
            # Else the base's generation settings come in: penalties and end tokens of its own.
            return engine(**options, generation_config="vllm")

        device = self.accelerator.device
        with (
            kept_host_random_state(),
            kept_random_state(device),
            replaced(vllm_generation, "LLM", load),
        ):
            super()._init_vllm()
        ends = {"stop_token_ids": list(self.source.ends)}
        self.generation_kwargs = {**self.generation_kwargs, **ends}
        if self.mode == "server" and self.accelerator.is_main_process:
            self._ask = self.vllm_client.generate
            self.vllm_client.generate = self._ask_apart

    def _iter_named_params(self) -> Iterator[tuple[str, Tensor]]:
        reshard(self.model)
        if not self.source.dense:
            yield from super()._iter_named_params()
            return
        for name, weight in policy_weights(self.model):
            yield self._fix_param_name_to_vllm(name), weight

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        self._seed = self._next_seed()
        with seeded(self._seed, self.accelerator.device):
            output = super().generate(*args, **kwargs)
        if self._in_rounds:
            self._llm_weights_sleeping = False  # `sleep` did nothing
        return output

    def _next_seed(self) -> int:
        """Draw a seed from the random state of this process, which its checkpoints keep.

        The ranks that compute one engine together must draw the same tokens, so they take the
        seed of their first.
        """
        seed = torch.randint(2**62, ())
        if self.mode == "colocate" and self.tensor_parallel_size > 1:
            seed = seed.to(self.accelerator.device)
            group: Any = self.tp_group
            distributed.broadcast(seed, group=group, group_src=0)
        return int(seed)

    def _ask_apart(
        self, prompts: list[list[int]], n: int = 1, features: Any = None, **options: Any
    ) -> dict[str, Any]:
        """Ask the server for each prompt by itself, with a seed of its own."""
        if features is not None:
            return self._ask(prompts=prompts, n=n, features=features, **options)
        given = options.pop("generation_kwargs")

        def ask(place: int) -> dict[str, Any]:
            own = {**given, "seed": stream_seed(self._seed, place) % 2**62}
            return self._ask(prompts=[prompts[place]], n=n, generation_kwargs=own, **options)

        with ThreadPoolExecutor(min(REQUESTS, len(prompts))) as threads:
            answers = list(threads.map(ask, range(len(prompts))))
        return {key: [row for one in answers for row in one[key] or []] for key in answers[0]}

    @contextmanager
    def rounds(self) -> Iterator[None]:
        """Let the generations of the body share one push, under sleep mode too."""
        if self.mode != "colocate" or not self.enable_sleep_mode:
            yield
            return
        self._in_rounds = True
        try:
            with replaced(self.llm, "sleep", lambda **_: None):
                yield
        finally:
            self._in_rounds = False
            self.llm.sleep(level=2)
            self._llm_weights_sleeping = True

    def close(self) -> None:
        """End the engine; its process group must still be there."""
        if self.mode == "colocate":
            self.llm.llm_engine.engine_core.shutdown()
            del self.llm


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Let ``owner.name`` be ``value`` in the body."""
    before = getattr(owner, name, None)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def kept_host_random_state() -> Iterator[None]:
    """Put the random states of Python and NumPy back after the body."""
    python, numpy = random.getstate(), np.random.get_state()
    yield
    random.setstate(python)
    np.random.set_state(numpy)


@contextmanager
def sampling_from(source: Source) -> Iterator[None]:
    """Let a trainer of TRL's that is made in the body sample with ``PolicySampler``."""

    def sampler(*args: Any, **kwargs: Any) -> PolicySampler:
        return PolicySampler(source, *args, **kwargs)

    with replaced(grpo_trainer, "VLLMGeneration", sampler):
        yield
