"""The CUDA kernel against the eager path; without CUDA, in Triton's interpreter."""

import math
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from rlvr.masks import Mask
from rlvr.optim import MaskedAdamW
from rlvr.optim.entries import Entries
from rlvr.optim.rule import adamw

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton")
GROUP = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
MOMENTS = ("exp_avg", "exp_avg_sq")
SHAPES = [(1,), (5, 3), (64, 32), (127, 131)]


@pytest.fixture
def fused():
    from rlvr.optim import fused

    return fused


def make_entries(shape: tuple[int, ...], density: float) -> Entries:
    bools = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < density
    bools.view(-1)[0] = True
    return Entries(Mask.from_bools({"w": bools}), "w", torch.device(DEVICE))


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("master", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("density", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernel_takes_the_eager_step(fused, shape, density, dtype, master, compact):
    entries = make_entries(shape, density)
    parameter, gradient = random(*shape).to(dtype), 1e-2 * random(*shape).to(dtype)
    base = parameter.clone()
    state = {"step": torch.tensor(3.0), "exp_avg": 1e-2 * random(entries.count)}
    state["exp_avg_sq"] = state["exp_avg"].square()
    if master:
        state["master"] = entries.gather(parameter) * (1 + 1e-4)
    weights = state["master"].clone() if master else entries.gather(parameter)
    means, grads = [state[key].clone() for key in MOMENTS], entries.gather(gradient)
    adamw(weights, grads, *means, 3, GROUP)
    given = grads if compact else gradient
    fused.fused_update(parameter, given, entries, state, GROUP, is_compact=compact, seed=None)
    # The order of a fused multiply-add: a few roundings of 6e-8 each, of an entry and, where it
    # cancels, of the moments and updates of 1e-2 that it is a sum of.
    close = {"rtol": 1e-6, "atol": 1e-8}
    torch.testing.assert_close(state["exp_avg"], means[0], **close)
    torch.testing.assert_close(state["exp_avg_sq"], means[1], **close)
    # Of bf16, one rounding to nearest may fall to the other side.
    exact = close if dtype == torch.float32 else {"rtol": 2**-7, "atol": 1e-8}
    torch.testing.assert_close(entries.gather(parameter), weights, **exact)
    if master:
        torch.testing.assert_close(state["master"], weights, **close)
        assert entries.gather(parameter).equal(state["master"].to(dtype).float())
    moves = entries.expand(torch.ones(entries.count, device=DEVICE)).bool()
    assert parameter[~moves].equal(base[~moves])


def test_the_kernel_rounds_without_bias_and_as_the_seed_says(fused):
    shape, density = (512, 256), 0.5
    entries = make_entries(shape, density)
    base = torch.full(shape, 0.1, device=DEVICE).bfloat16()
    gradient = random(*shape).bfloat16().abs()

    def step(seed: int) -> Tensor:
        parameter = base.clone()
        state = {key: torch.zeros(entries.count, device=DEVICE) for key in MOMENTS}
        options = {"lr": 2e-5, "betas": (0.9, 0.95), "eps": 1e-12, "weight_decay": 0.0}
        state["step"] = torch.tensor(1.0)
        fused.fused_update(
            parameter, gradient, entries, state, options, is_compact=False, seed=seed
        )
        return parameter

    first, again, other = step(2**40 + 7), step(2**40 + 7), step(2**40 + 8)
    assert first.equal(again) and not first.equal(other)
    moves = entries.expand(torch.ones(entries.count, device=DEVICE)).bool()
    assert first[~moves].equal(base[~moves])
    # AdamW's first step moves each by the rate; neighbours of 0.1 are 2^-11 apart.
    moved = (base.double() - first.double())[moves]
    share = 2e-5 / 2**-11
    error = 2**-11 * math.sqrt(share * (1 - share) / entries.count)
    assert set(moved.unique().tolist()) == {0.0, 2**-11}
    assert abs(moved.mean().item() - 2e-5) < 5 * error


@pytest.mark.gpu
@pytest.mark.parametrize("freed", [False, True])
@pytest.mark.parametrize("density", [0.05, 0.5, 2.0])
def test_on_a_gpu_the_optimizer_does_what_it_does_on_a_cpu(density, freed):
    base, mask = random(300, 259).cpu(), torch.rand(300, 259) < density
    ends = []
    for device in ("cpu", "cuda"):
        parameter = torch.nn.Parameter(base.clone().to(device))
        named = [("w", parameter)]
        optimizer = MaskedAdamW(named, Mask.from_bools({"w": mask}), lr=1e-3, free_gradients=freed)
        for _ in range(5):
            (parameter * base.to(device)).square().sum().backward()
            norm = optimizer.clip_grad_norm_([parameter], 1.0)
            optimizer.step()
            optimizer.zero_grad()
        ends.append((parameter.detach().cpu(), norm.cpu()))
    torch.testing.assert_close(ends[0][0], ends[1][0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(ends[0][1], ends[1][1], rtol=1e-5, atol=0)
    assert ends[1][0][~mask].equal(base[~mask])


@pytest.mark.gpu
@pytest.mark.parametrize("density", [0.01, 0.05, 0.5])
@pytest.mark.parametrize("bf16", [False, True])
def test_the_state_takes_no_more_memory_than_promised(density, bf16):
    values = torch.randn(2048, 4096, device="cuda")
    parameter = torch.nn.Parameter(values.bfloat16() if bf16 else values)
    mask = Mask.from_bools({"w": torch.rand(2048, 4096) < density})
    parameter.grad = torch.randn_like(parameter)
    before = torch.cuda.memory_allocated()
    optimizer = MaskedAdamW([("w", parameter)], mask, lr=1e-3)
    optimizer.step()
    grown = (torch.cuda.memory_allocated() - before) / parameter.numel()
    assert grown <= 1.05 * ((12 if bf16 else 8) * mask.density() + 1 / 8)


MODES = {
    "float32": (torch.float32, False, False, False),
    "float32, freed": (torch.float32, True, False, False),
    "bf16 masters": (torch.bfloat16, False, True, False),
    "bf16 masters, freed": (torch.bfloat16, True, True, False),
    "stochastic": (torch.bfloat16, False, False, True),
    "stochastic, freed": (torch.bfloat16, True, False, True),
}


@pytest.fixture(params=MODES.values(), ids=MODES)
def mode(fused, request):
    dtype, compact, master, stochastic = request.param
    yield fused.Mode(dtype, torch.float32 if compact else dtype, compact, master, stochastic)
    fused.kernel_agrees.cache_clear()


def test_the_probe_tells_a_kernel_that_agrees_from_one_that_does_not(fused, monkeypatch, mode):
    device = torch.device(DEVICE)
    assert fused.kernel_agrees(device, mode)
    fused.kernel_agrees.cache_clear()
    monkeypatch.setattr(fused, "TILE", 1024)  # of the grid, not of the starts
    monkeypatch.setattr(
        Entries, "tile_starts", lambda self, tile: torch.zeros(9, dtype=torch.int32)
    )
    assert not fused.kernel_agrees(device, mode)


def test_the_probe_sees_a_kernel_that_is_wrong_in_one_mode_only(fused, monkeypatch):
    """Rounding that drops bits is right for float32, and no bf16 mode may use it."""
    update = fused.fused_update

    def truncating(parameter, *arguments, seed=None, **options):
        update(parameter, *arguments, seed=None, **options)
        if parameter.dtype == torch.bfloat16:
            moved = parameter.view(torch.int16)
            moved.sub_(1)  # a neighbour towards 0

    monkeypatch.setattr(fused, "fused_update", truncating)
    answers = {}
    for name, (dtype, compact, master, stochastic) in MODES.items():
        mode = fused.Mode(dtype, torch.float32 if compact else dtype, compact, master, stochastic)
        answers[name] = fused.kernel_agrees(torch.device(DEVICE), mode)
    fused.kernel_agrees.cache_clear()
    assert answers == {name: name.startswith("float32") for name in MODES}


SIGNATURE = {
    **dict.fromkeys(["weights", "masters"], "*bf16"),
    **dict.fromkeys(["grads", "means", "mean_sqs"], "*fp32"),
    "bits": "*u8",
    "starts": "*i32",
    "numel": "i32",
    "seed": "i64",
    **dict.fromkeys(["decay", "rate1", "beta2", "rate2", "step_size", "bias2", "eps"], "fp32"),
    **dict.fromkeys(["TILE", "COMPACT", "MASTER", "STOCHASTIC"], "constexpr"),
}
COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from rlvr.optim import fused
constants = {"TILE": fused.TILE, "COMPACT": False, "MASTER": False, "STOCHASTIC": STOCHASTIC}
source = ASTSource(fn=fused._update, signature=SIGNATURE, constexprs=constants)
compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8})
assert ".entry _update" in compiled.asm["ptx"]
"""


@pytest.mark.parametrize("stochastic", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_kernel_compiles_for_a_gpu_that_is_not_here(stochastic):
    program = f"SIGNATURE, STOCHASTIC = {SIGNATURE}, {stochastic}\n{COMPILE}"
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
