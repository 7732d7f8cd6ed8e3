"""The sizes of a policy that its costs depend on, and what a run trains of it, in entries."""

from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedModel


@dataclass(frozen=True)
class Shape:
    """A decoder of equal blocks, each with one attention and one gated MLP.

    ``norms``: RMSNorms of a block over ``hidden``; ``head_norms``: whether queries and keys have
    one as well; ``biases``: whether their projections and that of the values have a bias.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool = True
    norms: int = 2
    head_norms: bool = False
    biases: bool = False

    @property
    def queries(self) -> int:
        """Entries of a token's queries in one block."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Entries of a token's keys in one block, and of its values."""
        return self.kv_heads * self.head_dim

    @property
    def block_matrices(self) -> int:
        """Entries of the linear layers of one block."""
        attention = 2 * self.hidden * (self.queries + self.keys)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def matrices(self) -> int:
        """Entries of the linear layers of all blocks: what a mask divides."""
        return self.layers * self.block_matrices

    @property
    def head(self) -> int:
        """Entries of the output head, which may be those of the embedding."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """All entries; a tied head counts once."""
        biases = self.queries + 2 * self.keys if self.biases else 0
        vectors = self.norms * self.hidden + (2 * self.head_dim if self.head_norms else 0) + biases
        ends = self.head * (1 if self.tied else 2) + self.hidden
        return self.matrices + self.layers * vectors + ends

    def adapter(self, rank: int) -> int:
        """Entries of a LoRA adapter of ``rank`` on every linear layer of the blocks."""
        sides = 4 * self.hidden + 2 * (self.queries + self.keys)
        return rank * self.layers * (sides + 3 * (self.hidden + self.intermediate))


@dataclass(frozen=True)
class Trained:
    """What a run trains, in entries.

    ``entries`` have a gradient, ``moving`` of them may move, and ``largest`` are those of the
    largest parameter. ``rank`` is an adapter's.
    """

    kind: Literal["dense", "mask", "adapter"]
    entries: int
    moving: int
    largest: int = 0
    rank: int = 0


def dense(shape: Shape) -> Trained:
    """Return training of every linear layer of the blocks."""
    return Trained("dense", shape.matrices, shape.matrices, shape.hidden * shape.intermediate)


def masked(shape: Shape, density: float) -> Trained:
    """Return a mask of ``density`` on every linear layer of the blocks."""
    moving = round(density * shape.matrices)
    return Trained("mask", shape.matrices, moving, shape.hidden * shape.intermediate)


def adapter(shape: Shape, rank: int) -> Trained:
    """Return LoRA of ``rank`` on every linear layer of the blocks."""
    entries = shape.adapter(rank)
    return Trained("adapter", entries, entries, rank * shape.intermediate, rank)


# From the config.json of the published checkpoints.
PUBLISHED = {
    "Qwen2.5-0.5B": Shape(24, 896, 4864, 14, 2, 64, 151936, biases=True),
    "Qwen2.5-1.5B": Shape(28, 1536, 8960, 12, 2, 128, 151936, biases=True),
    "Qwen2.5-7B": Shape(28, 3584, 18944, 28, 4, 128, 152064, tied=False, biases=True),
    "Qwen2.5-14B": Shape(48, 5120, 13824, 40, 8, 128, 152064, tied=False, biases=True),
    "Qwen2.5-32B": Shape(64, 5120, 27648, 40, 8, 128, 152064, tied=False, biases=True),
    "Qwen2.5-72B": Shape(80, 8192, 29568, 64, 8, 128, 152064, tied=False, biases=True),
    "Gemma-3-270M": Shape(18, 640, 2048, 4, 1, 256, 262144, norms=4, head_norms=True),
    "Qwen3-0.6B": Shape(28, 1024, 3072, 16, 8, 128, 151936, head_norms=True),
    "Llama-3.2-1B": Shape(16, 2048, 8192, 32, 8, 64, 128256),
}


def shape_of(model: PreTrainedModel) -> Shape | None:
    """Return the shape of ``model``; ``None`` where its blocks are of another kind."""
    config = model.config.get_text_config()
    names = [name for name, _ in model.named_parameters()]
    block = [name for name in names if ".layers.0." in name]
    keys = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
    sizes = [getattr(config, key, None) for key in (*keys, "vocab_size")]
    layers, hidden, intermediate, heads, vocab = (s if isinstance(s, int) else 0 for s in sizes)
    if not all((layers, hidden, intermediate, heads, vocab)):
        return None
    shape = Shape(
        layers,
        hidden,
        intermediate,
        heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or hidden // heads,
        vocab=vocab,
        tied=not any(name.startswith("lm_head") for name in names),
        norms=sum(
            "norm" in name and "q_norm" not in name and "k_norm" not in name for name in block
        ),
        head_norms=any("q_norm" in name for name in block),
        biases=any("q_proj.bias" in name for name in block),
    )
    # The proof that nothing was overlooked: experts, recurrent blocks, other norms.
    counted = sum(parameter.numel() for parameter in model.parameters())
    return shape if shape.parameters == counted else None
