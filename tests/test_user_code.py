"""A mistake in a user's own code is one line: its file and line, the row or matrix, and the fix."""

import importlib
import sys
from collections.abc import Callable, Iterator

import pytest
import torch

from rlvr import registry
from rlvr.adapters.spec import build_method
from rlvr.data import load_prepared, parse_dataset
from rlvr.files import read_jsonl
from rlvr.masks import build_mask, parse_spec
from rlvr.registry import import_plugins
from rlvr.rewards import check_columns, parse_reward
from rlvr.rewards.gold import is_verifier
from rlvr.schema import RecipeError
from rlvr.train import main as train_main

HEAD = "import numpy as np, torch\nfrom rlvr.registry import *\nfrom rlvr.rewards import Verdict\n"
LINES = HEAD.count("\n")
REGISTRIES = (registry.mask_builder, registry.reward, registry.adapter, registry.dataset)


@pytest.fixture
def plugin(tmp_path, monkeypatch) -> Iterator[Callable[..., None]]:
    """Return a function that writes a module of one's own and imports it as a plugin."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two texts may come in one second
    before = [(dict(kind.functions), dict(kind.checks)) for kind in REGISTRIES]

    def forget() -> None:
        sys.modules.pop("my_code", None)
        for kind, (functions, checks) in zip(REGISTRIES, before, strict=True):
            kind.functions, kind.checks = dict(functions), dict(checks)

    def write(text: str, head: str = HEAD) -> None:
        forget()
        (tmp_path / "my_code.py").write_text(head + text)
        importlib.invalidate_caches()
        import_plugins(["my_code"])

    yield write
    forget()


def message_of(error: pytest.ExceptionInfo[RecipeError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("def f(:\n", 1, "SyntaxError"),
        ("x = 1\n  y = 2\n", 2, "IndentationError"),
        ("import no_such_library\n", 1, "No module named 'no_such_library'"),
        ("import os\nfrom os import no_such_name\n", 2, "cannot import name 'no_such_name'"),
        ("\n\nraise RuntimeError('two\\nlines')\n", 3, "RuntimeError: two lines"),
        ("import json\njson.loads('{')\n", 2, "JSONDecodeError"),
        ("import sys\nsys.exit(3)\n", 2, "SystemExit: 3"),
        ("x = undefined\n", 1, "NameError"),
        ("assert 1 == 2\n", 1, "AssertionError"),
    ],
)
def test_a_plugin_that_does_not_import_is_named_with_its_line(plugin, text, line, words):
    with pytest.raises(RecipeError) as error:
        plugin(text, head="")
    message = message_of(error)
    assert f"my_code.py, line {line}: " in message and words in message
    assert message.startswith("plugins: 'my_code' does not import")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("./my.py", "write the module's name, plugins: [my]"),
        ("my.py", "plugins: [my]"),
        ("code/my.py", "PYTHONPATH=code"),
        ("./code", "is a path"),
        ("my-rewards", "no module name"),
        ("", "no module name"),
        ("..my", "no module name"),
        ("my rewards", "no module name"),
        ("absent_module", "put its folder on PYTHONPATH"),
        ("absent.inside", "put its folder on PYTHONPATH"),
        ("json.absent", "cannot find the module 'json.absent'"),
    ],
)
def test_a_plugin_that_is_no_module_is_refused_with_the_fix(name, words):
    with pytest.raises(RecipeError) as error:
        import_plugins([name])
    assert words in message_of(error)


REWARD = "@reward\ndef r({}):\n    return [0.0] * len(completions)\n"
SIGNATURES = [
    (REWARD.format("completions, **kwargs"), "**kwargs stays empty"),
    (REWARD.format("prompts, completions, **kwargs"), "**kwargs stays empty"),
    (REWARD.format("prompts, completions"), "must take (completions, columns)"),
    (REWARD.format("*completions"), "*completions stays empty"),
    (REWARD.format("answer, completions"), "must take (completions, columns)"),
    (REWARD.format("*, completions"), "must take (completions, columns)"),
    (REWARD.format(""), "must take (completions, columns)"),
    (REWARD.format("completions, *, weight=1.0"), "'weight' cannot be set"),
    (REWARD.format("completions, *, name='x'"), "'name' cannot be set"),
    (REWARD.replace("def", "async def").format("completions"), "is async"),
    ("@reward\nclass r:\n    pass\n", "is no function"),
    ("@reward\ndef math(completions):\n    return []\n", "'math' is registered twice"),
    ("@mask_builder\ndef m(weight):\n    pass\n", "must take (weight, name)"),
    ("@mask_builder\ndef m(name, weight):\n    pass\n", "must take (weight, name)"),
    ("@mask_builder\ndef m(weight, name, density):\n    pass\n", "options stand after a *"),
    ("@mask_builder\ndef m(weight, name, *, builder=1):\n    pass\n", "'builder' cannot be set"),
    ("@mask_builder\ndef m(*args):\n    pass\n", "*args stays empty"),
    ("@adapter\ndef a(rank):\n    pass\n", "options stand after a *"),
    ("@adapter\ndef a(model, *, rank=1):\n    pass\n", "must take ()"),
    ("@dataset\ndef d(size):\n    return []\n", "options stand after a *"),
    ("@dataset\ndef d(**options):\n    return []\n", "**options stays empty"),
]


@pytest.mark.parametrize(("text", "words"), SIGNATURES)
def test_a_function_that_a_run_could_not_call_is_refused_when_it_is_imported(plugin, text, words):
    with pytest.raises(RecipeError) as error:
        plugin(text)
    message = message_of(error)
    assert words in message and f"my_code.py, line {LINES + 1}: " in message


def test_a_check_refuses_what_a_run_would_refuse(write_recipe, plugin, capsys, tmp_path):
    for text in (SIGNATURES[0][0], "import no_such_library\n"):  # the file stays
        with pytest.raises(RecipeError):
            plugin(text)
        sys.modules.pop("my_code", None)
        assert train_main([str(write_recipe(plugins=["my_code"])), "--check"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"{tmp_path}/my_code.py, line {LINES + 1}" in error


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"points": "1"}, "rewards[0].points: expected float"),
        ({"pionts": 1}, "did you mean 'points'"),
        ({"points": float("nan")}, "rewards[0].points: must be a finite number"),
        ({"weight": float("inf")}, "rewards[0].weight: must be a finite number"),
        ({"weight": "2"}, "rewards[0].weight: expected float"),
        ({"on_error": "ignore"}, "expected 'stop' or 'count'"),
        ({"points": 3.0}, "my_code.py, line 9: ZeroDivisionError"),
    ],
)
def test_options_of_a_reward_are_checked_before_anything_is_loaded(plugin, spec, words):
    text = "@reward\ndef r(completions, *, points: float = 0.0):\n    return []\n"
    text += "@reward.checks_options('r')\ndef check(options, where):\n"
    plugin(f"{text}    options['points'] == 3.0 and 1 / 0\n")
    with pytest.raises(RecipeError) as error:
        parse_reward({"name": "r", **spec}, "rewards[0]")
    assert words in message_of(error)


def test_an_annotation_that_does_not_exist_is_named(plugin):
    plugin("@reward\ndef r(completions, *, points: 'Points' = 0):\n    return []\n")
    with pytest.raises(RecipeError) as error:
        parse_reward({"name": "r"}, "rewards[0]")
    assert "'Points' is not defined" in message_of(error) and "my_code.py, line" in str(error.value)


COLUMNS = {"id": ["a", "b", "c", "d"], "answer": ["1", "2", "3", "4"]}
TEXTS = ["w", "x", "y", "z"]


def reward_that(plugin, body: str, **options):
    """Return the call of a reward with this body; its ``return`` stands in the line after."""
    plugin(f"@reward\ndef r(completions, answer):\n    {body}\n")
    return parse_reward({"name": "r", **options}, "rewards[0]")


BODY = LINES + 3  # the line of the body


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


@pytest.mark.parametrize("answer", ["np.int64(2)", "np.float32(2)", "torch.tensor(2)"])
def test_an_answer_of_numpy_or_torch_is_a_number(plugin, answer):
    body = f"import numpy as np, torch; return [{{'problem': '1+1', 'answer': {answer}}}]"
    assert [row["answer"] for row in rows_of(plugin, body)] == ["2"]


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


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("pass", "returned NoneType None"),
        ("return np.ones(weight.shape, dtype=bool)", "returned ndarray"),
        ("return weight.abs()", "a tensor of torch.float32 and shape (4, 3)"),
        ("return (weight > 0).to(torch.uint8)", "a tensor of torch.uint8"),
        ("return weight[0] > 0", "a tensor of torch.bool and shape (3,)"),
        ("return (weight > 0).T", "a tensor of torch.bool and shape (3, 4)"),
        ("return {name: weight > 0}", "returned dict"),
        ("return True", "returned bool True"),
        ("return (weight > 0).to_sparse()", "shape (4, 3) (torch.sparse_coo"),
        ("return torch.ones(4, 3, dtype=torch.bool, device='meta')", "on meta"),
        ("raise SystemExit", f"line {BODY}: SystemExit"),
        ("return weight.grad.abs() > 0", f"line {BODY}: AttributeError"),
        ("(weight ** 2).sum().backward()", f"line {BODY}: RuntimeError"),
        ("return weight @ weight", f"line {BODY}: RuntimeError"),
        ("raise MemoryError", f"line {BODY}: MemoryError"),
    ],
)
def test_a_mask_builder_that_builds_no_mask_names_the_matrix(plugin, body, words):
    plugin(f"@mask_builder\ndef m(weight, name):\n    {body}\n")
    with pytest.raises(RecipeError) as error:
        build_mask(parse_spec({"builder": "m"}), [("layers.0.weight", torch.randn(4, 3))])
    message = message_of(error)
    assert words in message and "'m' of 'layers.0.weight'" in message
    assert "my_code.py, line" in message


def test_a_mask_builder_that_works_in_place_leaves_the_weights_alone(plugin):
    plugin("@mask_builder\ndef m(weight, name):\n    return weight.abs_() > 0.5\n")
    weight = torch.linspace(-1, 1, 12).view(4, 3)
    before = weight.clone()
    mask = build_mask(parse_spec({"builder": "m"}), [("w", weight)])["w"]
    assert torch.equal(weight, before) and torch.equal(mask, before.abs() > 0.5)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("pass", "returned NoneType None"),
        ("from peft import LoraConfig; return LoraConfig(r=4)", "returned LoraConfig"),
        ("return {'rank': 4}", "returned dict"),
        ("return no_such_name", "NameError"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
    ],
)
def test_an_adapter_builder_that_returns_no_method_is_named(plugin, body, words):
    plugin(f"@adapter\ndef a():\n    {body}\n")
    with pytest.raises(RecipeError) as error:
        build_method({"builder": "a"})
    message = message_of(error)
    assert words in message and "adapter 'a'" in message and "my_code.py, line" in message


ROW = "{'problem': '1+1', 'answer': '2'}"


def rows_of(plugin, body: str, **options):
    plugin(f"@dataset\ndef d():\n    {body}\n")
    return load_prepared(parse_dataset({"name": "d", **options}, "data"), "data").rows


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("pass", "returned NoneType None"),
        ("return 3", "returned int 3"),
        ("return 'rows.jsonl'", "returned str 'rows.jsonl'"),
        (f"return {ROW}", "returned dict"),
        ("return []", "has no rows (it is empty)"),
        ("return iter(())", "has no rows (it is empty)"),
        (f"return [{ROW}, ('1+2', '3')]", "row 1: expected an object, got tuple"),
        (f"return [{ROW}, None]", "row 1: expected an object, got NoneType"),
        ("return [{'answer': '2'}]", "row 0: no column 'problem'; it has answer"),
        (f"return [{ROW}, {{'problem': '1+2'}}]", "row 1: no column 'answer'"),
        ("return [{}]", "row 0: no column 'problem'; it has none"),
        ("return [{'problem': '1+1', 'answer': None, 'id': 'x'}]", "no answer: x"),
        ("return [{'problem': 3, 'answer': '2'}]", "no problem: row 0"),
        (f"return [{ROW}, {ROW}]", "two rows have the id"),
        ("return [{'problem': p, 'answer': '1', 'id': 7} for p in 'ab']", "have the id '7'"),
        ("return [{'problem': '1+1', 'answer': ['1/2', '0.5']}]", "a list of several answers"),
        ("import sys; sys.exit(0)", f"line {BODY}: SystemExit: 0"),
        ("return open('/nowhere')", f"line {BODY}: FileNotFoundError"),
        (f"return ({ROW} if n < 2 else 1 / 0 for n in range(3))", f"line {BODY}: ZeroDivision"),
    ],
)
def test_a_dataset_that_gives_no_rows_is_named_with_the_row(plugin, body, words):
    with pytest.raises(RecipeError) as error:
        rows_of(plugin, body)
    message = message_of(error)
    assert words in message
    assert "my_code.py, line" in message or message.startswith("data: ")


def test_rows_of_a_plugin_get_what_they_lack(plugin):
    rows = rows_of(
        plugin, "return ({'problem': f'{n}+1', 'answer': n + 1, 'n': n} for n in (1, 2))"
    )
    assert [row["answer"] for row in rows] == ["2", "3"]
    assert len({row["id"] for row in rows}) == 2 and {row["source"] for row in rows} == {"d"}
    assert [row["n"] for row in rows] == [1, 2]  # pyright: ignore[reportTypedDictNotRequiredAccess]
    assert rows == rows_of(
        plugin, "return [{'problem': f'{n}+1', 'answer': n + 1, 'n': n} for n in (1, 2)]"
    )


def test_a_table_of_rows_is_a_dataset(plugin):
    body = f"from datasets import Dataset; return Dataset.from_list([{ROW}])"
    assert [row["problem"] for row in rows_of(plugin, body)] == ["1+1"]
