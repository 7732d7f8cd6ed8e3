"""Hostile programs: each is refused or killed in time, and the host is as it was."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rlvr.isolation.sandbox import Limits, missing_protections, require, run_script
from rlvr.rewards import Verdict, python_tests
from rlvr.schema import RecipeError

MODE = "best_effort" if missing_protections() else "required"
confined = pytest.mark.skipif(bool(missing_protections()), reason=str(missing_protections()))
DEADLINE, SLACK = 0.7, 4.0  # seconds; the slack is the start and end of a sandbox on a busy machine
ECHO = [{"stdin": "3\n", "stdout": "3"}]
ADD = ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]


def judge(program: str, tests: Any, seconds: float = 5.0) -> Verdict:
    completion = f"<think>hm</think>\n```python\n{program}\n```\n"
    start = time.monotonic()
    (verdict,) = python_tests([completion], [tests], seconds=seconds, sandbox=MODE)
    assert time.monotonic() - start < seconds + SLACK
    return verdict


def marked(mark: str) -> list[str]:
    """Return the command lines of living processes that hold ``mark``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            found += [path.parent.name] if path.read_text().strip() == mark else []
        except OSError:
            continue
    return found


NAME = """
import ctypes
ctypes.CDLL(None).prctl(15, b"{mark}", 0, 0, 0)
"""

HOSTILE = {
    "endless loop": "while True: pass",
    "sleep": "import time\ntime.sleep(60)",
    "memory": "x = 'a' * (1 << 34)\nprint(3)",
    "memory by pieces": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "recursion": "def f(): f()\nf()",
    "prints a gigabyte": "while True: print('3' * (1 << 20))",
    "prints to stderr": "import sys\nwhile True: sys.stderr.write('3' * (1 << 20))",
    "exits at once": "import os\nprint(3, flush=True)\nos._exit(1)",
    "kills its group": "import os, signal\nprint(3, flush=True)\nos.killpg(0, signal.SIGKILL)",
    "kills everything": "import os, signal\nprint(3, flush=True)\nos.kill(-1, 9)\nos.kill(1, 9)",
    "writes outside": "open('/usr/lib/x', 'w')\nprint(3)",
    "writes at home": "open('/root/x', 'w')\nprint(3)",
    "fills the disk": "f = open('/tmp/x', 'wb')\nwhile True: f.write(b'0' * (1 << 20))",
    "internet socket": "import socket\nsocket.socket()\nprint(3)",
    "vm socket": "import socket\nsocket.socket(socket.AF_VSOCK)\nprint(3)",
    "raw socket": "import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW)\nprint(3)",
    "new namespace": "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0\nprint(3)",
    "traces its parent": "import ctypes\nctypes.CDLL(None).ptrace(16, 1, 0, 0) and 1 / 0\nprint(3)",
    "becomes root": "import os\nos.setuid(0)\nprint(3)",
    "shared memory": "import ctypes\nassert ctypes.CDLL(None).shmget(0, 4096, 896) >= 0\nprint(3)",
    "many files": "x = [open('/dev/null') for _ in range(1000)]\nprint(3)",
    "syntax": "print(3",
    "null byte": "print(3)\0",
}


@confined
@pytest.mark.parametrize("program", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_script_is_wrong_and_over_in_time(program):
    verdict = judge(program, ECHO, DEADLINE)
    assert verdict.status == "wrong", verdict


def test_a_right_script_passes_in_the_same_sandbox():
    assert judge("print(int(input()))", ECHO).status == "correct"
    assert judge("print(int(input()) + 1)", ECHO).status == "wrong"
    assert judge("import sys\nprint(sys.stdin.read())\nexit()", ECHO).status == "correct"


@confined
def test_a_bounded_fork_bomb_leaves_nothing():
    bomb = NAME.format(mark="rlvr-bomb") + (
        "import os, time\n"
        "for _ in range(300):\n"
        "    try:\n"
        "        if os.fork() == 0: os.setsid()\n"
        "    except OSError: pass\n"
        "print(3, flush=True)\n"
        "time.sleep(30)\n"
    )
    assert judge(bomb, ECHO, DEADLINE).status == "wrong"
    assert not marked("rlvr-bomb")


@confined
@pytest.mark.parametrize("detach", ["", "os.setsid()\n    if os.fork(): os._exit(0)\n    "])
def test_a_background_child_dies_with_its_program(detach):
    program = NAME.format(mark="rlvr-orphan") + (
        "import os, time\n"
        "if os.fork() == 0:\n"
        f"    {detach}os.close(1)\n"
        "    os.close(2)\n"
        "    time.sleep(60)\n"
        "print(int(input()))\n"
    )
    assert judge(program, ECHO).status == "correct"
    assert not marked("rlvr-orphan")


@confined
def test_no_listener_of_the_host_can_be_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = f"import urllib.request as u\nu.urlopen('http://127.0.0.1:{port}')\nprint(3)"
        assert judge(program, ECHO).status == "wrong"
        server.settimeout(0.05)
        with pytest.raises(TimeoutError):
            server.accept()


@confined
def test_a_program_sees_neither_files_nor_processes_nor_the_environment(tmp_path, monkeypatch):
    secret = tmp_path / "secret.txt"
    secret.write_text("12345")
    monkeypatch.setenv("RLVR_SECRET", "12345")
    program = f"""
import os, glob
places = ({str(secret)!r}, '/etc/passwd', '/proc/1', '/home')
seen = [place for place in places if os.path.exists(place)]
descriptors = []
for number in range(3, 256):
    try: os.fstat(number)
    except OSError: continue
    descriptors.append(number)
os.makedirs('a/b')
open('a/b/c', 'w').write('fine')
print(seen, dict(os.environ), descriptors, os.listdir('/tmp'), os.getuid() != 0, os.getppid() < 2)
"""
    outcome = run_script(program, "", Limits(DEADLINE), "required")
    assert outcome.output == b"[] {} [] ['a'] True True\n", outcome


def test_a_program_cannot_report_its_own_end_whatever_descriptors_are_open():
    forge = """
import os
for number in range(3, 1024):
    try: os.write(number, b'{"exit": 0, "missing": []}\\n')
    except OSError: continue
print(3, flush=True)
os._exit(1)
"""
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(300)]
    try:
        assert judge(forge, ECHO).status == "wrong"
        assert judge("print(3)", ECHO).status == "correct"
        assert judge("def add(a, b): return a + b", ADD).status == "correct"
    finally:
        for descriptor in opened:
            os.close(descriptor)


def test_output_is_cut_while_it_is_read():
    outcome = run_script("while True: print('3' * (1 << 20))", "", Limits(5.0), MODE)
    assert outcome.end == "output" and len(outcome.output) == Limits().output_bytes


def test_the_memory_of_a_program_is_its_own_limit():
    source = "x = 'a' * (200 << 20)\nprint(3)"
    assert run_script(source, "", Limits(megabytes=512), MODE).code == 0
    assert run_script(source, "", Limits(megabytes=128), MODE).code == 1


DENIED = """
echo 0 > /proc/sys/user/max_user_namespaces
exec setpriv --bounding-set -all --inh-caps -all "$@"
"""
ASK = """
from rlvr.isolation.sandbox import Limits, missing_protections, require, run_script
from rlvr.schema import RecipeError
print("namespaces" in missing_protections()[0])
try:
    require("required", "rewards[0]")
except RecipeError as error:
    print("best_effort" in str(error))
require("best_effort", "rewards[0]")
for source in ("print(5)", "import socket; socket.socket(); print(6)"):
    print(run_script(source, "", Limits(), "best_effort").output)
orphan = "import os, time\\nif os.fork() == 0:\\n os.setsid()\\n os.fork()\\n time.sleep(60)\\n"
print(run_script(orphan + "print(7)", "", Limits(), "best_effort").end)
print(run_script("print(8)", "", Limits(), "required").end)
"""


def test_a_kernel_without_namespaces_is_refused_unless_the_recipe_accepts_it():
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", DENIED, "sh"]
    if shutil.which("setpriv") is None or subprocess.run([*command, "true"]).returncode:
        pytest.skip("needs unshare, setpriv and user namespaces to take namespaces away")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [*command, sys.executable, "-c", ASK], capture_output=True, text=True, env=environment
    )
    lines = ["True", "True", "b'5\\n'", "b''", "exit", "failed"]
    assert result.stdout.splitlines() == lines, result


@confined
def test_a_machine_that_confines_is_accepted():
    require("required", "rewards[0]")
    assert run_script("print(8)", "", Limits(), "required").output == b"8\n"


def test_options_without_sense_are_refused_when_the_recipe_is_read():
    from rlvr.registry import reward

    with pytest.raises(RecipeError, match="seconds"):
        reward.check("python_tests", {"seconds": 0.0}, "rewards[0]")
