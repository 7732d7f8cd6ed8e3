"""The algorithms that one word of a recipe names.

An algorithm is a set of TRL's settings with the values of its paper. Lines of the recipe's
``trainer`` section win over them. What an algorithm does not say (learning rate, batch, how many
optimizer steps use one generation) is the recipe's.

With r the ratio of the policy's probability to the sampling policy's and A the advantage (reward
minus the mean of its group, over the standard deviation of its group unless said otherwise):

``grpo``     DeepSeekMath (arXiv 2402.03300, eq. 3 and 4, section 4.2): min(r A, clip(r) A), mean
             over the tokens of each completion, then over completions; KL term with beta 0.04. The
             paper gives no clipping range; 0.2 is that of PPO (arXiv 1707.06347).
``dapo``     DAPO (arXiv 2503.14476, eq. 8, section 4.1): mean over the tokens of all completions,
             r clipped to [1 - 0.2, 1 + 0.28], no KL term, dynamic sampling. Its overlong reward is
             the reward ``overlong``, so truncated completions stay in the loss.
``dr_grpo``  Dr. GRPO (arXiv 2503.20783, section 3.2): no division by the standard deviation, and
             tokens are summed over a constant, ``max_completion_length`` times the completions; no
             KL term.
``gspo``     GSPO (arXiv 2507.18071, eq. 5 and 7, section 5.1): r is the geometric mean of the
             token ratios of a completion, clipped to [1 - 3e-4, 1 + 4e-4]; no KL term.
``cispo``    CISPO (MiniMax-M1, arXiv 2506.13585, eq. 4 and 5): min(r, cap) without gradient, times
             A, times the log-prob; mean over the tokens of all completions, no lower bound, no KL
             term, DAPO's dynamic sampling. The paper does not give its cap; 5 is that of ScaleRL
             (arXiv 2510.13786). TRL's ``epsilon_high`` is here the cap itself, not 1 less.
``sft``      supervised fine-tuning, the baseline: the mean over the tokens of all completions of
             -log p, of completions that the data gives. No rewards, no samples, no KL term.

Where a paper takes the mean over the tokens of one group, TRL takes it over the whole batch.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from rlvr.schema import Count, RecipeError

Name = Literal["dapo", "grpo", "dr_grpo", "gspo", "cispo", "sft"]

_COMMON = {
    "epsilon": 0.2,
    "epsilon_high": None,
    "beta": 0.0,
    "scale_rewards": "group",
    "importance_sampling_level": "token",
    "mask_truncated_completions": False,
}
SETTINGS = MappingProxyType(
    {
        # The papers' KL estimator is not weighted by r, as TRL's default is.
        "grpo": {"loss_type": "grpo", **_COMMON, "beta": 0.04, "use_bias_correction_kl": False},
        "dapo": {"loss_type": "dapo", **_COMMON, "epsilon_high": 0.28},
        "dr_grpo": {"loss_type": "dr_grpo", **_COMMON, "scale_rewards": "none"},
        # The loss of TRL's grpo, with one ratio for each completion.
        "gspo": {
            "loss_type": "grpo",
            **_COMMON,
            "epsilon": 3e-4,
            "epsilon_high": 4e-4,
            "importance_sampling_level": "sequence",
        },
        "cispo": {"loss_type": "cispo", **_COMMON, "epsilon_high": 5.0},
        "sft": {},
    }
)
SAMPLES_DYNAMICALLY = ("dapo", "cispo")


@dataclass(frozen=True)
class AlgorithmSection:
    """Which algorithm, and whether it replaces groups that teach nothing; a word is its ``name``.

    ``dynamic_sampling``: groups of equal rewards are replaced by groups of further
    prompts (DAPO, section 3.2); null is what the algorithm's paper does.
    ``max_rounds``: generations of one batch at most, the first one included; 10 is what the
    published DAPO runs allowed.
    """

    name: Name
    dynamic_sampling: bool | None = None
    max_rounds: Count = 10


def with_settings(
    section: AlgorithmSection, trainer: dict[str, Any]
) -> tuple[AlgorithmSection, dict[str, Any]]:
    """Return the section without nulls, and its settings under the recipe's ``trainer`` lines."""
    dynamic = section.dynamic_sampling
    if dynamic and section.name == "sft":
        raise RecipeError("algorithm.dynamic_sampling: sft samples nothing; remove it")
    dynamic = section.name in SAMPLES_DYNAMICALLY if dynamic is None else dynamic
    resolved = AlgorithmSection(section.name, dynamic, section.max_rounds)
    return resolved, {**SETTINGS[section.name], **trainer}


def describe_algorithm(section: AlgorithmSection, trainer: dict[str, Any]) -> str:
    """Return one line of the settings in force, those marked that differ from the algorithm's."""
    if section.name == "sft":
        return "algorithm  sft: the loss is on the tokens of each row's solution, none is sampled"
    parts = []
    for key, value in SETTINGS[section.name].items():
        mark = f" (the recipe's; {section.name} has {_text(value)})"
        parts.append(f"{key} {_text(trainer[key])}{mark if trainer[key] != value else ''}")
    rounds = f"dynamic sampling in at most {section.max_rounds} rounds"
    parts.append(rounds if section.dynamic_sampling else "no dynamic sampling")
    return f"algorithm  {section.name}: {', '.join(parts)}"


def _text(value: object) -> str:
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
