"""A mistake in a user's own code is one line: its file and line, the row or matrix, and the fix."""

import sys

import pytest
import torch
from conftest import BODY, LINES, message_of

from rlvr.adapters.spec import build_method
from rlvr.data import load_prepared, parse_dataset
from rlvr.masks import build_mask, parse_spec
from rlvr.registry import import_plugins
from rlvr.rewards import parse_reward
from rlvr.schema import RecipeError
from rlvr.train import main as train_main


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


@pytest.mark.parametrize("answer", ["np.int64(2)", "np.float32(2)", "torch.tensor(2)"])
def test_an_answer_of_numpy_or_torch_is_a_number(plugin, answer):
    body = f"import numpy as np, torch; return [{{'problem': '1+1', 'answer': {answer}}}]"
    assert [row["answer"] for row in rows_of(plugin, body)] == ["2"]


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
