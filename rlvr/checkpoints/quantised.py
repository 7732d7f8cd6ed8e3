"""FP8 weights with their scales as one float32 matrix, and stacked experts as single matrices."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from rlvr.checkpoints.foreign import refuse_codes
from rlvr.checkpoints.plain import Checkpoint, Stored
from rlvr.schema import RecipeError

_SCALES = ("_scale_inv", "_scale")  # of DeepSeek's, of compressed-tensors and fbgemm
_NOT_WEIGHTS = ("input_scale", "activation_scale", "k_scale", "v_scale", "weight_zero_point")


def dequantised(checkpoint: Checkpoint, where: Path) -> Checkpoint:
    """Return the checkpoint with every FP8 weight times its scales, which stand in no row then.

    W = code x scale, with one scale for the whole, for each row, or for each block of the matrix.

    Raises:
        RecipeError: codes of another quantiser, or scales that do not fit.
    """
    refuse_codes(checkpoint, where)
    _refuse_integers(checkpoint, where)
    scales = {}
    for name, stored in checkpoint.items():
        for end in _SCALES:
            scale = checkpoint.get(name + end)
            if scale is not None and stored.dtype.startswith("float8"):
                scales[name] = scale
    used = {id(scale) for scale in scales.values()}
    whole: Checkpoint = {}
    for name, stored in checkpoint.items():
        if name in scales:
            whole[name] = _scaled(name, stored, scales[name], where)
        elif id(stored) not in used and not name.endswith(_NOT_WEIGHTS):
            whole[name] = stored
    return whole


def _refuse_integers(checkpoint: Checkpoint, where: Path) -> None:
    """Refuse integers with a scale: codes of 8 bits that are no floats."""
    for name, stored in checkpoint.items():
        if f"{name}_scale" in checkpoint and "int" in stored.dtype:
            raise RecipeError(
                f"{where}: {name!r} holds {stored.dtype} codes with a scale, no weights; name the "
                "checkpoint it was made from, or dequantise it"
            )


def _scaled(name: str, codes: Stored, scale: Stored, where: Path) -> Stored:
    blocks = [size for size in scale.shape if size != 1]
    if blocks and len(scale.shape) not in (1, len(codes.shape)):
        raise RecipeError(
            f"{where}: the scales of {name!r} are of shape {list(scale.shape)} and its codes of "
            f"{list(codes.shape)}; they do not fit"
        )

    def load() -> Tensor:
        return codes.load().float() * _spread(scale.load().float(), codes.shape)

    return Stored(codes.shape, "float32", load, codes.where, stored_bits=8)


def _spread(scale: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the scales in the shape of the codes: each stands for a block of them."""
    if scale.numel() == 1:
        return scale.reshape(())
    if scale.ndim == 1:
        return scale[:, None]
    for axis, (size, count) in enumerate(zip(shape, scale.shape, strict=True)):
        if count not in (1, size):
            block = _block(size, count)
            scale = scale.repeat_interleave(block, dim=axis).narrow(axis, 0, size)
    return scale


def _block(size: int, count: int) -> int:
    """Return the length of the blocks of which ``count`` cover ``size``; the last may be cut.

    Blocks are powers of two, 128 as a rule, where one fits.
    """
    powers = [1 << n for n in range(4, 13)]
    return next((p for p in powers if -(-size // p) == count), -(-size // count))


def unstacked(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with stacked experts (experts x rows x columns) as single matrices."""
    whole: Checkpoint = {}
    for name, stored in checkpoint.items():
        if len(stored.shape) == 3 and "experts." in name:
            start, end = name.rsplit("experts.", 1)
            for index in range(stored.shape[0]):
                single = replace(
                    stored, shape=stored.shape[1:], load=_one(stored, index), load_part=None
                )
                end = end if end.endswith(".weight") else f"{end}.weight"
                whole[f"{start}experts.{index}.{end}"] = single
        else:
            whole[name] = stored
    return whole


def _one(stored: Stored, index: int) -> Callable[[], Tensor]:
    part = stored.load_part
    return (lambda: part(index)) if part is not None else lambda: stored.load()[index].clone()
