"""``rlvr data`` as a user starts it, and the run that trains on what it shows."""

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml
from conftest import SMALL

from rlvr.cli import main
from rlvr.registry import reward
from rlvr.rewards import parse_reward
from rlvr.train import main as train_main

POLICY = Path(__file__).parent.parent / "recipes" / "pocket" / "policy"
VERIFIER = SMALL["rewards"][0]["name"]
COUNTDOWN = [
    {"id": "a", "problem": "Make 6.", "answer": "1+2+3", "numbers": [1, 2, 3], "target": 6},
    {"id": "b", "problem": "Make 7.", "answer": "1+2*3", "numbers": [1, 2, 3], "target": 7},
]


def write(path: Path, rows: list) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def data(*words: str) -> int:
    return main(["data", *words])


def test_a_dataset_is_counted_shown_and_written_whole(tmp_path, capsys):
    copies = [{**COUNTDOWN[0], "id": "c"}, {**COUNTDOWN[0], "id": "d", "answer": ""}]
    path, out = write(tmp_path / "x.jsonl", [*COUNTDOWN, *copies]), tmp_path / "sub" / "out.jsonl"
    words = [f"path={path}", "deduplicate=true", "drop_invalid=true", "prompt=boxed"]
    assert data("jsonl", *words, "--out", str(out)) == 0
    shown = capsys.readouterr().out
    assert "2 rows kept, 2 dropped" in shown
    assert "dropped 1, duplicate: c" in shown and "dropped 1, no answer: d" in shown
    assert shown.count("--- prompt of") == 2 and "Make 6.\n\nPlease reason" in shown
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["id"], row["target"], row["source"]) for row in rows] == [
        ("a", 6, "x.jsonl"),
        ("b", 7, "x.jsonl"),
    ]
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == []
    dropped = json.loads((out.parent / "out.jsonl.dropped.json").read_text())
    assert dropped == {"no answer": ["d"], "duplicate": ["c"]}
    assert data("jsonl", f"path={out}", "--reward", "countdown", "--validate") == 0


def test_golds_that_do_not_score_themselves_are_listed_with_exit_code_1(tmp_path, capsys):
    bad = [
        {**COUNTDOWN[0], "id": "wrong", "answer": "1+2-3"},
        {**COUNTDOWN[0], "id": "odd", "numbers": [1, 2, "x"]},
    ]
    path = write(tmp_path / "x.jsonl", [*COUNTDOWN, *bad])
    words = ["jsonl", f"path={path}", "--reward", "countdown", "--validate"]
    assert data(*words) == 1
    shown = capsys.readouterr().out
    assert "wrong: '1+2-3' is wrong" in shown and "odd: '1+2+3' is gold_unparsable" in shown
    assert "2 of 4 gold answers score themselves (countdown)" in shown
    assert data(*words, "check_gold=true") == 1
    assert "dropped 1, gold unparsable: odd" in capsys.readouterr().out


UNSCORABLE = [
    "The answer is 5",
    "There are 12 ways",
    "He has three apples",
    "Therefore x equals 2",
    "It follows from the pigeonhole principle",
    "all positive integers that divide every square",
    '["1/2", "0.5"]',
    "['New York', 'NYC']",
    '{"value": 3}',
]


@pytest.mark.parametrize("answer", UNSCORABLE)
def test_a_gold_that_no_answer_can_meet_is_listed_dropped_and_never_rewarded(
    tmp_path, capsys, answer
):
    good = {"id": "good", "problem": "1+1", "answer": "2"}
    path = write(tmp_path / "x.jsonl", [good, {"id": "bad", "problem": "p", "answer": answer}])
    words = ["jsonl", f"path={path}", "--reward", "math", "--validate"]
    assert data(*words) == 1
    shown = capsys.readouterr().out
    assert "bad: " in shown and "is gold_unparsable (the gold answer: " in shown
    assert "1 of 2 gold answers score themselves (math)" in shown
    assert data(*words, "check_gold=true") == 0
    assert "dropped 1, gold unparsable: bad" in capsys.readouterr().out
    # A run counts such a row, and it rewards no other answer.
    judgement = parse_reward({"name": "math"}, "rewards").judge(
        ["\\boxed{7}", "\\boxed{}", "7"], {"answer": [answer] * 3}
    )
    assert judgement.rewards == [None] * 3
    assert judgement.statuses == Counter(gold_unparsable=3)


@pytest.mark.parametrize(
    "answer",
    ["5", "\\frac{1}{2}", "1, 2", "[0, 1]", "(1, 2)", "Paris", "New York", "12 ways", "odd"]
    + ["B", "\\text{yes}", "no solution", "{1, 2}", "x = 3", "5 \\text{ apples}"],
)
def test_a_gold_in_a_few_words_scores_itself(tmp_path, answer):
    path = write(tmp_path / "x.jsonl", [{"id": "a", "problem": "p", "answer": answer}])
    assert data("jsonl", f"path={path}", "--reward", "math", "--validate") == 0


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["gsm9k"], "did you mean 'gsm8k'"),
        (["jsonl", "path=/nowhere.jsonl"], "does not exist"),
        (["jsonl", "pth=x"], "did you mean 'path'"),
        (["nowhere.yaml"], "does not exist"),
        (["pocket", "split=test", "size=2", "--validate", "--reward", "mth"], "unknown 'mth'"),
        (["pocket", "split=test", "size=2", "--validate", "--reward", "countdown"], "'numbers'"),
        (["pocket", "split=test", "size=2", "--validate", "--reward", "format"], "no reward"),
    ],
)
def test_mistakes_are_one_line(words, error, capsys):
    assert data(*words) == 2
    assert error in capsys.readouterr().err


def test_a_recipe_is_shown_through_its_chat_template_and_validated(write_recipe, capsys):
    recipe = write_recipe(
        data={"prefill": "<think>\n"},
        rewards=[{"name": VERIFIER}, {"name": "format"}],
        eval={
            "data": {"name": "pocket", "split": "test", "size": 8},
            "verifier": {"name": VERIFIER},
        },
    )
    assert data(str(recipe), "data.size=16", "--validate") == 0
    shown = capsys.readouterr().out
    assert f"data: 16 of 16 gold answers score themselves ({VERIFIER})" in shown
    assert "eval.data: 8 of 8 gold answers" in shown
    assert shown.count("<|user|>") == 6 and shown.count("<think>\n") == 3


def test_every_form_of_a_gold_is_what_its_reward_reads(tmp_path):
    pytest.importorskip("jsonschema", reason="the extra 'rewards' is not installed")
    from rlvr.isolation.sandbox import missing_protections
    from rlvr.rewards import RewardCall
    from rlvr.rewards.gold import gold_verdicts

    mode = "best_effort" if missing_protections() else "required"
    rows = {
        "choice": {"answer": "C"},
        "countdown": COUNTDOWN[0],
        "json_schema": {"answer": "[1]", "schema": {"type": "array"}},
        VERIFIER: {"answer": "-4"},
        "python_tests": {"answer": "def f(): return 1", "tests": ["assert f() == 1"]},
    }
    for name, row in rows.items():
        given = {"sandbox": mode} if name == "python_tests" else {}
        call = RewardCall(name, reward.check(name, given, "rewards[0]"))
        assert [verdict.status for verdict in gold_verdicts(call, [row])] == ["correct"], name


def test_a_run_trains_on_prompts_and_rewards_of_its_recipe(write_recipe, tmp_path):
    rows = [
        {"id": str(n), "problem": f"{n}+{n}*2", "answer": str(3 * n), "tests": [{"x": n}, "y"]}
        for n in range(1, 9)
    ]
    path = write_recipe(
        rewards=[
            {"name": VERIFIER},
            {"name": "format", "weight": 0.5, "opening": "prompt"},
            {"name": "overlong", "max_length": 32, "buffer": 16},
            {"name": "repetition", "ngram": 3},
        ],
        trainer={"max_steps": 1},
    )
    content = yaml.safe_load(path.read_text())
    content["data"] = {
        "name": "jsonl",
        "path": write(tmp_path / "rows.jsonl", rows),
        "prompt": "{problem}",
        "prefill": "<think>\n",
        "shuffle": 1,
    }
    path.write_text(yaml.safe_dump(content))
    assert train_main([str(path)]) == 0
    lines = (tmp_path / "recipe" / "rollouts.jsonl").read_text().splitlines()
    rollouts = [json.loads(line) for line in lines]
    assert rollouts and all(
        set(r["rewards"]) == {VERIFIER, "format", "overlong", "repetition"} for r in rollouts
    )
    assert all("<think>" not in rollout["prompt"] for rollout in rollouts)


def test_every_countdown_of_a_public_generator_scores_itself(capsys):
    path = Path(__file__).parent / "data" / "countdown.jsonl"
    assert data("jsonl", f"path={path}", "--validate", "--reward", "countdown") == 0
    assert "100 of 100" in capsys.readouterr().out
