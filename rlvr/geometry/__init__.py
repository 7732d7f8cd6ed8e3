"""Where in weight space an update went. The maths is pure functions of tensors."""

from rlvr.geometry.sparsity import sparsity_exact, update_mask_bf16, update_sparsity

__all__ = ["sparsity_exact", "update_mask_bf16", "update_sparsity"]
