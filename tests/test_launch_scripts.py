"""The scripts of launch/, with the programs that they start: real where a CPU runs them."""

import http.server
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Tells what it was called with. As `vllm` it also answers on its port, as a server does.
STUB = f"""#!{sys.executable}
import http.server, json, os, pathlib, sys
name = pathlib.Path(sys.argv[0]).name
said = {{"words": sys.argv[1:], "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}}
pathlib.Path(__file__).with_name(name + ".json").write_text(json.dumps(said))
if os.environ.get("STUB_FAILS") == name:
    sys.exit("no such model")
if name == "vllm":
    port = int(sys.argv[sys.argv.index("--port") + 1])
    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
    http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()
"""


@pytest.fixture
def stubs(tmp_path):
    """Return a function that runs a script beside stubs, and what each stub was called with."""
    folder = tmp_path / "stubs"
    folder.mkdir()
    for name in ("accelerate", "vllm", "torchrun"):
        (folder / name).write_text(STUB)
        (folder / name).chmod(0o755)
    (folder / "python").symlink_to(sys.executable)

    def run(script: str, *words: str, **variables: str):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
        environment["PATH"] = f"{folder}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", str(ROOT / "launch" / script), *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done, {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}

    return run


def free_port() -> str:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        return str(server.server_address[1])


def test_a_server_gets_the_last_gpus_and_the_run_the_others(stubs, write_recipe, tmp_path):
    path = write_recipe(trainer={"vllm_max_model_length": 96})
    port = free_port()
    done, said = stubs(
        "served.sh", str(path), "trainer.max_steps=2", GPUS="4", SAMPLERS="1", PORT=port
    )
    assert done.returncode == 0, done.stderr
    assert said["vllm"]["gpus"] == "3" and said["accelerate"]["gpus"] == "0,1,2"
    assert "--max-model-len=96" in said["vllm"]["words"]
    words = said["accelerate"]["words"]
    assert words[words.index("--num_processes") + 1] == "3"
    # The user's own words come last, so that they win.
    assert words[-1] == "trainer.max_steps=2" and f"trainer.vllm_server_port={port}" in words
    # The server ends with the run: its port is free again.
    http.server.HTTPServer(("127.0.0.1", int(port)), http.server.BaseHTTPRequestHandler)


@pytest.mark.parametrize(
    ("variables", "words", "reason"),
    [
        ({"SAMPLERS": "4"}, [], "leave at least one for each side"),
        ({}, ["trainr.max_steps=2"], "trainr"),
        ({"STUB_FAILS": "vllm"}, [], "the reason is in vllm.log"),
    ],
    ids=["no GPU left", "a wrong recipe", "a server that ends"],
)
def test_what_cannot_serve_is_one_line_and_starts_no_run(
    stubs, write_recipe, variables, words, reason
):
    given = {"GPUS": "4", "PORT": free_port(), "SERVER_LOG": "vllm.log", **variables}
    done, said = stubs("served.sh", str(write_recipe()), *words, **given)
    assert done.returncode != 0 and "accelerate" not in said
    assert reason in done.stderr and done.stderr.count("\n") == 1


def test_colocated_sleeps_between_generations(stubs):
    done, said = stubs("colocated.sh", "r.yaml", "mask.rank=4", SHARE="0.3", GPUS="2")
    assert done.returncode == 0, done.stderr
    words = said["accelerate"]["words"]
    assert words[words.index("--num_processes") + 1] == "2" and words[-1] == "mask.rank=4"
    assert {"trainer.vllm_enable_sleep_mode=true", "trainer.vllm_mode=colocate"} <= set(words)
    assert "trainer.vllm_gpu_memory_utilization=0.3" in words


def test_an_engine_that_torchrun_cannot_start_is_named(stubs):
    done, said = stubs("torchrun.sh", "r.yaml", ENGINE="zero3")
    assert done.returncode == 2 and "choose ddp or fsdp2" in done.stderr and not said


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "name"), [("ddp", "DDP"), ("fsdp2", "FSDP2")])
def test_torchrun_on_two_machines_is_one_run(tmp_path, engine, name):
    run_dir = tmp_path / "run"
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "OMP_NUM_THREADS": "1",
        **{"GPUS": "1", "MACHINES": "2", "PORT": free_port(), "ENGINE": engine},
    }
    words = ["recipes/pocket/mask_safe.yaml", f"run.dir={run_dir}", "eval=null"]
    words += ["trainer.max_steps=2", "trainer.per_device_train_batch_size=16"]
    command = ["bash", "launch/torchrun.sh", *words, "plugins=[fsdp_on_cpu]"]
    machines = [
        subprocess.Popen(
            command, cwd=ROOT, env={**environment, "MACHINE": number}, stderr=subprocess.PIPE
        )
        for number in ("0", "1")
    ]
    errors = [machine.communicate(timeout=240)[1].decode()[-2000:] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], errors
    provenance = json.loads((run_dir / "provenance.json").read_text())
    assert (provenance["processes"], provenance["engine"]) == (2, name)
    assert json.loads((run_dir / "summary.json").read_text())["mask_leak"] == 0
