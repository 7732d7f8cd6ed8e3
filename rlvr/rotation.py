r"""Rotations and head permutations of an attention layer that do not change the policy.

The intervention of arXiv 2511.08567, section 4.3. The function stays and the coordinates change: a
preference for coordinates can then be told from a preference for functions.

With heads of dimension D in an ``nn.Linear`` (rows are outputs, head h owns rows hD .. hD + D):

- rotation: :math:`W_v \leftarrow R_{kv}^\top W_v`, :math:`b_v \leftarrow b_v R_{kv}`,
  :math:`W_o \leftarrow W_o R_q` with block diagonals of one orthogonal R (D x D). Attention mixes
  whole value heads with scalars, so R meets its transpose in the output projection. Queries and
  keys cannot be rotated inside a head: rotary embeddings do not commute with R.
- permutation: one order of the key-value heads, expanded to the queries of each group, reorders the
  row blocks of q, k, v with their biases and the column blocks of o. Norms of queries and keys that
  are shared by all heads (Qwen3) do not notice.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlvr.schema import RecipeError

_KNOWN = {
    f"{part}_proj.{kind}" for part in ("q", "k", "v", "o") for kind in ("weight", "bias")
} | {"q_norm.weight", "k_norm.weight"}  # fmt: skip


@dataclass(frozen=True)
class Heads:
    """The shape of an attention layer."""

    queries: int
    key_values: int
    dimension: int


def attention_layers(model: nn.Module) -> dict[int, nn.Module]:
    """Return the attention of each block by its index."""
    layers = {}
    for name, module in model.named_modules():
        parts = name.split(".")
        if parts[-1] == "self_attn" and parts[-2].isdigit():
            layers[int(parts[-2])] = module
    return layers


def heads_of(attention: Any, config: Any, where: str) -> Heads:
    """Return the heads of ``attention``, or refuse what the formulas do not cover.

    Raises:
        RecipeError: the layer has parameters that a rotation or permutation could break.
    """
    names = {name for name, _ in attention.named_parameters()}
    unknown = sorted(names - _KNOWN)
    if unknown or not {"q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight"} <= names:
        what = f"has the parameter {unknown[0]!r}" if unknown else "lacks separate q, k, v, o"
        raise RecipeError(
            f"{where}: {what}; rotate is for attention like that of Qwen2, Qwen3 and Llama"
        )
    queries, key_values = config.num_attention_heads, config.num_key_value_heads
    # From the weight: config.head_dim is missing in some families.
    dimension = attention.v_proj.weight.shape[0] // key_values
    for norm in ("q_norm.weight", "k_norm.weight"):
        if norm in names and attention.get_parameter(norm).shape != (dimension,):
            raise RecipeError(f"{where}: {norm} is not shared by the heads; rotate cannot keep it")
    return Heads(queries, key_values, dimension)


def random_rotation(dimension: int, generator: torch.Generator) -> Tensor:
    """Return an orthogonal matrix of Haar measure, float64 (Mezzadri, Notices AMS 54, 2007)."""
    gauss = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)
    orthogonal, triangle = torch.linalg.qr(gauss)
    # QR leaves the signs of the columns to the implementation; these make the measure Haar's.
    return orthogonal * triangle.diagonal().sign()


def random_order(heads: Heads, generator: torch.Generator) -> Tensor:
    """Return a random order of the key-value heads that is one cycle, so that none keeps its place.

    Raises:
        RecipeError: there is only one head.
    """
    if heads.key_values < 2:
        raise RecipeError("--permute: a block with one key-value head has no other order")
    cycle = torch.randperm(heads.key_values, generator=generator)
    order = torch.empty_like(cycle)
    order[cycle] = cycle.roll(1)  # each head of the cycle takes the place of the next
    return order


@torch.no_grad()
def rotate(attention: Any, heads: Heads, rotation: Tensor) -> None:
    """Rotate the values of every head by ``rotation`` (D x D), in the weights' own dtype."""
    weight = attention.v_proj.weight
    blocks = weight.view(heads.key_values, heads.dimension, -1)
    # R^T from the left on the rows of every value head, R from the right on o's columns below.
    weight.copy_((rotation.to(weight).T @ blocks).reshape(weight.shape))
    if attention.v_proj.bias is not None:
        bias = attention.v_proj.bias
        bias.copy_((bias.view(heads.key_values, -1) @ rotation.to(bias)).reshape(-1))
    weight = attention.o_proj.weight
    blocks = weight.view(weight.shape[0], heads.queries, heads.dimension)
    # Columns of o: each query head multiplies R from the right.
    weight.copy_((blocks @ rotation.to(weight)).reshape(weight.shape))


@torch.no_grad()
def permute(attention: Any, heads: Heads, order: Tensor) -> None:
    """Put key-value head ``order[i]``, with its queries, in place i."""
    group = heads.queries // heads.key_values
    # The queries of key-value head h are the consecutive heads h group .. (h + 1) group.
    query_order = (order[:, None] * group + torch.arange(group)).reshape(-1)
    for linear, own in (
        (attention.q_proj, query_order),
        (attention.k_proj, order),
        (attention.v_proj, order),
    ):
        for parameter in linear.parameters():
            # Rows are outputs: D rows a head, of the weight and (as one column) of the bias.
            blocks = parameter.view(len(own), heads.dimension, -1)
            parameter.copy_(blocks[own].reshape(parameter.shape))
    weight = attention.o_proj.weight
    blocks = weight.view(weight.shape[0], heads.queries, heads.dimension)
    weight.copy_(blocks[:, query_order].reshape(weight.shape))
