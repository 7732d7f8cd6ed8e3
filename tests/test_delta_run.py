"""The delta of a real run: the pocket policy against three masked steps from it."""

import filecmp
import re

import torch
from conftest import POLICY
from transformers import AutoModelForCausalLM

from rlvr.cli import main as cli_main
from rlvr.delta import apply, pack, revert
from rlvr.masks.mask import Mask
from rlvr.run_dir import trained_policy


def test_a_masked_run_packs_against_its_widened_base_and_comes_back(train, tmp_path, capsys):
    """The base is bf16 on disk and the run float32: refused, and the fix in the message works."""
    run_dir = train(mask={"builder": "random", "density": 0.02})
    delta = tmp_path / "delta"
    capsys.readouterr()
    assert cli_main(["delta", "pack", str(POLICY), str(run_dir), str(delta)]) == 2
    error = capsys.readouterr().err
    fix = re.search(r"from_pretrained\('(.*)', dtype=(torch\.float32)\)", error)
    assert fix and fix[1] == str(POLICY)
    base, tuned = tmp_path / "base", trained_policy(run_dir)[0]
    AutoModelForCausalLM.from_pretrained(fix[1], dtype=torch.float32).save_pretrained(base)

    packed = pack(base, run_dir, delta)
    may_move = sum(int(bits.sum()) for _, bits in Mask.load(run_dir / "mask.safetensors").items())
    assert 0 < packed.changed <= may_move
    # 4 bytes a changed float32, under a byte for its place, and the tokenizer and headers.
    assert packed.file_bytes < 5 * packed.changed + 8000
    apply(base, delta, tmp_path / "applied")
    revert(run_dir, delta, tmp_path / "reverted")
    names = [path.name for path in (tmp_path / "applied").iterdir()]
    assert {"config.json", "tokenizer.json", "chat_template.jinja"} <= set(names)
    assert filecmp.cmpfiles(tmp_path / "applied", tuned, names, shallow=False)[1:] == ([], [])
    same, *different = filecmp.cmpfiles(
        tmp_path / "reverted", base, [path.name for path in base.iterdir()], shallow=False
    )
    assert different == [[], []] and len(same) == 3
