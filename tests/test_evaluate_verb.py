"""``rlvr evaluate`` as a user calls it: files, table, report, errors; what MODEL may be."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import POLICY, SMALL
from test_disk import largest_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlvr.benchmarks.policies import find_policies
from rlvr.benchmarks.presets import BENCHMARKS, PRESETS, settings_for
from rlvr.cli import main
from rlvr.commands import PRESETS as WORDS
from rlvr.delta import pack

LABEL = "deepscaler with max_new_tokens 24, prompt plain"
QUICK = ["--samples", "2", "--max-new-tokens", "24", "--batch-size", "8"]


def rows_file(path: Path, count: int = 10, **more: Any) -> Path:
    """Write a benchmark of one's own that the pocket policy can read."""
    rows = [{"id": f"own/{i}", "problem": f"{i}+2", "answer": str(i + 2)} for i in range(count)]
    path.write_text("".join(json.dumps({**row, **more}) + "\n" for row in rows))
    return path


def evaluate(out: Path, *words: object, model: object = POLICY) -> int:
    return main(["evaluate", str(model), *map(str, words), *QUICK, "--out", str(out)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished evaluation of the pocket policy on two benchmarks."""
    out = tmp_path_factory.mktemp("finished") / "eval"
    own = rows_file(out.parent / "own.jsonl")
    words = ["--benchmark", "pocket", "pocket.size=12", "--data", own, "--prompt", "plain"]
    assert evaluate(out, *words) == 0
    return out


def test_files_say_what_was_evaluated_and_how(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["preset"] == LABEL
    assert list(summary["benchmarks"]) == ["own", "pocket"]
    assert {"rlvr", "versions", "engine", "weights", "written", "average"} <= set(summary)
    one = summary["benchmarks"]["pocket"]
    assert one["settings"] == {
        **{"samples": 2, "temperature": 0.6, "top_p": 0.95, "max_new_tokens": 24},
        **{"batch_size": 8, "seed": 0},
    }
    assert {"rows_sha256", "revision", "verifier", "prompt", "weights"} <= set(one["about"])
    means = [each["accuracy"]["mean"] for each in summary["benchmarks"].values()]
    assert summary["average"] == pytest.approx(sum(means) / 2)
    lines = (finished / "pocket.jsonl").read_text().splitlines()
    assert len(lines) == 12 and all(len(json.loads(line)["completions"]) == 2 for line in lines)


def test_the_report_holds_every_completion_and_fetches_nothing(finished):
    page = (finished / "report.html").read_text()
    data = page.split('id="completions">')[1].split("</script>")[0]
    assert len(json.loads(data)) == 2 * (12 + 10)
    assert "http" not in page.replace("http-equiv", "")


def test_a_second_call_draws_nothing_and_more_samples_keep_the_old(finished, tmp_path, capsys):
    out = tmp_path / "eval"
    shutil.copytree(finished, out)
    own = finished.parent / "own.jsonl"
    before = (out / "own.jsonl").read_bytes()
    words = ["--data", own, "--prompt", "plain"]
    assert evaluate(out, *words) == 0
    assert (out / "own.jsonl").read_bytes() == before
    assert evaluate(out, *words, "--more-samples", 1) == 0
    old, new = (
        [json.loads(line) for line in text.splitlines()]
        for text in (before, (out / "own.jsonl").read_bytes())
    )
    for first, second in zip(old, new, strict=True):
        assert first["completions"] == second["completions"][:2]
        assert len(second["completions"]) == 3
    assert "10x3" in capsys.readouterr().out


def test_drawing_goes_on_until_the_interval_is_narrow(tmp_path, capsys):
    own = rows_file(tmp_path / "own.jsonl", 4)
    words = ["--data", own, "--prompt", "plain", "--temperature", 1]
    assert evaluate(tmp_path / "out", *words, "--until-width", 75) == 0
    content = json.loads((tmp_path / "out" / "own.json").read_text())
    width = content["accuracy"]["high"] - content["accuracy"]["low"]
    said = capsys.readouterr().out
    assert width <= 0.75 or "use more problems" in said


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_fixes_the_published_settings(preset):
    assert tuple(PRESETS) == WORDS
    published = {
        "deepscaler": (0.6, 0.95, 32768, 16, 16),
        "justrl": (0.7, 0.9, 31744, 32, 4),
        "paper": (0.7, 0.8, 32768, 64, 2),
        "greedy": (0.0, 1.0, 32768, 1, 1),
    }
    aime, math = (
        settings_for(preset, name, BENCHMARKS[name], {}) for name in ("aime24", "math500")
    )
    assert published[preset][:3] == (aime.temperature, aime.top_p, aime.max_new_tokens)
    assert published[preset][3:] == (aime.samples, math.samples)


TWICE = '{"id": "a", "problem": "1", "answer": "1"}\n' * 2
REFUSED = {
    "no benchmark": ([], r"name --benchmark NAME or --data FILE"),
    "unknown": (["--benchmark", "aime26"], r"--benchmark aime26: unknown; known are aime24, .*"),
    "a missing file": (["--data", "none.jsonl"], r"none\.jsonl does not exist"),
    "an empty benchmark": (["--data", "empty.jsonl"], r"empty.*has no rows"),
    "duplicate ids": (["--data", "twice.jsonl"], r"two rows have the id 'a'"),
    "a wrong count": (
        ["--benchmark", "aime24", "aime24.path=twice.jsonl"],
        r"aime24 has 2 problems",
    ),
    "a wrong count of a test split": (
        ["--benchmark", "gsm8k", "gsm8k.path=one.jsonl"],
        r"has 1 problems and should have 1319",
    ),
    "no hub": (["--benchmark", "math500"], r"cannot load the dataset 'HuggingFaceH4/MATH-500'"),
    "an option of another": (["--data", "one.jsonl", "two.size=1"], r"two: no benchmark of this"),
    "no such dtype": (["--data", "one.jsonl", "--dtype", "int8"], r"--dtype: 'int8' is none of"),
    "no temperature": (["--data", "one.jsonl", "--temperature", "-1"], r"--temperature: .*-1"),
    "nothing to add to": (
        ["--data", "one.jsonl", "--more-samples", "1"],
        r"there is no .*one\.json",
    ),
    "no run": (["--data", "one.jsonl", "--all"], r"--all: .* is no run directory"),
    "no such verifier": (
        ["--data", "one.jsonl", "--verifier", "maths"],
        r"--verifier.*maths.*math",
    ),
    "a name of ours": (["--data", "summary.jsonl"], r"the name is that of another file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_one_line_and_nothing_is_written(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "twice.jsonl").write_text(TWICE)
    for name in ("one", "summary"):
        (tmp_path / f"{name}.jsonl").write_text(TWICE.splitlines()[0])
    words, message = REFUSED[case]
    assert evaluate(tmp_path / "out", *words) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error
    assert re.search(message, error), error
    assert not list(tmp_path.glob("out/*.jsonl"))


def test_numbers_of_two_presets_never_share_a_table(finished, tmp_path, capsys):
    out = tmp_path / "eval"
    shutil.copytree(finished, out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    own = finished.parent / "own.jsonl"
    assert evaluate(out, "--data", own, "--prompt", "plain", "--preset", "greedy") == 2
    assert f"of preset {LABEL}, and those of greedy" in capsys.readouterr().err
    # Nor do those of one preset with and without a changed setting; more samples are the same.
    assert evaluate(out, "--data", own, "--prompt", "plain", "--temperature", 1) == 2
    assert "those of deepscaler with temperature 1.0, max_new" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_a_model_without_a_chat_template_is_refused(tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(POLICY, model)
    (model / "chat_template.jinja").unlink()
    assert evaluate(tmp_path / "out", "--data", rows_file(tmp_path / "x.jsonl"), model=model) == 2
    assert "has no chat template" in capsys.readouterr().err


def test_a_full_disk_loses_nothing_that_is_finished(tmp_path, capsys, finished):
    own = finished.parent / "own.jsonl"
    words = ["--data", own, "--prompt", "plain"]
    # Shards of 10 problems and their texts: some 6 kB; the facts of the folder fit.
    with largest_file(2_000):
        assert evaluate(tmp_path / "out", *words) == 2
    error = capsys.readouterr().err
    assert "call again: finished problems are kept" in error and "Traceback" not in error
    assert evaluate(tmp_path / "out", *words) == 0
    assert (tmp_path / "out" / "own.jsonl").read_bytes() == (finished / "own.jsonl").read_bytes()


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """The pocket policy after a change of some weights, as a folder, and its tensors."""
    model = AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("q_proj.weight"):
                parameter += 0.5
    folder = tmp_path_factory.mktemp("moved") / "tuned"
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(POLICY).save_pretrained(folder)
    return folder, {name: p.detach().clone() for name, p in model.named_parameters()}


def weights_of(path: Path, base: str | None = None) -> dict[str, torch.Tensor]:
    (source,) = find_policies(str(path), "float32", base)
    with source.load() as policy:
        return {name: p.detach().clone() for name, p in policy.named_parameters()}


@pytest.mark.parametrize("kind", ["folder", "delta", "adapter"])
def test_each_kind_of_checkpoint_is_the_policy_it_stands_for(kind, moved, tmp_path):
    folder, expected = moved
    path, base = folder, None
    if kind == "delta":
        path = tmp_path / "tuned.delta"
        pack(Path(POLICY), folder, path)
    if kind == "adapter":
        path, base = tmp_path / "adapter", str(POLICY)
        expected = write_adapter(path, expected)
    got = weights_of(path, base)
    assert got.keys() == expected.keys()
    for name, weight in expected.items():
        # A merge is a few sums of values up to 16, each rounded by half a unit of float32.
        atol = 4 * 16 * 2**-24 if kind == "adapter" else 0
        torch.testing.assert_close(got[name], weight, rtol=0, atol=atol)


def write_adapter(path: Path, like: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Write a LoRA of the base as PEFT stores one; return the weights of the merged policy."""
    import safetensors.torch

    base = AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32)
    merged = {name: p.detach().clone() for name, p in base.named_parameters()}
    factors = {}
    for name in [name for name in like if name.endswith("q_proj.weight")]:
        rows, columns = merged[name].shape
        down, up = torch.randn(2, columns), torch.randn(rows, 2)
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        factors |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
        merged[name] += 2 * (up @ down)
    path.mkdir()
    safetensors.torch.save_file(factors, path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    (path / "adapter_config.json").write_text(json.dumps(config))
    return merged


def test_a_run_and_each_of_its_checkpoints(train, tmp_path, capsys):
    trainer = {**SMALL["trainer"], "max_steps": 2, "save_steps": 1}
    run_dir = train(trainer=trainer, data={**SMALL["data"], "size": 16})
    own = rows_file(tmp_path / "own.jsonl", 4)
    words = [str(run_dir), "--data", str(own), "--prompt", "plain", *QUICK]
    assert main(["evaluate", *words]) == 0
    assert (run_dir / "eval" / "own.jsonl").is_file()
    assert main(["evaluate", *words, "--all"]) == 0
    said = capsys.readouterr().out
    for step in (1, 2):
        assert (run_dir / "eval" / f"step-{step:06d}" / "own.jsonl").is_file()
        assert f"step-{step:06d}, preset {LABEL}" in said
    # The last checkpoint is the exported policy.
    last = (run_dir / "eval" / "step-000002" / "own.jsonl").read_bytes()
    assert last == (run_dir / "eval" / "own.jsonl").read_bytes()
    # Its rollouts can be browsed too.
    assert main(["evaluate", "--rollouts", str(run_dir)]) == 0
    assert "Rollouts" in (run_dir / "rollouts.html").read_text()


def test_two_evaluations_are_compared_problem_by_problem(finished, moved, tmp_path, capsys):
    own = finished.parent / "own.jsonl"
    out = tmp_path / "moved"
    assert evaluate(out, "--data", own, "--prompt", "plain", model=moved[0]) == 0
    capsys.readouterr()
    assert main(["evaluate", "--compare", str(finished), str(out)]) == 0
    said = capsys.readouterr().out
    assert "own: " in said and "over 10 problems" in said and "pocket" not in said
    assert main(["evaluate", "--compare", str(finished), str(finished)]) == 0
    assert "+0.00 [-" in capsys.readouterr().out
    # Other settings make other numbers, whatever the policies.
    other = tmp_path / "other"
    words = ["--data", own, "--prompt", "plain", "--temperature", 1]
    assert evaluate(other, *words) == 0
    assert main(["evaluate", "--compare", str(finished), str(other)]) == 2
    assert f"is of preset {LABEL} and" in capsys.readouterr().err
