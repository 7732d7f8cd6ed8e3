"""A delta turns base into tuned and back, bit for bit, whatever the dtype, shape or sharding."""

import filecmp
import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from rlvr.checkpoints.reader import read_weights
from rlvr.delta import apply, exact, pack, revert

DTYPES = [
    torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn,
    torch.float8_e5m2, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
    torch.bool, torch.complex64,
]  # fmt: skip
SHAPES = {"scalar": (), "empty": (0,), "empty_matrix": (3, 0), "one": (1,), "matrix": (37, 53)}


def random_bits(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor of random bit patterns: NaNs, infinities and subnormals among them."""
    entries = torch.Size(shape).numel()
    high = 2 if dtype == torch.bool else 256
    data = torch.randint(high, (entries * dtype.itemsize,), dtype=torch.uint8)
    return data.view(dtype).view(shape)


def random_pair(dtype: torch.dtype) -> tuple[dict, dict]:
    """Return two sets of tensors: some equal, some changed in a tenth, one in every entry."""
    torch.manual_seed(0)
    base = {name: random_bits(shape, dtype) for name, shape in SHAPES.items()}
    base["same"] = random_bits((64, 8), dtype)
    tuned = {name: tensor.clone() for name, tensor in base.items()}
    for name in ("scalar", "one"):
        tuned[name].view(-1).view(torch.uint8)[0] ^= 1
    flat = tuned["matrix"].view(-1)
    moved = torch.rand(flat.shape) < 0.1
    flat[moved] = random_bits(tuple(flat.shape), dtype)[moved]
    return base, tuned


def assert_same_bits(folder, tensors):
    found = dict(read_weights(folder))
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        bits = [each.contiguous().view(-1).view(torch.uint8) for each in (found[name], tensor)]
        assert torch.equal(*bits), name


def assert_same_folders(first, second):
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    _, different, missing = filecmp.cmpfiles(first, second, names, shallow=False)
    assert not different and not missing


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_round_trip_is_bit_exact_both_ways(save_checkpoint, tmp_path, dtype):
    tensors = random_pair(dtype)
    base, tuned = save_checkpoint("base", tensors[0]), save_checkpoint("tuned", tensors[1])
    pack(base, tuned, tmp_path / "delta")
    apply(base, tmp_path / "delta", tmp_path / "applied")
    revert(tuned, tmp_path / "delta", tmp_path / "reverted")
    assert_same_folders(tmp_path / "applied", tuned)
    assert_same_folders(tmp_path / "reverted", base)
    assert_same_bits(tmp_path / "applied", tensors[1])


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_16_bit_base_of_a_float32_policy_keeps_its_dtype_and_every_pattern(
    save_checkpoint, tmp_path, dtype, shards
):
    every = torch.arange(1 << 16).to(torch.int32).to(torch.int16).view(dtype)
    base = {"all": every, "same": every[1000:1100].clone(), "odd": random_bits((7,), torch.float32)}
    base |= {"byte": random_bits((3,), torch.uint8), "empty": every[:0].clone()}
    widened = {n: t.float() if t.dtype == dtype else t.clone() for n, t in base.items()}
    moved = torch.rand(widened["all"].shape) < 0.1
    widened["all"][moved] = random_bits((int(moved.sum()),), torch.float32)
    folders = save_checkpoint("base", base, shards), save_checkpoint("tuned", widened, shards)
    packed = pack(*folders, tmp_path / "delta")
    # Torch may set the quiet bit of a NaN when it widens, the delta's widening keeps it.
    assert packed.changed <= int(moved.sum() + every.isnan().sum())
    apply(folders[0], tmp_path / "delta", tmp_path / "applied")
    revert(folders[1], tmp_path / "delta", tmp_path / "reverted")
    revert(tmp_path / "applied", tmp_path / "delta", tmp_path / "there_and_back")
    assert_same_bits(tmp_path / "applied", widened)
    for made in ("reverted", "there_and_back"):
        assert_same_bits(tmp_path / made, base)
    if shards > 1:
        index = json.loads((tmp_path / "applied" / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"]) == set(base)


def test_an_index_states_the_size_of_its_own_side(save_checkpoint, tmp_path):
    base = {name: torch.randn(8, 4).bfloat16() for name in "ab"}
    folders = [
        save_checkpoint("base", base, 2),
        save_checkpoint("tuned", {name: weight.float() + 1 for name, weight in base.items()}, 2),
    ]
    name = "model.safetensors.index.json"
    for folder, size in zip(folders, (128, 256), strict=True):
        index = json.loads((folder / name).read_text())
        index["metadata"]["total_size"] = size
        (folder / name).write_text(json.dumps(index))
    pack(*folders, tmp_path / "delta")
    apply(folders[0], tmp_path / "delta", tmp_path / "applied")
    revert(folders[1], tmp_path / "delta", tmp_path / "reverted")
    for made, size in (("applied", 256), ("reverted", 128)):
        assert json.loads((tmp_path / made / name).read_text())["metadata"]["total_size"] == size


def test_nan_payloads_signed_zeros_and_subnormals_keep_their_bits(save_checkpoint, tmp_path):
    patterns = torch.tensor(
        [0, 0x80000000, 1, 0x80000001, 0x7F800000, 0x7F800001, 0x7FC00000, 0x7FC00001, 0xFFC00000],
    ).to(torch.int32)
    first, second = (grid.reshape(-1) for grid in torch.meshgrid(patterns, patterns, indexing="ij"))
    base = save_checkpoint("base", {"weight": first.contiguous().view(torch.float32)})
    tuned = save_checkpoint("tuned", {"weight": second.contiguous().view(torch.float32)})
    packed = pack(base, tuned, tmp_path / "delta")
    # 0.0 and -0.0 are equal as numbers, a NaN is not equal to itself: only the bits count.
    assert packed.changed == 81 - 9
    apply(base, tmp_path / "delta", tmp_path / "applied")
    revert(tuned, tmp_path / "delta", tmp_path / "reverted")
    assert_same_folders(tmp_path / "applied", tuned)
    assert_same_folders(tmp_path / "reverted", base)


@pytest.mark.parametrize("shards", [(1, 3), (3, 1), (2, 4), (3, 3)])
def test_sharding_may_differ_and_the_result_keeps_that_of_its_input(
    save_checkpoint, tmp_path, shards
):
    tensors = random_pair(torch.bfloat16)
    base = save_checkpoint("base", tensors[0], shards[0])
    tuned = save_checkpoint("tuned", tensors[1], shards[1])
    pack(base, tuned, tmp_path / "delta")
    apply(base, tmp_path / "delta", tmp_path / "applied")
    revert(tuned, tmp_path / "delta", tmp_path / "reverted")
    assert_same_bits(tmp_path / "applied", tensors[1])
    assert_same_bits(tmp_path / "reverted", tensors[0])
    for given, made in ((base, "applied"), (tuned, "reverted")):
        names = sorted(path.name for path in given.iterdir())
        assert names == sorted(path.name for path in (tmp_path / made).iterdir())


def test_equal_checkpoints_give_a_tiny_delta_that_works(save_checkpoint, tmp_path):
    base = save_checkpoint("base", random_pair(torch.bfloat16)[0])
    packed = pack(base, base, tmp_path / "delta")
    assert packed.changed == 0 and packed.file_bytes < 1000
    apply(base, tmp_path / "delta", tmp_path / "applied")
    revert(base, tmp_path / "delta", tmp_path / "reverted")
    assert_same_folders(tmp_path / "applied", base)
    assert_same_folders(tmp_path / "reverted", base)


def test_a_delta_of_another_chunk_size_still_applies(save_checkpoint, tmp_path, monkeypatch):
    tensors = random_pair(torch.float16)
    base, tuned = save_checkpoint("base", tensors[0]), save_checkpoint("tuned", tensors[1])
    with monkeypatch.context() as small:
        small.setattr(exact, "CHUNK", 100)
        pack(base, tuned, tmp_path / "delta")
    apply(base, tmp_path / "delta", tmp_path / "applied")
    assert_same_folders(tmp_path / "applied", tuned)


def test_packing_twice_gives_the_same_bytes_and_any_safetensors_reader_opens_them(
    save_checkpoint, tmp_path
):
    tensors = random_pair(torch.bfloat16)
    base, tuned = save_checkpoint("base", tensors[0]), save_checkpoint("tuned", tensors[1])
    for name in ("first", "second"):
        pack(base, tuned, tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    with safe_open(tmp_path / "first", framework="pt") as file:
        assert set(file.keys()) == {"xor.scalar", "xor.one", "xor.matrix", "files"}


def test_other_files_are_restored_as_they_were_on_each_side(save_checkpoint, tmp_path):
    tensors = random_pair(torch.bfloat16)
    old = {"tokenizer.json": "same " * 99, "generation_config.json": "old", "README.md": "card"}
    new = {"tokenizer.json": "same " * 99, "generation_config.json": "new", "empty.txt": ""}
    base = save_checkpoint("base", tensors[0], **old)
    tuned = save_checkpoint("tuned", tensors[1], **new)
    (tuned / "additional_chat_templates").mkdir()
    (tuned / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    (tuned / "optimizer.pt").write_text("training state")
    pack(base, tuned, tmp_path / "delta")
    apply(base, tmp_path / "delta", tmp_path / "applied")
    revert(tuned, tmp_path / "delta", tmp_path / "reverted")
    (tuned / "optimizer.pt").unlink()
    assert_same_folders(tmp_path / "reverted", base)
    template = tmp_path / "applied" / "additional_chat_templates" / "tools.jinja"
    assert template.read_text() == "{{ tools }}"
    for name, text in {**new, "config.json": "{}"}.items():
        assert (tmp_path / "applied" / name).read_text() == text
    assert not (tmp_path / "applied" / "README.md").exists()


@pytest.fixture
def tiny_policies():
    """Two random policies of one architecture with a tied output head, the second a bit moved."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    base = LlamaForCausalLM(config).to(torch.bfloat16)
    tuned = LlamaForCausalLM(config).to(torch.bfloat16)
    tuned.load_state_dict(base.state_dict())
    with torch.no_grad():
        for weight in tuned.parameters():
            weight.view(-1)[::50] += 0.01
    return base, tuned


@pytest.mark.parametrize("sharded", [0, 1])
def test_checkpoints_of_transformers_apply_to_a_policy_that_loads(tiny_policies, tmp_path, sharded):
    base, tuned = tiny_policies
    sizes = ("20KB", "5GB") if sharded else ("5GB", "20KB")
    base.save_pretrained(tmp_path / "base", max_shard_size=sizes[0])
    tuned.save_pretrained(tmp_path / "tuned", max_shard_size=sizes[1])
    shards = sorted(path.name for path in (tmp_path / "base").glob("*.safetensors"))
    assert (len(shards) > 2) == bool(sharded)
    pack(tmp_path / "base", tmp_path / "tuned", tmp_path / "delta")
    apply(tmp_path / "base", tmp_path / "delta", tmp_path / "applied")
    assert shards == sorted(path.name for path in (tmp_path / "applied").glob("*.safetensors"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "applied")
    for name, weight in tuned.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name


def test_a_hub_snapshot_of_links_is_read_and_written_as_files(save_checkpoint, tmp_path):
    tensors = random_pair(torch.bfloat16)
    base, tuned = save_checkpoint("base", tensors[0]), save_checkpoint("tuned", tensors[1])
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in base.iterdir():
        (snapshot / path.name).symlink_to(path)
    pack(snapshot, tuned, tmp_path / "delta")
    apply(snapshot, tmp_path / "delta", tmp_path / "applied")
    assert not any(path.is_symlink() for path in (tmp_path / "applied").iterdir())
    assert_same_folders(tmp_path / "applied", tuned)
