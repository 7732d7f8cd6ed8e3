"""A mistake in a user's own reward is one line: its file and line, the row, and the fix."""

import pytest
from conftest import BODY, LINES, message_of

from rlvr.files import read_jsonl
from rlvr.rewards import check_columns, parse_reward
from rlvr.rewards.gold import is_verifier
from rlvr.schema import RecipeError
from rlvr.train import main as train_main

COLUMNS = {"id": ["a", "b", "c", "d"], "answer": ["1", "2", "3", "4"]}
TEXTS = ["w", "x", "y", "z"]


def reward_that(plugin, body: str, **options):
    """Return the call of a reward with this body; its ``return`` stands in the line after."""
    plugin(f"@reward\ndef r(completions, answer):\n    {body}\n")
    return parse_reward({"name": "r", **options}, "rewards[0]")


@pytest.mark.parametrize(
    "returned",
    [
        "[1.0, 0.0, None, 1.0]",
        "(1, 0, None, True)",
        "[np.float32(1), np.int64(0), None, np.bool_(True)]",
        "[torch.tensor(1.0), torch.tensor(0), None, torch.tensor(True)]",
        "(value for value in (1.0, 0.0, None, 1.0))",
        "np.array([1.0, 0.0, None, 1.0])",
        "[Verdict('correct'), Verdict('wrong'), Verdict('gold_unparsable'), Verdict('wrong', 1.0)]",
    ],
)
def test_what_means_one_number_for_each_completion_is_taken(plugin, returned):
    rewards = reward_that(plugin, f"return {returned}")(TEXTS, COLUMNS)
    assert rewards == [1.0, 0.0, None, 1.0]
    assert all(type(value) in (float, type(None)) for value in rewards)


@pytest.mark.parametrize("kind", ["np.array", "torch.tensor"])
def test_an_array_or_a_tensor_is_taken_as_a_list(plugin, kind):
    rewards = reward_that(plugin, f"return {kind}([1.0, 0.0, 0.5, 1.0])")(TEXTS, COLUMNS)
    assert rewards == [1.0, 0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("pass", "returned NoneType None for 4 completions"),
        ("return 1.0", "returned float 1.0"),
        ("return 'good'", "returned str 'good'"),
        ("return {text: 1.0 for text in completions}", "returned dict"),
        ("return {1.0, 2.0, 3.0, 4.0}", "returned set"),
        ("return torch.tensor(1.0)", "returned Tensor"),
        ("return torch.zeros(4, 1)", "returned Tensor"),
        ("return np.zeros((4, 2))", "returned ndarray"),
        ("return [1.0]", "returned 1 rewards for 4 completions"),
        ("return []", "returned 0 rewards for 4 completions"),
        ("return np.zeros(5)", "returned 5 rewards for 4 completions"),
        ("return (1.0 for _ in range(3))", "returned 3 rewards for 4 completions"),
        ("return (lambda: (yield))", "returned function"),
    ],
)
def test_a_reward_that_returns_no_list_is_named_with_what_is_expected(plugin, body, words):
    call = reward_that(plugin, body)
    with pytest.raises(RecipeError) as error:
        call(TEXTS, COLUMNS)
    message = message_of(error)
    assert words in message and f"my_code.py, line {LINES + 1}" in message
    assert "for each" in message


def test_a_coroutine_is_refused_and_never_left_waiting(plugin, recwarn):
    plugin("async def late():\n    return []\n@reward\ndef r(completions):\n    return late()\n")
    with pytest.raises(RecipeError, match="returned coroutine"):
        parse_reward({"name": "r"}, "rewards[0]")(TEXTS, COLUMNS)
    assert not [w for w in recwarn if "never awaited" in str(w.message)]


BAD_VALUES = [
    ("float('nan')", "float nan"),
    ("float('inf')", "float inf"),
    ("-float('inf')", "float -inf"),
    ("1e39", "float 1e+39"),  # infinite in float32, which TRL keeps rewards in
    ("10**400", "int 1000"),
    ("np.float64('nan')", "float64 "),
    ("torch.tensor(float('nan'))", "Tensor "),
    ("'1.0'", "str '1.0'"),
    ("[1.0]", "list [1.0]"),
    ("1j", "complex 1j"),
    ("{}", "dict {}"),
    ("np.zeros(1)", "ndarray "),
    ("Verdict('right')", "a Verdict of status 'right'"),
    ("Verdict('correct', float('nan'))", "float nan"),
]


@pytest.mark.parametrize(("value", "words"), BAD_VALUES)
def test_one_wrong_value_names_its_row(plugin, value, words):
    call = reward_that(plugin, f"return [0.0, 1.0, {value}, 0.0]")
    with pytest.raises(RecipeError) as error:
        call(TEXTS, COLUMNS)
    message = message_of(error)
    assert f"returned {words}" in message and "the row 'c', completion 'y'" in message
    assert "finite number, a Verdict, or None" in message and "on_error: count" in message


@pytest.mark.parametrize(("value", "words"), BAD_VALUES)
def test_one_wrong_value_counts_as_not_judged_where_the_recipe_says_so(plugin, value, words):
    call = reward_that(plugin, f"return [0.0, 1.0, {value}, 0.0]", on_error="count")
    judgement = call.judge(TEXTS, COLUMNS)
    assert judgement.rewards == [0.0, 1.0, None, 0.0]
    (failure,) = judgement.failures
    assert f"returned {words}" in failure and "the row 'c'" in failure


FAILS = "return [1 / (float(gold) - 3) for gold in answer]"


def test_a_row_on_which_a_reward_raises_is_found_and_named(plugin):
    with pytest.raises(RecipeError) as error:
        reward_that(plugin, FAILS)(TEXTS, COLUMNS)
    message = message_of(error)
    for words in ("the row 'c', completion 'y'", f"line {BODY}: ZeroDivisionError", "on_error"):
        assert words in message
    # Also where the failing frame is another function of the same file, and ids are unknown.
    plugin(
        "def inner(x):\n    return x['key']\n@reward\ndef s(completions):\n    return [inner({})]\n"
    )
    with pytest.raises(RecipeError, match=f"completion 1, .*line {LINES + 2}: KeyError: 'key'"):
        parse_reward({"name": "s"}, "rewards[0]")(TEXTS, {})


@pytest.mark.parametrize("body", ["exit(0)", "exit()", "raise SystemExit('done')"])
def test_a_reward_that_leaves_does_not_end_the_run_as_if_all_were_well(plugin, body):
    with pytest.raises(RecipeError, match="SystemExit"):
        reward_that(plugin, body)(TEXTS, COLUMNS)


def test_rows_on_which_a_reward_raises_count_where_the_recipe_says_so(plugin):
    judgement = reward_that(plugin, FAILS, on_error="count").judge(TEXTS, COLUMNS)
    assert judgement.rewards == [-0.5, -1.0, None, 1.0]
    assert len(judgement.failures) == 1 and "the row 'c'" in judgement.failures[0]


def test_a_reward_that_fails_on_no_row_by_itself_stops_the_run_either_way(plugin):
    for options in ({}, {"on_error": "count"}):
        call = reward_that(plugin, "return [1.0] if len(answer) == 1 else 1 / 0", **options)
        with pytest.raises(RecipeError, match="on 4 completions: .*ZeroDivisionError"):
            call.judge(TEXTS, COLUMNS)


def test_a_reward_cannot_change_what_others_read(plugin):
    reward_that(plugin, "answer.clear(); completions.sort(reverse=True); return [0.0] * 4")(
        TEXTS, COLUMNS
    )
    assert COLUMNS["answer"] == ["1", "2", "3", "4"] and TEXTS == ["w", "x", "y", "z"]


def test_a_run_stops_at_a_failing_row_or_counts_it(write_recipe, plugin, tmp_path, capsys):
    plugin(
        "calls = [0]\n@reward\ndef r(completions, problem):\n    calls[0] += 1\n"
        "    return [float('nan') if i == 5 else float(i % 2) for i in range(len(completions))]\n"
    )
    path = write_recipe(plugins=["my_code"], rewards=[{"name": "r"}], trainer={"max_steps": 2})
    assert train_main([str(path)]) == 2
    error = capsys.readouterr().err
    said = [line for line in error.splitlines() if "step/s]" not in line and line]
    assert len(said) == 1 and "Traceback" not in error
    assert "returned float nan for the row 'pocket-" in error
    rewards = [{"name": "r", "on_error": "count"}]
    path = write_recipe("counted", plugins=["my_code"], rewards=rewards, trainer={"max_steps": 2})
    assert train_main([str(path)]) == 0
    assert capsys.readouterr().out.count("returned float nan") == 1
    rows = read_jsonl(tmp_path / "counted" / "metrics.jsonl")
    assert [row["rewards/r/failed"] for row in rows] == [1 / 16] * 2
    assert [row["rewards/r/unjudged"] for row in rows] == [1.0] * 2
    # The row is missing from its group's mean, and the other advantages stay finite.
    assert all(row["reward"] == pytest.approx(7 / 15) for row in rows)
    assert all(0 < row["grad_norm"] < float("inf") for row in rows)


def test_a_run_stops_where_too_many_rows_are_not_judged(write_recipe, plugin, capsys):
    plugin("@reward\ndef r(completions):\n    return [None, float('nan')] * 8\n")
    rewards = [{"name": "r", "on_error": "count"}]
    path = write_recipe(plugins=["my_code"], rewards=rewards, trainer={"max_steps": 3})
    assert train_main([str(path)]) == 1
    assert "crashed on 16, more than run.max_unverified = 0.2" in capsys.readouterr().err


def test_the_option_correct_makes_a_verifier(plugin):
    plugin("@reward\ndef r(completions, *, correct: float = 1.0):\n    return []\n")
    assert is_verifier(parse_reward({"name": "r"}, "rewards[0]"))


@pytest.mark.parametrize(
    ("parameters", "missing"),
    [
        ("completions, hint", "hint"),
        ("completions, hint=None", None),
        ("completions, /, hint", "hint"),
    ],
)
def test_columns_that_a_reward_reads_must_be_there(plugin, parameters, missing):
    plugin(f"@reward\ndef r({parameters}):\n    return [1.0] * len(completions)\n")
    call = parse_reward({"name": "r"}, "rewards[0]")
    if missing is None:
        check_columns([call], {"id": "a"})
        return
    with pytest.raises(RecipeError, match=f"reads the column '{missing}'"):
        check_columns([call], {"id": "a"})
