"""Rewards that lean on a library which may hang: JSON Schema and the tasks of reasoning-gym."""

import json
import time

import pytest

from rlvr.isolation.pool import WorkerPool, scorers
from rlvr.isolation.sandbox import missing_protections
from rlvr.registry import reward
from rlvr.rewards import json_schema, reasoning_gym, restarts
from rlvr.schema import RecipeError

pytest.importorskip("jsonschema", reason="the extra 'rewards' is not installed")
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
GOOD = '{"name": "Ada", "age": 36}'


@pytest.mark.parametrize(
    ("completion", "status"),
    [
        (f"<think>x</think>```json\n{GOOD}\n```", "correct"),
        (f"Here:\n```json\n[]\n```\nbetter:\n```json\n{GOOD}\n```\ndone", "correct"),
        (f"```json\n{GOOD}\n```\n```json\n[]\n```", "wrong"),
        (f"```json\n{GOOD}\n```\n```python\nx\n```", "correct"),
        (GOOD, "correct"),
        (f"{GOOD} and more", "correct"),
        (f"Here it is: {GOOD}.", "correct"),
        (f"\ufeff{GOOD}", "correct"),
        (f"```json\n\ufeff{GOOD}\n```", "correct"),
        (f"```JSON\n{GOOD}\n```\nThat is it.", "correct"),
        (f"Here it is: {GOOD} or {GOOD}", "unparsable"),
        (f"{GOOD} or []", "unparsable"),
        ('Here: {"name": "Ada", "age": -1} done', "wrong"),
        ('Here: {"name": "Ada", "age": 36', "unparsable"),
        (f"```json\n{GOOD}\n```\n```json\n{GOOD}", "unparsable"),
        ('{"name": "Ada", "age": "36"}', "wrong"),
        ('{"name": "Ada", "age": -1}', "wrong"),
        ('{"name": "Ada", "age": 36, "age": 37}', "unparsable"),
        ('{"name": "Ada", "age": NaN}', "unparsable"),
        ("{'name': 'Ada', 'age': 36}", "unparsable"),
        ("", "unparsable"),
        (f"<think>{GOOD}", "truncated"),
        ("[" * 100_000, "unparsable"),
        ("[" * 100_000 + "]" * 100_000, "unparsable"),
        ('{"name": "Ada", "age": ' + "9" * 200_000 + "}", "unparsable"),
        ('"\\ud800"', "wrong"),
    ],
)
def test_the_last_json_block_is_validated(completion, status):
    for schema in (PERSON, json.dumps(PERSON)):
        (verdict,) = json_schema([completion], [schema])
        assert verdict.status == status, verdict


def test_one_schema_may_serve_all_rows():
    verdicts = json_schema([GOOD, "1"], all_rows=PERSON)
    assert [verdict.status for verdict in verdicts] == ["correct", "wrong"]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "strnig"},
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"$ref": "file:///etc/passwd"},
        {"$ref": "#/nowhere"},
        "no json",
        3,
        None,
    ],
)
def test_a_schema_that_cannot_be_used_is_said_so_and_never_fetched(schema):
    start = time.monotonic()
    assert json_schema([GOOD], [schema])[0].status == "gold_unparsable"
    assert time.monotonic() - start < 10


def test_a_catastrophic_pattern_is_a_timeout_and_the_next_row_is_judged():
    bomb = {"type": "string", "pattern": "^(a+)+$"}
    text = json.dumps("a" * 40 + "!")
    start = time.monotonic()
    verdicts = json_schema([text, '"aa"', text], [bomb, bomb, bomb], seconds=0.5)
    assert [verdict.status for verdict in verdicts] == ["timeout", "correct", "timeout"]
    assert time.monotonic() - start < 20  # two new workers start


def test_schemas_that_never_end_do_not_hang():
    loop = {"$ref": "#"}
    tree = {"anyOf": [{"items": {"$ref": "#"}}, {"items": {"$ref": "#"}}]}
    verdicts = json_schema(["[]", "[" * 60 + "]" * 60], [loop, tree], seconds=0.5)
    assert verdicts[0].status in ("wrong", "timeout")
    assert verdicts[1].status in ("correct", "timeout")


def test_a_schema_of_the_recipe_is_checked_before_training():
    with pytest.raises(RecipeError, match=r"rewards\[1\].all_rows"):
        reward.check("json_schema", {"all_rows": {"type": 7}}, "rewards[1]")


def crash(request):
    import os

    if request == "exit":
        os._exit(3)
    if request == "sleep":
        time.sleep(60)
    if request == "print":
        print('{"forged": true}', flush=True)
    return request


def test_a_worker_that_dies_or_hangs_costs_its_own_row_alone(monkeypatch):
    monkeypatch.syspath_prepend(str(__file__).rsplit("/", 1)[0])
    workers = scorers("test_scored_rewards:crash")
    requests = ["a", "exit", "b", "sleep", "c", "print", "d"]
    outcomes = workers.map([(request,) for request in requests], deadline_s=0.5)
    said = [one.value if one.status == "done" else one.status for one in outcomes]
    assert said == ["a", "crashed", "b", "timeout", "c", "print", "d"]
    living = list(workers._workers)
    workers.close()
    assert living and all(worker.process.returncode is not None for worker in living)


@pytest.mark.parametrize("kind", ["exit", "sleep", "other"])
def test_restarts_count_the_workers_of_every_pool(monkeypatch, kind):
    monkeypatch.syspath_prepend(str(__file__).rsplit("/", 1)[0])
    before = restarts()
    if kind == "other":
        judges = WorkerPool("jobs:run", size=1)
        assert judges.call("fail").status == "crashed" and judges.call("echo", 1).value == 1
    else:
        judges = scorers("test_scored_rewards:crash")
        judges.map([(kind,), ("a",)], deadline_s=0.5)
        assert judges.call("b").value == "b"
    assert restarts() == before + 1
    judges.close()


def escape(path):
    import os
    import socket

    done = []
    attempts = {
        "writes": lambda: open(path, "w"),
        "starts": lambda: os.system("true") == 0 or 1 / 0,
        "kills": lambda: os.kill(os.getppid(), 0),
        "connects": lambda: socket.create_connection(("127.0.0.1", 9)),
        "opens": lambda: socket.socket(),
        "reads": lambda: open(__file__).read(),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
            done.append(name)
        except (OSError, ZeroDivisionError):
            continue
    return done


def test_a_worker_reads_and_does_nothing_else(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(__file__).rsplit("/", 1)[0])
    workers = scorers("test_scored_rewards:escape")
    done = workers.call(str(tmp_path / "x"), deadline_s=5.0).value
    workers.close()
    assert set(done) - ({"writes"} if missing_protections() else set()) == {"reads"}


def entries(task: str, size: int = 5) -> list[dict]:
    package = pytest.importorskip("reasoning_gym", reason="the extra 'rewards' is not installed")
    return list(package.create_dataset(task, size=size, seed=1))


@pytest.mark.parametrize("task", ["countdown", "leg_counting", "spell_backward"])
def test_the_answers_of_a_task_score_themselves_and_others_do_not(task):
    rows = entries(task)
    golds = [f"<think>x</think><answer>{row['answer']}</answer>" for row in rows]
    columns = (
        [row["question"] for row in rows],
        [row["answer"] for row in rows],
        [json.dumps(row["metadata"]) for row in rows],
    )
    assert {verdict.status for verdict in reasoning_gym(golds, *columns)} == {"correct"}
    assert {verdict.status for verdict in reasoning_gym(["frog"] * 5, *columns)} == {"wrong"}
    assert {verdict.status for verdict in reasoning_gym([""] * 5, *columns)} == {"unparsable"}


@pytest.mark.parametrize("metadata", [None, "no json", {}, {"source_dataset": "no task"}])
def test_an_entry_without_its_task_is_said_so(metadata):
    entries("leg_counting", 1)
    assert reasoning_gym(["4"], ["?"], ["4"], [metadata])[0].status == "gold_unparsable"


def test_a_hostile_answer_to_a_scorer_is_bounded():
    (row,) = entries("countdown", 1)
    texts = ["9**9**9**9", "(" * 100_000, "9" * 200_000, "__import__('os').system('sleep 9')"]
    columns = ([row["question"]] * 4, [row["answer"]] * 4, [row["metadata"]] * 4)
    start = time.monotonic()
    verdicts = reasoning_gym(texts, *columns, seconds=1.0)
    assert {verdict.status for verdict in verdicts} <= {"wrong", "timeout", "crashed"}
    assert time.monotonic() - start < 30  # a worker that imports the package starts anew
