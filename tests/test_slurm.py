"""The Slurm script starts one run over several machines, here two launchers on this one."""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCONTROL = "#!/bin/bash\nprintf '127.0.0.1\\n127.0.0.2\\n'\n"
SRUN = """#!/bin/bash
SLURM_NODEID=1 "$@" &
SLURM_NODEID=0 "$@"
code=$?
wait $! && exit $code
"""


@pytest.mark.slow
def test_two_machines_are_one_run_of_two_processes(tmp_path):
    tools, run_dir = tmp_path / "tools", tmp_path / "run"
    tools.mkdir()
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tools}:{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "GPUS": "1",
        "LAUNCH": "launch/ddp_cpu.yaml",
        "SLURM_JOB_NODELIST": "two",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_NNODES": "2",
    }
    words = ["recipes/pocket/mask_safe.yaml", f"run.dir={run_dir}", "eval=null"]
    words += ["trainer.max_steps=1", "trainer.per_device_train_batch_size=16"]
    command = ["bash", "launch/slurm.sh", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert json.loads((run_dir / "provenance.json").read_text())["processes"] == 2
    assert (run_dir / "summary.json").is_file()
