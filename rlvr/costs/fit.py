"""Whether a run fits its devices, the largest one that does, and the cheapest change to one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product

from rlvr.costs.hardware import H100, Hardware
from rlvr.costs.memory import Memory, Setting, memory
from rlvr.costs.sampler import Sampler, awake_bytes, cache_rows, reserved_bytes
from rlvr.costs.time import Batch, Seconds, step_seconds

# Of each device: CUDA, NCCL and cuBLAS take so many bytes, and fragments so large a share.
CONTEXT_BYTES, FRAGMENTS = 1.5e9, 0.05
CONTEXT_SOURCE = "assumed until measured: 1.5 GB of CUDA and NCCL and 5 % of fragments on each GPU"


@dataclass(frozen=True)
class Deployment:
    """A run on its devices."""

    setting: Setting
    engine: str
    processes: int
    sampler: Sampler
    batch: Batch
    device_bytes: float
    hardware: Hardware = H100

    @property
    def memory(self) -> Memory:
        return memory(self.setting, self.engine, self.processes)

    @property
    def peak(self) -> float:
        """The most bytes on one device: while the policy trains, or while completions are drawn."""
        held, setting = self.memory, self.setting
        training = held.peak + reserved_bytes(setting.shape, self.sampler, self.device_bytes)
        awake = awake_bytes(
            setting.shape, self.sampler, setting.length, self.device_bytes, setting.compute
        )
        return max(training, held.resident + awake)

    @property
    def cached(self) -> float:
        """How many of the longest sequences the cache of one engine of the sampler holds."""
        if self.sampler.mode != "colocate":
            return float("inf")
        shape, length = self.setting.shape, self.setting.length
        return cache_rows(shape, self.sampler, length, self.device_bytes)

    @property
    def fits(self) -> bool:
        room = self.device_bytes * (1 - FRAGMENTS) - CONTEXT_BYTES
        return self.peak <= room and self.cached >= 1

    @property
    def seconds(self) -> Seconds:
        return step_seconds(
            self.setting,
            self.engine,
            self.processes,
            self.batch,
            self.hardware,
            ranks=self.sampler.ranks,
            cached=self.cached,
        )


def _largest(fits: Callable[[int], bool], limit: int) -> int:
    """Return the largest number up to ``limit`` for which ``fits`` is true; 0 if none is."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def largest_rows(deployment: Deployment) -> int:
    """Return the most completions of one forward pass that fit, at the same length."""
    setting = deployment.setting
    return _largest(
        lambda rows: replace(deployment, setting=replace(setting, rows=rows)).fits, 1 << 12
    )


def largest_completion(deployment: Deployment) -> int:
    """Return the longest completion that fits, with the same rows and prompts."""
    setting = deployment.setting
    prompt = setting.length - setting.completion

    def fits(tokens: int) -> bool:
        longer = replace(setting, completion=tokens, length=prompt + tokens)
        return replace(deployment, setting=longer).fits

    return _largest(fits, 1 << 20)


def cheapest_change(
    deployment: Deployment, engines: tuple[str, ...]
) -> tuple[str, Deployment] | None:
    """Return the words of the change that fits and costs the least time, and what comes out.

    Only what leaves the experiment alone is changed; ``None`` where none of it is enough.
    """
    fitting = [
        (found.seconds.total, len(words), " and ".join(words), found)
        for words, found in _variants(deployment, engines)
        if found.fits
    ]
    if not fitting:
        return None
    _, _, words, found = min(fitting, key=lambda item: item[:2])
    return words, found


def _variants(
    deployment: Deployment, engines: tuple[str, ...]
) -> Iterator[tuple[list[str], Deployment]]:
    """Yield every combination of changes, with the words that make them."""
    setting, sampler = deployment.setting, deployment.sampler
    choices = product(
        dict.fromkeys([deployment.engine, *engines]),
        dict.fromkeys([setting.checkpointing, True]),
        _halves(setting.rows),
        dict.fromkeys([sampler.sleeps, sampler.mode == "colocate"]),
        dict.fromkeys([sampler.share, min(sampler.share, 0.3)]),
        _freeing(deployment),
    )
    for engine, checkpointing, rows, sleeps, share, free in choices:
        changed = replace(
            setting,
            checkpointing=checkpointing,
            rows=rows,
            accumulates=setting.accumulates or rows < setting.rows,
            free_gradients=free,
        )
        words = [f"launch/{_file(engine)}"] if engine != deployment.engine else []
        if checkpointing != setting.checkpointing:
            words.append("trainer.gradient_checkpointing=true")
        if rows != setting.rows:
            words.append(
                f"trainer.per_device_train_batch_size={rows} with {setting.rows // rows} times the "
                "trainer.gradient_accumulation_steps"
            )
        if sleeps != sampler.sleeps:
            words.append("trainer.vllm_enable_sleep_mode=true")
        if share != sampler.share:
            words.append(f"trainer.vllm_gpu_memory_utilization={share:g}")
        if free != setting.free_gradients:
            words.append("optimizer.free_gradients=true")
        beside = replace(sampler, sleeps=sleeps, share=share)
        yield words, replace(deployment, setting=changed, engine=engine, sampler=beside)


def _halves(rows: int) -> list[int]:
    """Return ``rows`` and what halving it exactly gives."""
    halves = [rows]
    while halves[-1] % 2 == 0:
        halves.append(halves[-1] // 2)
    return halves


def _freeing(deployment: Deployment) -> list[bool]:
    free = deployment.setting.free_gradients
    possible = deployment.processes == 1 and deployment.setting.trained.kind == "mask"
    return list(dict.fromkeys([free, free or possible]))


def _file(engine: str) -> str:
    """Return the launch file of an engine."""
    if engine == "one process":
        return "one_gpu.yaml"
    return engine.lower().replace("-", "").replace(" ", "_") + ".yaml"
