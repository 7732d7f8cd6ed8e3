"""A study end to end: arms as processes, kept when finished, reported when failed."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from rlvr.checkpoint import checkpoints, read_jsonl
from rlvr.cli import main as cli_main

EVAL = {
    "data": {"name": "pocket", "split": "test", "size": 16},
    "verifier": {"name": "math"},
    "max_new_tokens": 32,
}


@pytest.fixture
def write_study(write_recipe, tmp_path):
    def write(**arms) -> Path:
        write_recipe("base", eval=EVAL, trainer={"max_steps": 2})
        path = tmp_path / "study.yaml"
        content = {"base": "base.yaml", "dir": str(tmp_path / "study"), "arms": arms}
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def test_a_study_runs_its_arms_reports_a_failed_one_and_keeps_the_finished(
    write_study, tmp_path, capfd, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path = write_study(
        half={"mask": {"builder": "random", "density": 0.5}},
        still={"trainer": {"learning_rate": 1e-20}},
        lora={"adapter": {"builder": "lora", "rank": 4}},
    )
    assert cli_main(["study", str(path)]) == 1
    output = capfd.readouterr()
    assert "nothing moved" in output.err and "arm 'still' failed" in output.err
    folder = tmp_path / "study"
    rows = list(csv.DictReader(open(folder / "summary.csv")))
    assert [row["arm"] for row in rows] == ["half", "lora"]
    assert rows[0]["density"] == "50.0%" and rows[0]["leak"] == "0"
    for name in ("curves.png", "accuracy.png"):
        assert (folder / name).stat().st_size > 10_000
    assert "| half" in output.out and "| lora" in output.out
    finished = (folder / "half" / "summary.json").stat().st_mtime_ns
    assert cli_main(["study", str(path), "--report-only"]) == 0
    assert (folder / "half" / "summary.json").stat().st_mtime_ns == finished


def test_ctrl_c_lets_the_arm_save_and_the_study_goes_on_from_there(write_study, tmp_path):
    path = write_study(
        half={"mask": {"builder": "random", "density": 0.5}, "trainer": {"max_steps": 400}}
    )
    command = [sys.executable, "-m", "rlvr.cli", "study", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    run_dir = tmp_path / "study" / "half"
    for _ in range(600):
        if len(read_jsonl(run_dir / "metrics.jsonl")) >= 2:
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "run the same command again" in output and "Traceback" not in output
    assert checkpoints(run_dir)


@pytest.mark.parametrize(
    ("arms", "words"),
    [
        ({}, ["arms is empty"]),
        ({"a": {"maks": {}}}, ["arm 'a'", "maks", "did you mean 'mask'"]),
        ({"a": 3}, ["arms.a", "expected"]),
    ],
)
def test_a_mistake_in_a_study_is_named_before_anything_runs(
    write_study, tmp_path, capsys, arms, words
):
    assert cli_main(["study", str(write_study(**arms))]) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert not (tmp_path / "study").exists()


def test_a_report_without_runs_says_so(write_study, capsys):
    assert cli_main(["study", str(write_study(a={})), "--report-only"]) == 2
    assert "no arm is finished" in capsys.readouterr().err
