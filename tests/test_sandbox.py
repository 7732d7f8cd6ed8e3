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

from rlvr.rewards import Verdict, python_tests
from rlvr.rewards.sandbox import Limits, missing_protections, require, run_script
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


FORGED = {
    "exits with success": "import os\nos._exit(0)",
    "exits in the call": "import os\ndef add(a, b): os._exit(0)",
    "system exit": "import sys\nsys.exit(0)",
    "system exit in the call": "def add(a, b): raise SystemExit(0)",
    "always equal": "class E:\n    def __eq__(s, o): return True\ndef add(a, b): return E()",
    "equal integer": (
        "class E(int):\n    def __eq__(s, o): return True\n    __hash__ = int.__hash__\n"
        "def add(a, b): return E(7)"
    ),
    "prints the report": (
        'import os\nline = b\'{"passed": 2, "of": 2, "failure": null}\\n\'\n'
        "for n in range(1, 64):\n    try: os.write(n, line)\n    except OSError: pass\n"
        "def add(a, b): return 0\n"
    ),
    "reads frames": (
        "import sys, gc\ndef add(a, b):\n    frame = sys._getframe()\n    texts = []\n"
        "    while frame:\n        texts += [str(frame.f_locals), str(frame.f_code.co_consts)]\n"
        "        frame = frame.f_back\n    texts += [str(o) for o in gc.get_objects()]\n"
        "    return 3 if any('add(1, 2) == 3' in t for t in texts) else None"
    ),
    "patches builtins": (
        "import builtins, json\nbuiltins.AssertionError = type('N', (Exception,), {})\n"
        "json.dumps = lambda *a, **k: '{\"value\": true}'\ndef add(a, b): return 0"
    ),
    "answers before it is asked": (
        "import os\nfor n in range(3, 64):\n"
        "    try: os.write(n, b'{\"value\": 4}\\n' * 100)\n    except OSError: pass\n"
    ),
    "endless": "def add(a, b):\n    while True: pass",
    "deep": "def add(a, b):\n    x = []\n    for _ in range(100000): x = [x]\n    return x",
    "wide": "def add(a, b):\n    x = [0]\n    for _ in range(60): x = [x, x]\n    return x",
    "huge": "def add(a, b): return 1 << (1 << 28)",
    "wrong": "def add(a, b): return a - b",
    "missing": "def sub(a, b): return a - b",
    "no python": "def add(a, b) return 3",
}


@pytest.mark.parametrize("program", FORGED.values(), ids=FORGED.keys())
def test_only_the_right_value_passes_an_assertion(program):
    assert judge(program, ADD, DEADLINE).status == "wrong"


@pytest.mark.parametrize(
    ("program", "test"),
    [
        ("def all(x): return True\ndef f(): return [False]", "assert all(f())"),
        ("class math:\n    isclose = staticmethod(lambda a, b: True)\ndef f(): return 2",
         "import math\nassert math.isclose(f(), 1)"),
        ("class math:\n    isclose = staticmethod(lambda a, b: True)\ndef f(): return 2",
         "assert math.isclose(f(), 1)"),
        ("class T:\n    def __bool__(s): return True\ndef f(): return T()", "assert f()"),
        ("class T:\n    def __eq__(s, o): return True\ndef f(): return T()", "assert 5 == f()"),
        ("class T:\n    def __ne__(s, o): return True\ndef f(): return T()", "assert f() != 5"),
        ("class T:\n    def __lt__(s, o): return True\ndef f(): return T()", "assert f() < 5"),
        ("class T:\n    def __eq__(s, o): return True\ndef f(): return [T()]", "assert f() == [5]"),
        ("def f(): raise SystemExit", "try:\n    f()\nexcept Exception: raise"),
    ],
)  # fmt: skip
def test_what_the_program_redefines_does_not_decide(program, test):
    assert judge(program, [test]).status == "wrong"


def test_assertions_reach_functions_classes_exceptions_and_changed_arguments():
    program = """
import math
from collections import Counter, OrderedDict
def area(r): return math.pi * r * r
def order(items): items.sort()
def count(text): return Counter(text)
def pairs(): return {(1, 2): {3}, None: frozenset([b"x", 1j])}
def evens():
    yield from (0, 2, 4)
def fail(): raise ValueError("no")
class Stack:
    def __init__(self): self.items = []
    def push(self, item):
        self.items.append(item)
        return self
    def __len__(self): return len(self.items)
if __name__ == "__main__":
    raise RuntimeError("imported, not run")
"""
    tests = [
        "assert math.isclose(area(2), 12.566370614359172)",
        "xs = [3, 1, 2]\norder(xs)\nassert xs == [1, 2, 3]",
        "assert count('aab') == {'a': 2, 'b': 1}",
        "assert pairs() == {(1, 2): {3}, None: frozenset([b'x', 1j])}",
        "assert list(evens()) == [0, 2, 4]",
        "try:\n    fail()\n    assert False\nexcept ValueError as e:\n    assert str(e) == 'no'",
        "s = Stack()\ns.push(1).push((2, 3))\nassert len(s) == 2 and s.items == [1, (2, 3)]",
        "def check(candidate):\n    assert candidate(1) > 3\n\ncheck(area)",
    ]
    for test in tests:
        verdict = judge(program, [test])
        assert verdict.status == "correct", (test, verdict)


FORMS = [
    (
        {"inputs": ["1 2\n", "3 4"], "outputs": ["3\n", "7"]},
        "print(sum(map(int, input().split())))",
    ),
    ({"inputs": [[1, 2]], "outputs": [3], "fn_name": "add"}, "def add(a, b): return a + b"),
    ('[{"stdin": "1", "stdout": "a \\nb\\n\\n"}]', "print('a')\nprint('b')"),
    ("assert add(1, 2) == 3", "def add(a, b): return a + b"),
    ([{"stdin": None, "stdout": "x", "extra": 1}, "assert y == 2"], "y = 2\nprint('x')"),
]


@pytest.mark.parametrize(("tests", "program"), FORMS)
def test_every_form_of_tests_is_read(tests, program):
    verdict = judge(program, tests)
    assert verdict.status == "correct", verdict


@pytest.mark.parametrize(
    "tests",
    [[], None, "", "{}", "[1]", [{"stdin": "x"}], ["assert ("], {"inputs": [1], "outputs": []},
     {"inputs": [[1]], "outputs": [1], "fn_name": "a;b"}, [{"stdin": 1, "stdout": "x"}]],
)  # fmt: skip
def test_rows_without_usable_tests_are_said_so(tests):
    assert judge("print(3)", tests).status == "gold_unparsable"


@pytest.mark.parametrize(
    ("completion", "status"),
    [
        ("```python\nprint(3)\n```", "correct"),
        ("```\nprint(3)\n```\n```text\nprint(4)\n```", "correct"),
        ("1. So:\n   ```python\n   if 1:\n       print(3)\n   ```", "correct"),
        ("```python\r\nprint(3)\r\n```\r\n", "correct"),
        ('````python\nx = """\n```\n"""\nprint(3)\n````', "correct"),
        ("```python\nprint(3)\n```\n```python\nprint(4)\n```", "wrong"),
        ("```python\nprint(3)\n```\n```python\nprint(3)", "unparsable"),
        ("print(3)", "unparsable"),
        ("```python\n\n```", "unparsable"),
        ("<think>```python\nprint(3)\n```", "truncated"),
        ("<think>```python\nprint(3)\n```</think>", "unparsable"),
    ],
)
def test_the_last_closed_block_is_the_program(completion, status):
    (verdict,) = python_tests([completion], [ECHO], sandbox=MODE)
    assert verdict.status == status


def test_programs_run_side_by_side_in_order():
    programs = [f"```python\nprint({number % 3})\n```" for number in range(9)]
    verdicts = python_tests(programs, [[{"stdin": "", "stdout": "1"}]] * 9, sandbox=MODE)
    assert [v.status == "correct" for v in verdicts] == [number % 3 == 1 for number in range(9)]


DENIED = """
echo 0 > /proc/sys/user/max_user_namespaces
exec setpriv --bounding-set -all --inh-caps -all "$@"
"""
ASK = """
from rlvr.rewards.sandbox import Limits, missing_protections, require, run_script
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


def test_options_without_sense_are_refused_when_the_recipe_is_read():
    from rlvr.registry import reward

    with pytest.raises(RecipeError, match="seconds"):
        reward.check("python_tests", {"seconds": 0.0}, "rewards[0]")
