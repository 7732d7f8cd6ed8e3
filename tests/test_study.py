"""A study end to end: runs as processes, kept when finished, resumed, reported when failed."""

import csv
import json
import math
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from rlvr.checkpoints.runs import checkpoints
from rlvr.cli import main as cli_main
from rlvr.files import read_jsonl
from rlvr.masks import Mask
from rlvr.run_dir import read_summary
from rlvr.train import main as train_main

EVAL = {
    "data": {"name": "pocket", "split": "test", "size": 16},
    "verifier": {"name": "math"},
    "max_new_tokens": 32,
}
RANDOM = {"mask": {"builder": "random", "density": 0.5}}
LORA = {"adapter": {"builder": "lora", "rank": 4}}


@pytest.fixture
def write_study(write_recipe, tmp_path):
    def write(**content) -> Path:
        write_recipe("base", eval=EVAL, trainer={"max_steps": 2})
        path = tmp_path / "study.yaml"
        content = {"base": "base.yaml", "dir": str(tmp_path / "study"), **content}
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def expected_sizes(run: Path) -> tuple[int, int]:
    """Return the bytes of a run's optimizer state and of its trained weights, from its files.

    Two float32 moments a moving entry, a float32 step count a tensor, an eighth of a byte for each
    entry of a mask.
    """
    newest = checkpoints(run)[-1]
    if (newest / "lora").is_dir():
        factors = load_file(newest / "lora" / "adapter_model.safetensors").values()
        size = (newest / "lora" / "adapter_model.safetensors").stat().st_size
        return 8 * sum(f.numel() for f in factors) + 4 * len(factors), size
    mask = Mask.load(run / "mask.safetensors")
    moving = sum(int(mask[name].sum()) for name in mask.names)
    packed = sum(-(-math.prod(shape) // 8) for shape in mask.shapes.values())
    state = 8 * moving + 4 * len(mask.shapes) + packed
    return state, (newest / "model.safetensors").stat().st_size


def table(folder: Path, name: str) -> list[dict[str, str]]:
    with open(folder / name, encoding="utf-8") as file:
        return list(csv.DictReader(file))


def start(path: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "rlvr.cli", "study", str(path), "--jobs", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def has_rows(folder: Path, count: int) -> bool:
    return sum(len(read_jsonl(file)) for file in folder.glob("*/metrics.jsonl")) >= count


def train_some(study: Path, folder: Path, names: list[str]) -> None:
    """Train some runs of a study here, from the recipes that its dry run writes."""
    assert cli_main(["study", str(study), "--dry-run"]) == 0
    for name in names:
        assert train_main([str(folder / "recipes" / f"{name}.yaml")]) == 0


def test_a_study_runs_its_arms_reports_a_failed_one_and_keeps_the_finished(
    write_study, tmp_path, capfd
):
    still = {"trainer": {"learning_rate": 1e-20}}
    path = write_study(
        arms={
            "half": {**RANDOM, "eval": {"checkpoints": "every"}, "trainer": {"save_steps": 1}},
            "lora": LORA,
            "still": {**still, "seeds": [0]},
        },
        seeds=[0, 1],
    )
    folder = tmp_path / "study"
    # Some runs are finished when the study starts: a run in this process imports nothing.
    train_some(path, folder, ["half, seed=1", "lora, seed=0", "lora, seed=1"])
    kept = (folder / "half, seed=1" / "summary.json").stat().st_mtime_ns
    assert cli_main(["study", str(path), "--jobs", "2"]) == 1
    output = capfd.readouterr()
    assert "nothing moved" in output.err and "run 'still, seed=0' failed" in output.err
    assert (folder / "half, seed=1" / "summary.json").stat().st_mtime_ns == kept
    arms, runs = table(folder, "summary.csv"), table(folder, "runs.csv")
    assert [(row["arm"], row["seeds"]) for row in arms] == [("half", "2"), ("lora", "2")]
    assert [row["run"] for row in runs][:2] == ["half, seed=0", "half, seed=1"]
    assert arms[0]["density"] == "0.5" and arms[0]["mask_leak"] == "0"
    accuracies = [float(row["accuracy"]) for row in runs]
    assert float(arms[1]["accuracy_minus_control_mean"]) == pytest.approx(
        sum(accuracies[2:]) / 2 - sum(accuracies[:2]) / 2
    )
    columns = json.loads((folder / "summary.columns.json").read_text())
    assert list(columns) == list(arms[0]) and all(columns.values())
    for row in runs:
        sizes = int(row["optimizer_state_bytes"]), int(row["checkpoint_bytes"])
        assert sizes == expected_sizes(folder / row["run"])
    truncated = [float(row["truncated"]) for row in runs[:2]]
    assert float(arms[0]["truncated"]) == sum(truncated) / 2
    summary = read_summary(folder / "half, seed=0")
    assert summary is not None and list(summary["accuracy_on_the_way"]) == ["1"]
    for name in ("curves.png", "accuracy.png", "cost.png", "differences.png"):
        assert (folder / name).stat().st_size > 10_000, name
    page = (folder / "report.html").read_text()
    assert "control half" in page and page.count("data:image/png") == 2 * 4
    assert "| half" in output.out and "too few" not in output.out
    finished = (folder / "half, seed=0" / "summary.json").stat().st_mtime_ns
    assert cli_main(["study", str(path), "--report-only"]) == 0
    assert cli_main(["study", str(path), "--dry-run"]) == 0
    assert (folder / "half, seed=0" / "summary.json").stat().st_mtime_ns == finished
    output = capfd.readouterr()
    assert "4 of 5 runs are finished" in output.out and "not started" not in output.out
    # The arm is another experiment now: nothing of the old one may stand under its name.
    path.write_text(path.read_text().replace("density: 0.5", "density: 0.4"))
    assert cli_main(["study", str(path), "--dry-run"]) == 2
    assert "mask.density" in capfd.readouterr().err


def test_a_study_measures_the_geometry_of_its_runs(write_study, tmp_path):
    path = write_study(arms={"half": RANDOM}, geometry={"rank": 8})
    folder = tmp_path / "study"
    train_some(path, folder, ["half"])
    assert cli_main(["study", str(path)]) == 0
    assert float(table(folder, "runs.csv")[0]["nss"]) > 0
    assert (folder / "geometry.png").stat().st_size > 10_000


@pytest.mark.slow
def test_ctrl_c_lets_the_runs_save_and_the_study_goes_on_from_there(write_study, tmp_path):
    long = {"trainer": {"max_steps": 400}}
    path = write_study(arms={"half": {**RANDOM, **long}, "dense": long})
    process = start(path)
    folders = [tmp_path / "study" / name for name in ("half", "dense")]
    wait_for(lambda: all(len(read_jsonl(f / "metrics.jsonl")) >= 2 for f in folders))
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "run the same command again" in output and "Traceback" not in output
    assert all(checkpoints(folder) for folder in folders)


@pytest.mark.slow
def test_runs_end_with_a_killed_study_and_the_next_one_goes_on(write_study, tmp_path):
    path = write_study(arms={"half": {**RANDOM, "trainer": {"max_steps": 400}}})
    run = tmp_path / "study" / "half"
    process = start(path)
    wait_for(lambda: len(read_jsonl(run / "metrics.jsonl")) >= 2)
    process.kill()
    process.communicate()
    # The run gets SIGTERM, saves and ends; until then its folder is held.
    lock = ["flock", "--exclusive", "--wait", "60", str(run / ".lock"), "true"]
    assert subprocess.run(lock, check=False).returncode == 0
    assert checkpoints(run)
    steps = len(read_jsonl(run / "metrics.jsonl"))
    assert steps < 400
    assert cli_main(["study", str(path), f"trainer.max_steps={steps + 1}"]) == 0
    assert [row["step"] for row in read_jsonl(run / "metrics.jsonl")] == [*range(1, steps + 2)]


@pytest.mark.slow
def test_a_study_killed_twice_ends_in_the_same_table(write_study, tmp_path):
    arms = {"half": RANDOM, "dense": {}, "lora": LORA}
    long = {"trainer": {"max_steps": 12, "save_steps": 3}}
    content = {"arms": arms, "seeds": [0, 1], "recipe": long, "geometry": {"rank": 8}}
    path = write_study(**content, dir=str(tmp_path / "unbroken"))
    assert cli_main(["study", str(path), "--jobs", "2"]) == 0
    path = write_study(**content)
    for steps in (4, 30):
        process = start(path)
        wait_for(partial(has_rows, tmp_path / "study", steps), 300)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert cli_main(["study", str(path), "--jobs", "2"]) == 0
    for name in ("summary.csv", "runs.csv"):
        first, second = (table(tmp_path / folder, name) for folder in ("unbroken", "study"))
        for row in (*first, *second):
            row.pop("seconds_per_step", None)
        assert first == second


def test_a_report_without_runs_says_so(write_study, capsys):
    assert cli_main(["study", str(write_study(arms={"a": {}})), "--report-only"]) == 2
    assert "no run is finished" in capsys.readouterr().err


def test_a_dry_run_writes_the_recipes_and_says_what_is_left(write_study, tmp_path, capsys):
    path = write_study(arms={"a": {}, "b": RANDOM}, seeds=[0, 1])
    assert cli_main(["study", str(path), "--dry-run", "--jobs", "3"]) == 0
    output = capsys.readouterr().out
    assert "0 of 4 runs are finished; 3 at once" in output and output.count("not started") == 4
    recipe = yaml.safe_load((tmp_path / "study" / "recipes" / "b, seed=1.yaml").read_text())
    assert recipe["mask"]["seed"] == 1
    assert not list((tmp_path / "study").glob("*/metrics.jsonl"))


@pytest.mark.parametrize(
    ("arms", "line"),
    {
        # Two steps of 16 completions of at most 32 tokens.
        "rlvr": ({"a": {}}, "left: at most 1,024 sampled tokens"),
        "rlvr and sft": (
            {"a": {}, "SFT": {"base": "sft.yaml"}},
            "left: at most 1,024 sampled tokens",
        ),
        "no longest": (
            {"a": {"trainer": {"max_completion_length": None}}},
            "left: sampled tokens without a bound",
        ),
        "sft": ({"SFT": {"base": "sft.yaml"}}, None),
    }.values(),
)
def test_a_dry_run_counts_the_tokens_of_runs_that_sample(
    write_study, write_sft, capsys, arms, line
):
    write_sft("sft", trainer={"max_steps": 2}, eval=EVAL)
    assert cli_main(["study", str(write_study(arms=arms)), "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert f"0 of {len(arms)} runs are finished" in output and "2 steps" in output
    assert line in output if line else "sampled" not in output
