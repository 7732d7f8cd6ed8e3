"""Parameters and options that do not fit a masked optimizer are named."""

from collections.abc import Callable

import pytest
import torch
from test_optim import make_mask, make_policy
from torch import nn

from rlvr.optim import MaskedAdamW


def float16(policy: nn.Module) -> None:
    policy.half()


def another_shape(policy: nn.Sequential) -> None:
    policy[0] = nn.Linear(18, 33)


def one_more(policy: nn.Sequential) -> None:
    policy.append(nn.Linear(5, 2))


def one_less(policy: nn.Sequential) -> None:
    del policy[2]


def transposed(policy: nn.Sequential) -> None:
    policy[0].weight = nn.Parameter(torch.zeros(17, 33).T)


REFUSED = {
    "float16": (float16, r"'0.weight' is torch.float16.*float32 or bfloat16"),
    "shape": (another_shape, r"'0.weight'.*\(33, 17\).*\(33, 18\)"),
    "no mask": (one_more, r"'3.weight' is not in the mask"),
    "no parameter": (one_less, r"mask entry '2.bias' matches no parameter"),
    "strides": (transposed, r"'0.weight' must be contiguous"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_a_parameter_that_does_not_fit_the_mask_is_named(
    change: Callable[[nn.Module], None], message: str
):
    policy = make_policy()
    mask = make_mask(policy, 0.5)
    change(policy)
    with pytest.raises(ValueError, match=message):
        MaskedAdamW(policy.named_parameters(), mask, lr=1e-2)


@pytest.mark.parametrize(
    "option", [{"lr": -1.0}, {"weight_decay": -0.1}, {"betas": (0.9, 1.0)}, {"eps": float("nan")}]
)
def test_an_option_out_of_range_is_named(option):
    policy = make_policy()
    mask = make_mask(policy, 0.5)
    with pytest.raises(ValueError, match=f"^{next(iter(option))}:"):
        MaskedAdamW(policy.named_parameters(), mask, **{"lr": 1e-2, **option})


def test_parameters_without_names_are_refused():
    policy = make_policy()
    with pytest.raises(ValueError, match="pairs"):
        MaskedAdamW(policy.parameters(), make_mask(policy, 0.5), lr=1e-2)
