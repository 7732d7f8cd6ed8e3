"""What TRL, transformers and torch would refuse of a recipe, asked before a weight is loaded.

Their own code is asked: TRL's configuration, the optimizer and the schedule are built as the run
builds them, on a parameter of one entry, and nothing is written.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, get_scheduler
from transformers.training_args import OptimizerNames

from rlvr import runtime
from rlvr.config import Recipe
from rlvr.schema import RecipeError
from rlvr.training.inputs import Arguments, SupervisedArguments, trainer_settings

_TORCH_OPTIMIZERS = (OptimizerNames.ADAMW_TORCH, OptimizerNames.ADAMW_TORCH_FUSED)
_STEPS = 10  # stands for the length of a schedule in epochs, which is not known here


class _Unstarted:
    """TRL's configuration without its devices: it joins no process group and starts no engine."""

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def n_gpu(self) -> int:
        return 0

    @property
    def world_size(self) -> int:
        return runtime.world_size()


class _Grpo(_Unstarted, Arguments):
    pass


class _Supervised(_Unstarted, SupervisedArguments):
    pass


@contextmanager
def _refused(where: str) -> Iterator[None]:
    """Turn whatever a library raises into a ``RecipeError`` that names the key ``where``."""
    try:
        yield
    except RecipeError:
        raise
    except Exception as error:  # noqa: BLE001  (libraries raise what they like)
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise RecipeError(f"{where}: {' '.join(lines[0].split())}") from error


def check_library(recipe: Recipe, model: PreTrainedModel) -> None:
    """Raise where TRL's configuration, the optimizer, the schedule or the model refuses the recipe.

    Args:
        recipe: with keys and types checked.
        model: the policy on the meta device.

    Raises:
        RecipeError: the message names the key and ends in the library's own first line.
    """
    kind = _Supervised if recipe.supervised else _Grpo
    # Under a launcher, the configuration would start DeepSpeed or a process group.
    with runtime.without_launcher(), _refused("trainer"):
        args: Any = kind(**trainer_settings(recipe, Path(str(recipe.run.dir))))
    if recipe.model.attn_implementation is not None:
        with _refused("model.attn_implementation"), torch.device("meta"):
            AutoModelForCausalLM.from_config(
                model.config, attn_implementation=recipe.model.attn_implementation
            )
    parameter = nn.Parameter(torch.zeros(1))
    optimizer: Any = torch.optim.AdamW([parameter], lr=args.learning_rate)
    if recipe.mask is None and args.optim not in _TORCH_OPTIMIZERS:
        with _refused(f"trainer.optim: {args.optim.value}"):
            _check_optimizer(args, model)
    name = args.lr_scheduler_type.value
    where = f"trainer.lr_scheduler_type: {name}"
    # What these two would leave aside without a word.
    if args.lr_scheduler_kwargs and name in ("constant", "constant_with_warmup"):
        raise RecipeError(f"trainer.lr_scheduler_kwargs: {name} takes none; remove them")
    if args.warmup_steps and name == "constant":
        raise RecipeError(
            "trainer.warmup_steps: the schedule constant has no warmup; set "
            "trainer.lr_scheduler_type to constant_with_warmup"
        )
    steps = args.max_steps if args.max_steps > 0 else _STEPS
    with _refused(where):
        warmup = args.get_warmup_steps(steps)
        options = args.lr_scheduler_kwargs
        schedule: Any = get_scheduler(args.lr_scheduler_type, optimizer, warmup, steps, options)
        # Some schedules fail only when they are evaluated, at their start or end.
        for factor in schedule.lr_lambdas:
            for step in (0, steps // 2, steps):
                float(factor(step))
    _check_features(args, model)
    if args.gradient_checkpointing:
        with _refused("trainer.gradient_checkpointing"):
            model.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
            model.gradient_checkpointing_disable()


def _check_features(args: Any, model: PreTrainedModel) -> None:
    """Refuse what a package or the model's family lacks, which TRL finds with the model loaded."""
    if args.use_liger_kernel and find_spec("liger_kernel") is None:
        raise RecipeError(
            "trainer.use_liger_kernel: run `pip install liger-kernel`, or set it to false"
        )
    routes = hasattr(model.config.get_text_config(), "output_router_logits")
    if args.router_aux_loss_coef and not routes:
        raise RecipeError(
            f"trainer.router_aux_loss_coef: {type(model).__name__} has no experts to balance; "
            "remove it"
        )
    stated = getattr(args, "cache_implementation", None)
    if stated is not None:
        with _refused("trainer.cache_implementation"):
            GenerationConfig(cache_implementation=stated).validate()
    corrected = getattr(args, "use_vllm", False) and args.vllm_importance_sampling_correction
    if corrected and args.loss_type == "vespo":
        if args.vllm_importance_sampling_mode not in ("token_truncate", "token_mask"):
            raise RecipeError(
                "trainer.vllm_importance_sampling_mode: loss_type vespo takes token_truncate or "
                f"token_mask, got {args.vllm_importance_sampling_mode}"
            )


def _check_optimizer(args: Any, model: PreTrainedModel) -> None:
    """Build the optimizer that the run builds, for one parameter where its class takes a list."""
    from transformers import Trainer  # imports datasets, for a second

    cls, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
    if isinstance(cls, type) and not {"params", "model", "optimizer_dict"} & options.keys():
        # 2-D: some optimizers (Muon) refuse vectors.
        cls([nn.Parameter(torch.zeros(1, 1))], **options)
