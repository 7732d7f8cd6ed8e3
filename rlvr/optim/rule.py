"""The update rule of AdamW on vectors, as the operations of ``torch.optim.AdamW``."""

from jaxtyping import Float, Float32
from torch import Tensor


def adamw(
    weights: Float[Tensor, " k"],
    grads: Float[Tensor, " k"],
    mean: Float32[Tensor, " k"],
    mean_sq: Float32[Tensor, " k"],
    step: int,
    group: dict,
) -> None:
    """Update in place the ``weights`` and the moments by AdamW's ``step``, counted from 1."""
    lr, (beta1, beta2) = group["lr"], group["betas"]
    if group["weight_decay"] != 0:
        weights.mul_(1 - lr * group["weight_decay"])
    # lerp and addcmul as torch has them: written out, the last bit would differ.
    mean.lerp_(grads, 1 - beta1)
    mean_sq.mul_(beta2).addcmul_(grads, grads, value=1 - beta2)
    step_size = lr / (1 - beta1**step)  # torch folds the bias correction of the mean into the rate
    denominator = (mean_sq.sqrt() / (1 - beta2**step) ** 0.5).add_(group["eps"])
    weights.addcdiv_(mean, denominator, value=-step_size)
