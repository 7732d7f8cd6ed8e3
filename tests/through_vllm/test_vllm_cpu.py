"""The sampler is the policy, through vLLM: run by ``bash scripts/test_vllm_cpu.sh``."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import POLICY, VARIED
from safetensors.torch import load_file

from rlvr.checkpoints.runs import checkpoints
from rlvr.files import read_jsonl

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{Path(__file__).parent}"}
TRAINER: dict[str, Any] = {
    "use_vllm": True,
    "vllm_mode": "colocate",
    "vllm_gpu_memory_utilization": 0.05,
    "vllm_max_model_length": 128,
    "learning_rate": 1e-3,
    "max_steps": 3,
    "save_steps": 1,
}
SAFE = {"builder": "safe", "rank": 8, "principal_density": 0.5, "low_density": 0.5}
ARMS: dict[str, dict[str, Any]] = {
    "dense": {},
    "mask": {"mask": SAFE},
    # The embedding is the head too: vLLM computes logits from a copy of it where it packs weights.
    "embedding": {"mask": SAFE, "model": {"also_train": ["model.embed_tokens.weight"]}},
    # B starts at 0: at the rate of the others two steps move the policy less than can be told.
    "lora": {"adapter": {"builder": "lora", "rank": 4}, "trainer": {"learning_rate": 1e-2}},
    "pissa": {"adapter": {"builder": "pissa", "rank": 4}},
}


def start(path: Path, *words: str, launch: tuple[str, ...] = (), **variables: str) -> Any:
    command = [sys.executable, *(launch or ("-m",)), "rlvr.train", str(path), *words]
    return subprocess.Popen(
        command,
        env=ENVIRONMENT | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def train(path: Path, *words: str, **options: Any) -> tuple[int, str, str]:
    process = start(path, *words, **options)
    output, errors = process.communicate(timeout=280)
    return process.returncode, output, errors


def succeed(path: Path, *words: str, **options: Any) -> str:
    code, output, errors = train(path, *words, **options)
    assert code == 0, output[-2000:] + errors[-4000:]
    return errors


@pytest.fixture
def recipe(write_recipe: Any) -> Any:
    def write(name: str = "recipe", **sections: Any) -> Path:
        trainer = {**TRAINER, **sections.pop("trainer", {})}
        return write_recipe(name, rewards=VARIED, trainer=trainer, plugins=["unpacked"], **sections)

    return write


def gaps(run_dir: Path) -> list[dict[str, float]]:
    return [row for row in read_jsonl(run_dir / "metrics.jsonl") if "sampler_gap" in row]


@pytest.mark.parametrize("arm", ARMS)
def test_after_each_push_the_sampler_is_the_policy_and_not_the_base(recipe, tmp_path, arm):
    errors = succeed(recipe(**ARMS[arm]))
    rows = gaps(tmp_path / "recipe")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(row["sampler_gap"] < 1e-4 for row in rows)
    # The last generation is of a policy that two updates have moved from the base.
    assert abs(rows[-1]["kl_to_base"]) > 1e-4
    assert "Traceback" not in errors and "destroy_process_group" not in errors, errors[-3000:]
    provenance = json.loads((tmp_path / "recipe" / "provenance.json").read_text())
    assert {"vllm", "vllm-cpu"} & provenance["versions"].keys()


def test_a_push_that_is_skipped_stops_the_run(recipe, tmp_path):
    path = recipe(trainer={"max_steps": 5})
    path.write_text(path.read_text().replace("- unpacked", "- unpacked\n- skipped_push"))
    code, output, errors = train(path)
    assert code == 1 and "the sampler is not the policy" in errors, output + errors[-3000:]
    assert "Traceback" not in errors


@pytest.mark.parametrize("arm", ["mask", "embedding"])
def test_the_engine_as_it_comes_takes_no_push(recipe, tmp_path, arm):
    """A canary: once vllm-cpu keeps plain weights, ``unpacked`` has nothing left to do."""
    code, _, errors = train(recipe(**ARMS[arm]), RLVR_PACKED="1")
    assert code != 0 and errors


def test_two_seeds_share_no_completion_and_one_seed_repeats_itself(recipe, tmp_path):
    streams = []
    for name, seed in (("a", 0), ("b", 1), ("c", 0)):
        trainer = {"max_steps": 1, "seed": seed, "shuffle_dataset": False, "temperature": 2.0}
        # In file order: a seed that shuffled the prompts would change every completion by itself.
        succeed(recipe(name, trainer=trainer, run={"rollouts": 64}))
        rows = read_jsonl(tmp_path / name / "rollouts.jsonl")
        streams.append([(row["prompt"], row["completion"]) for row in rows])
    first, other, again = streams
    assert first == again and len(first) == 16
    assert [prompt for prompt, _ in first] == [prompt for prompt, _ in other]
    shared = sum(one == two for one, two in zip(first, other, strict=True))
    assert shared < len(first) / 4  # hot, so that few come twice by chance


@pytest.mark.parametrize("slices", [{}, {"steps_per_generation": 2, "max_steps": 4}])
def test_resuming_is_never_having_stopped(recipe, tmp_path, slices):
    """Also from within a generation, where step 3 takes the second half of what step 2 drew."""
    whole = recipe("whole", mask=SAFE, trainer=slices)
    succeed(whole)
    last = slices.get("max_steps", TRAINER["max_steps"])
    stopped = recipe("stopped", mask=SAFE, trainer={**slices, "max_steps": last - 1})
    succeed(stopped)
    succeed(recipe("stopped", mask=SAFE, trainer=slices), "--resume")
    one, two = (
        load_file(checkpoints(tmp_path / name)[-1] / "model.safetensors")
        for name in ("whole", "stopped")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_greedy_completions_are_those_of_the_policy():
    import unpacked  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from vllm import LLM, SamplingParams

    from rlvr.decoding import Drawing, decode
    from rlvr.eval.sampling import end_token_ids, prompt_token_ids

    model = AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(POLICY)
    chats = [[{"role": "user", "content": f"{a}+{b}*3"}] for a in range(1, 17) for b in range(8)]
    prompts = prompt_token_ids(tokenizer, chats)
    ends = end_token_ids(model, tokenizer)
    drawn = decode(
        model,
        prompts,
        drawing=Drawing(0.0),
        max_new_tokens=40,
        ends=ends,
        seeds=[0] * len(prompts),
        slots=32,
    )
    engine = LLM(
        model=str(POLICY),
        dtype="float32",
        enforce_eager=True,
        max_model_len=128,
        generation_config="vllm",
    )
    parameters = SamplingParams(temperature=0.0, max_tokens=40, logprobs=0, stop_token_ids=ends)
    outputs = engine.generate(
        [{"prompt_token_ids": prompt} for prompt in prompts], parameters, use_tqdm=False
    )
    for one, output in zip(drawn, outputs, strict=True):
        assert list(output.outputs[0].token_ids) == one.token_ids
        logps = [next(iter(place.values())).logprob for place in output.outputs[0].logprobs]
        assert torch.tensor(logps).sub(torch.tensor(one.logps)).abs().max() < 1e-4


def test_two_processes_sample_with_an_engine_each(recipe, tmp_path):
    file = str(ROOT / "launch" / "ddp_cpu.yaml")
    launch = ("-m", "accelerate.commands.launch", "--config_file", file)
    launch += ("--main_process_port", "0", "-m")
    succeed(recipe(mask=SAFE, trainer={"per_device_train_batch_size": 8}), launch=launch)
    rows = gaps(tmp_path / "recipe")
    assert len(rows) == 3 and all(row["sampler_gap"] < 1e-4 for row in rows)
    assert json.loads((tmp_path / "recipe" / "provenance.json").read_text())["processes"] == 2


def test_dynamic_sampling_draws_its_rounds_from_one_policy(recipe, tmp_path):
    succeed(recipe(mask=SAFE, algorithm={"name": "dapo", "dynamic_sampling": True}))
    rows = gaps(tmp_path / "recipe")
    assert rows and all(row["sampler_gap"] < 1e-4 for row in rows)


def test_a_server_takes_pushes_and_seeds(recipe, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, str(Path(__file__).parent / "files_server.py"), "--model", str(POLICY)]
    words += ["--port", str(port), "--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager"]
    words += ["--max-model-len", "128", "--logprobs-mode", "processed_logprobs"]
    words += ["--weight-transfer-config", '{"backend": "files"}', "--generation-config", "vllm"]
    log = open(tmp_path / "server.log", "w")
    variables = {"VLLM_SERVER_DEV_MODE": "1"}
    server = subprocess.Popen(words, env=ENVIRONMENT | variables, stdout=log, stderr=log)
    try:
        streams = []
        for name, seed in (("a", 0), ("b", 1)):
            path = recipe(
                name,
                mask=SAFE,
                run={"rollouts": 64},
                trainer={
                    "vllm_mode": "server",
                    "vllm_server_host": "127.0.0.1",
                    "vllm_server_port": port,
                    "vllm_server_timeout": 180,
                    "seed": seed,
                    "data_seed": 0,
                },
            )
            path.write_text(path.read_text().replace("- unpacked", "- unpacked\n- files_client"))
            succeed(path)
            rows = gaps(tmp_path / name)
            assert len(rows) == 3 and all(row["sampler_gap"] < 1e-4 for row in rows)
            streams.append(
                [row["completion"] for row in read_jsonl(tmp_path / name / "rollouts.jsonl")]
            )
        same = sum(a == b for a, b in zip(*streams, strict=True))
        assert same < len(streams[0]) / 4
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
        log.close()


def test_a_server_that_does_not_answer_is_named_within_half_a_minute(recipe):
    path = recipe(trainer={"vllm_mode": "server", "vllm_server_port": 9})
    begun = time.monotonic()
    succeed(path, "--check")  # the imports, which take longer on a busy machine
    imports = time.monotonic() - begun
    code, _, errors = train(path)
    assert code == 2 and "no vLLM server answers at http://0.0.0.0:9" in errors
    assert "Traceback" not in errors and time.monotonic() - begun < 2.5 * imports + 30
