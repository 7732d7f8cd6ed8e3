"""The worker pool: every job is answered, whatever it does to its worker."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlvr.isolation.pool import Outcome, WorkerPool
from rlvr.schema import RunError

DEADLINE_S = 1.0
SLACK_S = 4.0  # the start and end of a worker on a busy machine


@pytest.fixture
def pool():
    workers = WorkerPool("jobs:run", size=2, deadline_s=DEADLINE_S, memory_mb=512)
    assert workers.call("echo", 1) == Outcome("done", 1)
    yield workers
    workers.close()


def pids(pool: WorkerPool) -> list[int]:
    return [worker.process.pid for worker in pool._workers]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(ids: list[int], seconds: float) -> list[int]:
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(map(is_running, ids)):
        time.sleep(0.02)
    return [pid for pid in ids if is_running(pid)]


@pytest.mark.parametrize("job", ["spin", "big_power"])
def test_a_job_without_end_is_cut_off_at_the_deadline(pool, job):
    start = time.monotonic()
    outcome = pool.call(job)
    assert outcome.status == "timeout"
    assert time.monotonic() - start < DEADLINE_S + SLACK_S
    assert pool.call("echo", 2) == Outcome("done", 2)


@pytest.mark.parametrize("job", ["segfault", "swallow", "leave", "killed", "fail"])
def test_a_job_that_takes_its_worker_along_is_a_crash_and_the_next_one_runs(pool, job):
    assert pool.call(job).status == "crashed"
    assert [pool.call("echo", value).value for value in range(5)] == list(range(5))
    assert pool.restarts == 1


def test_what_a_job_prints_does_not_reach_its_answer(pool):
    assert pool.call("shout") == Outcome("done", "heard")


def test_a_worker_killed_while_it_waits_costs_no_job(pool):
    for pid in pids(pool):
        os.kill(pid, signal.SIGKILL)
    assert [pool.call("echo", value).value for value in range(4)] == list(range(4))
    assert pool.restarts >= 1


def test_a_busy_worker_killed_from_outside_is_a_crash(pool, tmp_path):
    begun = tmp_path / "begun"
    with ThreadPoolExecutor(1) as thread:
        job = thread.submit(pool.call, "begin_and_wait", str(begun))
        while not begun.exists() and not job.done():
            time.sleep(0.01)
        for pid in pids(pool):
            os.kill(pid, signal.SIGKILL)
        assert job.result().status == "crashed"
    assert pool.call("echo", 3) == Outcome("done", 3)


def test_outcomes_keep_the_order_of_the_jobs_with_failures_between(pool):
    jobs = [("spin",) if n % 7 == 3 else ("echo", n) for n in range(20)]
    outcomes = pool.map(jobs)
    expected = ["timeout" if n % 7 == 3 else n for n in range(20)]
    assert [o.status if o.status == "timeout" else o.value for o in outcomes] == expected


def test_many_threads_share_the_workers(pool):
    answers: dict[int, list[int]] = {}

    def ask(me: int) -> None:
        answers[me] = [pool.call("echo", me * 100 + n).value for n in range(30)]

    threads = [threading.Thread(target=ask, args=(me,)) for me in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {me: [me * 100 + n for n in range(30)] for me in range(8)}


def test_both_workers_are_busy_at_once(pool):
    first, second = (outcome.value for outcome in pool.map([("span", 0.5), ("span", 0.5)]))
    assert first[0] != second[0]
    assert max(first[1], second[1]) < min(first[2], second[2])  # one began before the other ended


def test_a_fork_starts_its_own_workers_and_leaves_the_others_alone(pool):
    before = pids(pool)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        good = pool.call("echo", 5) == Outcome("done", 5) and not set(pids(pool)) & set(before)
        pool.close()
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pool.call("echo", 6) == Outcome("done", 6)
    assert pids(pool) == before


def test_a_closed_pool_leaves_no_worker(pool):
    ids = pids(pool)
    pool.close()
    assert not any(map(is_running, ids))


_OWNER = """
import sys, threading, time
sys.path.insert(0, {tests!r})
from rlvr.isolation.pool import WorkerPool
pool = WorkerPool("jobs:run", size=2, deadline_s=30)
pool.call("echo", 1)
threading.Thread(target=pool.call, args=("big_power",), daemon=True).start()
time.sleep(0.2)
print(*[worker.process.pid for worker in pool._workers], flush=True)
{end}
"""


@pytest.mark.parametrize("end", ["pass", "import os; os._exit(1)", "time.sleep(60)"])
def test_no_worker_outlives_its_owner(end):
    code = _OWNER.format(tests=str(Path(__file__).parent), end=end)
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    ids = [int(word) for word in owner.stdout.readline().split()]
    assert len(ids) == 3
    if "sleep" in end:
        owner.kill()
    owner.wait(timeout=20)
    assert wait_until_gone(ids, 20.0) == []


def test_workers_inherit_neither_torch_nor_much_memory(pool):
    end = time.monotonic() + 20
    while pool._idle.qsize() < 3 and time.monotonic() < end:
        time.sleep(0.02)
    for pid in pids(pool):
        status = Path(f"/proc/{pid}/status").read_text()
        resident_kb = int(status.partition("VmRSS:")[2].split()[0])
        assert resident_kb < 80 * 1024
        assert "torch" not in Path(f"/proc/{pid}/maps").read_text()
        assert (
            f" {512 << 20} " in Path(f"/proc/{pid}/limits").read_text().partition("Max address")[2]
        )


def test_a_worker_of_a_large_process_stays():
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "ballast = bytearray(600 << 20)\n"
        "from rlvr.isolation.pool import WorkerPool\n"
        "pool = WorkerPool('jobs:run', size=1, memory_mb=512)\n"
        "print(len({pool.call('sleep', 0).value for _ in range(6)}))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    # A worker and its spare, not one for every job.
    assert answer.stdout in ("1\n", "2\n"), answer.stderr


def test_a_function_that_cannot_be_served_is_one_clear_error():
    pool = WorkerPool("jobs:no_such_function", size=1)
    with pytest.raises(RunError, match="no_such_function"):
        pool.call()
    pool.close()


def test_no_pipe_is_left_open(pool):
    pool.close()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        other = WorkerPool("jobs:run", size=1, deadline_s=0.2)
        other.call("killed")
        other.close()
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert resource.getrlimit(resource.RLIMIT_AS)[0] != 512 << 20
