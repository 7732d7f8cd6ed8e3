"""What a delta refuses: one message with the fix, exit code 2, and nothing under the final name."""

import os

import pytest
import torch
from safetensors.torch import save_file

from rlvr.checkpoints.delta_file import read_delta, write_delta
from rlvr.checkpoints.runs import publish_checkpoint, step_folder
from rlvr.cli import main as cli_main
from rlvr.delta import apply, pack, revert
from rlvr.schema import RecipeError, RunError


def weights(seed: int = 0, **changes) -> dict[str, torch.Tensor]:
    """Return two tensors of a seed; ``changes`` replace, add or (``None``) remove one."""
    torch.manual_seed(seed)
    tensors = {"a.weight": torch.randn(5, 4), "b.weight": torch.randn(6)}
    return {name: each for name, each in {**tensors, **changes}.items() if each is not None}


@pytest.fixture
def pair(save_checkpoint, tmp_path):
    """Return base, tuned and the delta between them."""
    base, tuned = save_checkpoint("base", weights()), save_checkpoint("tuned", weights(1))
    pack(base, tuned, tmp_path / "delta")
    return base, tuned, tmp_path / "delta"


def refused(capsys, *words) -> str:
    """Run ``rlvr delta WORDS`` and return its one line of error."""
    assert cli_main(["delta", *map(str, words)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def only(folder, *names):
    """Whether ``folder`` holds these names and no leftover of any kind."""
    return sorted(path.name for path in folder.iterdir()) == sorted(names)


def test_the_command_line_packs_applies_and_reverts(pair, tmp_path, capsys):
    base, tuned, delta = pair
    assert cli_main(["delta", "pack", str(base), str(tuned), str(tmp_path / "again")]) == 0
    assert "26 of 26 entries changed (100.000%)" in capsys.readouterr().out
    assert cli_main(["delta", "apply", str(base), str(delta), str(tmp_path / "applied")]) == 0
    assert cli_main(["delta", "revert", str(tuned), str(delta), str(tmp_path / "reverted")]) == 0
    assert not (tmp_path / "applied" / "manifest.json").exists()
    for made, true in (("applied", tuned), ("reverted", base)):
        weights_file = tmp_path / made / "model.safetensors"
        assert weights_file.read_bytes() == (true / "model.safetensors").read_bytes()


@pytest.mark.parametrize("words", [["delta"], ["delta", "pack", "a"], ["delta", "apply", *"abcd"]])
def test_missing_or_surplus_words_are_usage_errors(words):
    with pytest.raises(SystemExit) as stopped:
        cli_main(words)
    assert stopped.value.code == 2


OTHERS = {
    "shape": ({"a.weight": torch.zeros(4, 5)}, ["'a.weight'", "F32 [5, 4]", "F32 [4, 5]"]),
    "bf16": (
        {"a.weight": torch.zeros(5, 4).bfloat16()},
        ["'a.weight'", "BF16 in TUNED", "Widen TUNED", "dtype=torch.float32"],
    ),
    "float64": (
        {"b.weight": torch.zeros(6).double()},
        ["'b.weight'", "F64 in TUNED", "Widen BASE", "dtype=torch.float64"],
    ),
    "int32": (
        {"b.weight": torch.zeros(6).int()},
        ["'b.weight'", "I32 in TUNED", "Save both in one dtype"],
    ),
    "missing": ({"b.weight": None}, ["'b.weight'", "only in BASE"]),
    "added": ({"lm_head.weight": torch.zeros(3)}, ["'lm_head.weight'", "only in TUNED", "tied"]),
}


@pytest.mark.parametrize(("changes", "words"), OTHERS.values(), ids=OTHERS)
def test_another_architecture_or_dtype_names_the_tensor(
    save_checkpoint, tmp_path, capsys, changes, words
):
    base = save_checkpoint("base", weights())
    tuned = save_checkpoint("tuned", weights(1, **changes))
    error = refused(capsys, "pack", base, tuned, tmp_path / "out")
    assert all(word in error for word in words), error
    assert only(tmp_path, "base", "tuned")


@pytest.mark.parametrize("name", ["nowhere", "empty", "shards", "bad_index", "cut", "twice"])
def test_a_folder_without_whole_weights_is_refused(save_checkpoint, tmp_path, capsys, name):
    base = save_checkpoint("base", weights())
    (tmp_path / "empty").mkdir()
    sharded = save_checkpoint("shards", weights(), shards=2)
    (sharded / "model-00002-of-00002.safetensors").unlink()
    index = save_checkpoint("bad_index", weights(), shards=2) / "model.safetensors.index.json"
    index.write_text("[]")
    cut = save_checkpoint("cut", weights()) / "model.safetensors"
    os.truncate(cut, cut.stat().st_size - 1)
    twice = save_checkpoint("twice", weights(), shards=2)
    save_file(weights(), twice / "model-00002-of-00002.safetensors")
    hints = {
        "nowhere": "no such checkpoint folder",
        "empty": "save_pretrained",
        "shards": "model-00002-of-00002.safetensors is missing",
        "bad_index": "no index of weights",
        "cut": "cut short",
        "twice": "'a.weight' is in",
    }
    assert hints[name] in refused(capsys, "pack", base, tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["pack", "apply", "revert"])
@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_an_existing_out_is_refused_and_kept(pair, tmp_path, capsys, verb, kind):
    base, tuned, delta = pair
    out = tmp_path / "out"
    {"file": out.touch, "folder": out.mkdir, "dangling link": lambda: out.symlink_to("none")}[
        kind
    ]()
    words = {"pack": (base, tuned), "apply": (base, delta), "revert": (tuned, delta)}[verb]
    assert "exists already" in refused(capsys, verb, *words, out)
    assert only(tmp_path, "base", "tuned", "delta", "out")


def test_a_wrong_base_is_refused_before_anything_is_written(
    pair, save_checkpoint, tmp_path, capsys
):
    base, tuned, delta = pair
    other = save_checkpoint("other", weights(0, **{"b.weight": weights()["b.weight"].neg()}))
    for verb, given, hint in (
        ("apply", other, f"not the base checkpoint of {delta}"),
        ("revert", other, f"not the tuned checkpoint of {delta}"),
        ("apply", tuned, "`rlvr delta revert` goes the other way"),
        ("revert", base, "`rlvr delta apply` goes the other way"),
    ):
        assert hint in refused(capsys, verb, given, delta, tmp_path / "new" / "out")
    assert only(tmp_path, "base", "tuned", "delta", "other")


def test_a_base_that_differs_in_one_unchanged_bit_is_refused(save_checkpoint, tmp_path):
    """The delta does not touch ``b.weight``, and still knows it."""
    base = save_checkpoint("base", weights())
    tuned = save_checkpoint("tuned", weights(0, **{"a.weight": weights()["a.weight"] + 1}))
    pack(base, tuned, tmp_path / "delta")
    moved = weights()["b.weight"]
    moved.view(torch.int32)[4] ^= 1
    other = save_checkpoint("other", weights(0, **{"b.weight": moved}))
    with pytest.raises(RecipeError, match="not the base checkpoint"):
        apply(other, tmp_path / "delta", tmp_path / "out")


def test_any_flipped_byte_is_refused(pair, tmp_path):
    """Every byte of the file: length, header, checksum, positions, XORs."""
    content = pair[2].read_bytes()
    damaged = tmp_path / "damaged"
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        damaged.write_bytes(flipped)
        with pytest.raises(RecipeError, match="damaged"):
            read_delta(damaged)


def test_any_cut_and_any_surplus_is_refused(pair, tmp_path):
    content = pair[2].read_bytes()
    damaged = tmp_path / "damaged"
    for wrong in [content[:size] for size in range(len(content))] + [content + b"\0"]:
        damaged.write_bytes(wrong)
        with pytest.raises(RecipeError, match="damaged"):
            read_delta(damaged)


def test_a_damaged_delta_is_one_message(pair, tmp_path, capsys):
    base, _, delta = pair
    os.truncate(delta, delta.stat().st_size - 5)
    assert "cut short or damaged" in refused(capsys, "apply", base, delta, tmp_path / "out")
    assert "no such delta file" in refused(capsys, "apply", base, base, tmp_path / "out")
    weight_file = base / "model.safetensors"
    assert "not a delta" in refused(capsys, "apply", base, weight_file, tmp_path / "out")
    assert only(tmp_path, "base", "tuned", "delta")


def rewritten(path, out, **changes):
    """Write a delta with another header and a right checksum; return its path."""
    delta = read_delta(path)
    payload = out.with_suffix(".payload")
    payload.write_bytes(b"".join(delta.read(part) for part in delta.parts))
    sizes = {part: size for part, (_, size) in delta.parts.items()}
    with open(payload, "rb") as file:
        write_delta(out, {**delta.header, **changes}, sizes, file)
    payload.unlink()
    return out


def test_a_result_that_is_not_the_tuned_checkpoint_never_gets_its_name(pair, tmp_path, capsys):
    base, _, delta = pair
    wrong = rewritten(delta, tmp_path / "wrong", tuned="0" * 64)
    with pytest.raises(RunError, match="bit for bit"):
        apply(base, wrong, tmp_path / "out")
    assert cli_main(["delta", "apply", str(base), str(wrong), str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert only(tmp_path, "base", "tuned", "delta", "wrong")


def test_a_newer_format_and_a_file_outside_of_out_are_refused(pair, tmp_path):
    base, tuned, delta = pair
    with pytest.raises(RecipeError, match="format 3; upgrade"):
        apply(base, rewritten(delta, tmp_path / "newer", version=3), tmp_path / "out")
    (tuned / "note.txt").write_text("note")
    pack(base, tuned, tmp_path / "noted")
    rows = [["../note.txt", None, 4]]
    with pytest.raises(RecipeError, match="outside of OUT"):
        apply(
            base, rewritten(tmp_path / "noted", tmp_path / "hostile", files=rows), tmp_path / "out"
        )
    assert only(tmp_path, "base", "tuned", "delta", "newer", "noted", "hostile")


def test_a_large_file_that_differs_is_refused(pair, tmp_path, capsys):
    base, tuned, _ = pair
    with open(tuned / "tokenizer.json", "wb") as file:
        file.truncate((20 << 20) + 1)
    error = refused(capsys, "pack", base, tuned, tmp_path / "out")
    assert "tokenizer.json" in error and "20 MiB" in error
    (base / "tokenizer.json").write_bytes((tuned / "tokenizer.json").read_bytes())
    pack(base, tuned, tmp_path / "out")


def test_a_run_directory_stands_for_its_newest_policy(save_checkpoint, tmp_path, capsys):
    base = save_checkpoint("base", weights())
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert "no complete checkpoint" in refused(
        capsys, "pack", base, tmp_path / "run", tmp_path / "out"
    )
    written = save_checkpoint("run/checkpoints/checkpoint-3", weights(1))
    tuned = step_folder(tmp_path / "run", 3)
    publish_checkpoint(written, tuned, keep=None)
    pack(base, tmp_path / "run", tmp_path / "delta")
    apply(base, tmp_path / "delta", tmp_path / "applied")
    revert(tmp_path / "run", tmp_path / "delta", tmp_path / "reverted")
    assert not (tmp_path / "applied" / "manifest.json").exists()
    for made, true in (("applied", tuned), ("reverted", base)):
        weights_file = tmp_path / made / "model.safetensors"
        assert weights_file.read_bytes() == (true / "model.safetensors").read_bytes()


def test_the_file_names_what_it_was_packed_from(pair):
    base, tuned, delta = pair
    header = read_delta(delta).header
    assert header["provenance"]["base"] == str(base)
    assert header["provenance"]["tuned"] == str(tuned)
    assert header["tensors"]["a.weight"]["dtype"] == "F32"
