"""Bytes that a training step holds on one process, part by part, for each engine.

With W the bytes of a weight, C those of a number in a matrix product (2 under bf16, else 4) and T
the tokens of a forward pass, a block keeps for its backward pass, per token:

    norms   4 h + 4 each, in float32 whatever the weights
    heads   C q for the queries, keys and values, repeated for the query heads, and 4 a head
    mask    C times the padded length, with sdpa
    MLP     C m for the gate, its activation, the up projection and their product
    inputs  of the linear layers, as their weights or adapters need them

These are what autograd saves in transformers 5 (``tests/test_costs.py`` counts it). The head is
TRL's: it makes the logits of at most 4096 tokens and 8192 words at a time.
"""

from dataclasses import dataclass, replace

from rlvr.costs.shapes import Shape, Trained

# TRL's tile of logits: tokens and words.
TILE_TOKENS, TILE_WORDS = 4096, 8192
# DeepSpeed's defaults: entries that ZeRO-3 keeps gathered, and of one bucket of gradients.
LIVE_ENTRIES, BUCKET_ENTRIES = 10**9, 5 * 10**8
ENGINES = ("one process", "DDP", "FSDP2", "ZeRO-1", "ZeRO-2", "ZeRO-3", "ZeRO-3 offload")


@dataclass(frozen=True)
class Setting:
    """A run as far as its memory goes.

    ``rows`` completions of ``length`` tokens, prompt and completion, go through a forward pass on
    each process, and the last ``completion`` tokens of each are scored. ``bf16``: matrix products
    are computed in it. ``padded``: sdpa gets a mask of all pairs of positions. ``on_gpu``: Adam
    without a mask updates all parameters at once, and logits are folded in place.
    """

    shape: Shape
    trained: Trained
    width: int  # bytes of a weight
    rows: int
    length: int
    completion: int
    bf16: bool = False
    checkpointing: bool = True
    accumulates: bool = False
    masters: bool = True
    free_gradients: bool = False
    padded: bool = True
    on_gpu: bool = True
    at_once: bool = False  # the optimizer's temporaries are of all parameters together

    @property
    def compute(self) -> int:
        """Bytes of a number in a matrix product."""
        return 2 if self.bf16 else self.width

    @property
    def autocast(self) -> bool:
        return self.compute < self.width

    @property
    def tokens(self) -> int:
        return self.rows * self.length


@dataclass(frozen=True)
class Memory:
    """Bytes on one process. ``buffers`` are the engine's; ``host`` lies in the CPU's memory."""

    weights: float
    gradients: float
    states: float
    masks: float
    base: float
    activations: float
    logits: float
    buffers: float
    working: float  # of one block while its gradients are made
    step: float  # temporaries of the optimizer
    accumulates: bool
    host: float = 0.0

    @property
    def resident(self) -> float:
        """What stays from step to step."""
        return self.weights + self.states + self.masks + self.base + self.buffers

    @property
    def peak(self) -> float:
        """The most at one time: where a loss is known, a backward pass ends, or a step is taken."""
        before = self.gradients if self.accumulates else 0.0
        loss = before + self.activations + self.logits
        return self.resident + max(loss, self.gradients + self.working, self.gradients + self.step)


def block_bytes(setting: Setting) -> float:
    """Return what one block keeps per token for its backward pass."""
    shape, compute = setting.shape, setting.compute
    norms = shape.norms * (4 * shape.hidden + 4)
    if shape.head_norms:
        norms += 4 * (shape.queries + shape.keys) + 4 * (shape.heads + shape.kv_heads)
    attention = 3 * compute * shape.queries + 4 * shape.heads
    if setting.padded:
        attention += compute * setting.length
    return norms + attention + 4 * compute * shape.intermediate + _inputs(setting)


def _inputs(setting: Setting) -> float:
    """Return the bytes per token of the linear layers' inputs in one block."""
    shape, compute = setting.shape, setting.compute
    # Autocast and adapters cast the input of each layer anew: five copies of the hidden state
    # where q, k and v share one, and gate and up another.
    if setting.trained.kind != "adapter":
        copies = 5 if setting.autocast else 2
        return compute * (copies * shape.hidden + shape.queries)
    between = 7 * compute * setting.trained.rank if setting.bf16 else 28 * setting.trained.rank
    if setting.autocast:
        return compute * (5 * shape.hidden + 2 * shape.queries) + between
    if setting.width == 4:
        return 4 * (2 * shape.hidden + shape.queries) + between
    # float32 adapters on bf16 weights: float32 inputs, also where bf16 ones were kept.
    inputs = 4 * (5 * shape.hidden + shape.queries) + 2 * shape.queries
    return (
        inputs + 4 * shape.intermediate - compute * shape.intermediate + 28 * setting.trained.rank
    )


def activation_bytes(setting: Setting) -> float:
    """Return what a forward pass keeps for its backward pass."""
    shape, tokens = setting.shape, setting.tokens
    whole = tokens * block_bytes(setting) + _casts(setting)
    scored = setting.rows * setting.completion * (setting.compute * shape.hidden + 16)
    if not setting.checkpointing:
        return shape.layers * whole + scored
    # The input of each block is kept, and one block at a time is computed again.
    inputs = shape.layers * tokens * shape.hidden * setting.width
    return inputs + whole + scored


def _casts(setting: Setting) -> float:
    """Return the bytes of one block's weights in the dtype that autocast gives them."""
    return setting.compute * setting.shape.block_matrices if setting.autocast else 0.0


def logit_bytes(setting: Setting) -> float:
    """Return the bytes of a tile of logits and what is computed from it, with its gradient."""
    tokens = setting.rows * setting.completion
    tile = min(tokens, TILE_TOKENS) * TILE_WORDS
    # Without Triton a tile is folded by torch, through six tensors of float32.
    tiles = setting.compute * tile if setting.on_gpu else (setting.compute + 24) * tile
    return tiles + (4 + setting.compute) * tokens * setting.shape.hidden


def working_bytes(setting: Setting) -> float:
    """Return the gradients of one block's activations while the last gradients are made."""
    shape, compute = setting.shape, setting.compute
    block = setting.tokens * (3 * compute * shape.intermediate + 4 * shape.hidden)
    if setting.checkpointing:
        block += setting.tokens * block_bytes(setting)
    return block + _casts(setting)


def state_bytes(setting: Setting) -> float:
    """Return the moments and masters of the optimizer, on one process."""
    trained = setting.trained
    if trained.kind == "adapter":
        return 8 * trained.entries  # an adapter is float32 on weights of any dtype
    if trained.kind == "dense":
        return 2 * setting.width * trained.entries  # torch: in the dtype of the weights
    masters = 4 if setting.width == 2 and setting.masters else 0
    return (8 + masters) * trained.moving


def gradient_bytes(setting: Setting) -> float:
    """Return the gradients of a whole backward pass, on one process."""
    trained = setting.trained
    if trained.kind == "adapter":
        return 4 * trained.entries
    if trained.kind == "mask" and setting.free_gradients:
        return 4 * trained.moving + setting.width * trained.largest
    return setting.width * trained.entries


def one_process(setting: Setting) -> Memory:
    """Return the memory of a run of one process."""
    trained = setting.trained
    width = 4 if trained.kind == "adapter" else setting.width
    bits = trained.entries / 8 if trained.kind == "mask" else 0.0
    adapter = 4 * trained.entries if trained.kind == "adapter" else 0.0
    return Memory(
        weights=setting.width * setting.shape.parameters + adapter,
        gradients=gradient_bytes(setting),
        states=state_bytes(setting),
        # On a GPU the optimizer and the base values have the bits each; a CPU shares them.
        masks=bits * (2 if setting.on_gpu else 1),
        base=width * trained.moving,
        activations=activation_bytes(setting),
        logits=logit_bytes(setting),
        buffers=0.0,
        working=working_bytes(setting),
        step=width * trained.entries if setting.at_once and trained.kind != "mask" else 0.0,
        accumulates=setting.accumulates,
    )


def memory(setting: Setting, engine: str, processes: int) -> Memory:
    """Return the memory of one of ``processes`` processes under ``engine``, one of ``ENGINES``."""
    alone = one_process(setting)
    if engine == "one process" or processes == 1 and engine in ("DDP", "FSDP2"):
        return alone
    if engine == "DDP":
        # Buckets are a second copy of the gradients.
        return replace(alone, buffers=alone.gradients)
    if engine == "FSDP2":
        return _sharded(setting, alone, processes)
    return _deepspeed(setting, alone, engine, processes)


def _sharded(setting: Setting, alone: Memory, processes: int) -> Memory:
    shape, compute = setting.shape, setting.compute
    # Two blocks are gathered at a time, one in use and one on its way, and the ends of the model
    # stay; TRL's head gathers its weight once more.
    ends = shape.head * (compute * (1 if shape.tied else 2) + setting.width)
    gathered = 2 * compute * shape.block_matrices + ends
    # accelerate sums the gradients of accumulated passes before they are divided.
    held = compute * (setting.trained.entries if setting.accumulates else shape.block_matrices)
    return replace(
        alone,
        weights=alone.weights / processes,
        gradients=alone.gradients / processes + held,
        states=alone.states / processes,
        masks=alone.masks / processes,
        base=alone.base / processes,
        step=alone.step / processes,
        buffers=gathered,
    )


def _deepspeed(setting: Setting, alone: Memory, engine: str, processes: int) -> Memory:
    """Return DeepSpeed's share; its weights and gradients are of the dtype that it computes in.

    Masters and moments are float32 and dense, whatever the mask; each rank keeps the mask's bits
    and the base values whole.
    """
    compute, parameters = setting.compute, setting.shape.parameters
    entries = setting.trained.entries
    masters = 4 if compute == 2 else 0
    stage = int(engine[5])
    states = (8 + masters) * entries / processes
    gradients = compute * entries / (1 if stage == 1 else processes)
    weights = compute * parameters / (processes if stage == 3 else 1)
    buffers = 2 * compute * min(BUCKET_ENTRIES, entries)
    if stage == 3:
        buffers += compute * min(LIVE_ENTRIES, parameters)
    offload = engine.endswith("offload")
    return replace(
        alone,
        weights=0.0 if offload else weights,
        gradients=gradients,
        states=0.0 if offload else states,
        buffers=buffers,
        step=0.0,
        host=states + weights if offload else 0.0,
    )
