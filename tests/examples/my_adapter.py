"""An adapter of one's own: how the policy is reparameterised.

plugins: [my_adapter]
adapter: {builder: lora_b_only, rank: 4}
"""

from peft import LoraConfig

from rlvr.adapters.methods import Method
from rlvr.registry import adapter


@adapter
def lora_b_only(*, rank: int, alpha: int = 8) -> Method:
    """LoRA that trains B and leaves A at its random start (LoRA-FA, arXiv 2308.03303).

    B starts at 0, so that the policy starts as the base policy, which every run checks.
    """
    config = LoraConfig(r=rank, lora_alpha=alpha, task_type="CAUSAL_LM")
    return Method(config, trains=("lora_B",))
