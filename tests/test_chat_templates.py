"""The arguments of a chat template reach whatever renders a prompt."""

import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlvr.cli import main
from rlvr.config import load_recipe
from rlvr.curvature import draw_prompts
from rlvr.data import generation_prompt, prompt_tokenizer
from rlvr.eval.sampling import prompt_token_ids
from rlvr.schema import RecipeError
from rlvr.train import main as train_main
from rlvr.training.evaluation import load_problems

POLICY = Path(__file__).parent.parent / "recipes" / "pocket" / "policy"
TOKENIZER = AutoTokenizer.from_pretrained(POLICY)
ENDING = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
# Like Qwen's: without thinking, the generation prompt holds an empty thought.
THINKING = (
    TOKENIZER.chat_template
    + "{% if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}"
    "<think></think>{% endif %}"
)
MESSAGES = [
    [{"role": "user", "content": "1+1"}],
    [{"role": "system", "content": "9"}, {"role": "user", "content": "2*3"}],
]
BODY = "{% for m in messages %}{{ m.content }}{% endfor %}"
CASES = {
    "false": (THINKING, {"enable_thinking": False}),
    "true": (THINKING, {"enable_thinking": True}),
    "text": (BODY + "{{ effort }}" + ENDING, {"effort": "a\n\"b' é😀 {{ x }} %}"}),
    "number": (BODY + "{{ budget + 1 }}" + ENDING, {"budget": 1.5}),
    "null": (BODY + "{{ 'none' if date is none else date }}" + ENDING, {"date": None}),
    "nested": (BODY + "{{ a.b[1] }}{{ a.c }}" + ENDING, {"a": {"b": [1, True], "c": None}}),
    "two": (BODY + "{{ a }}{{ b }}" + ENDING, {"a": "1", "b": [2]}),
    "a line break in front": ("\n  " + BODY + "{{ a }}" + ENDING, {"a": "1"}),
    "a macro": ("{% macro f() %}{{ a }}{% endmacro %}" + BODY + "{{ f() }}" + ENDING, {"a": "x"}),
    "a default": (
        "{% set a = a if a is defined else 1 %}" + BODY + "{{ a }}" + ENDING,
        {"a": 7},
    ),
    "a loop": ("{% for m in messages %}{{ a }}{{ m.content }}{% endfor %}" + ENDING, {"a": "x"}),
}


@pytest.mark.parametrize("prefill", [None, "<think>\n"])
@pytest.mark.parametrize(("template", "kwargs"), CASES.values(), ids=CASES)
def test_a_prompt_is_what_the_template_makes_of_its_arguments(template, kwargs, prefill):
    plain = AutoTokenizer.from_pretrained(POLICY)
    plain.chat_template = template
    tokenizer = prompt_tokenizer(plain, prefill, kwargs, "data")
    for messages in MESSAGES:
        expected = plain.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **kwargs
        )
        expected += prefill or ""
        assert generation_prompt(tokenizer, messages) == expected
        assert generation_prompt(tokenizer, messages, **kwargs) == expected  # as TRL renders
        (ids,) = prompt_token_ids(tokenizer, [messages])
        assert ids == tokenizer(expected, add_special_tokens=False)["input_ids"]
    assert plain.chat_template == template


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"enable_thinkng": False}, "does not read 'enable_thinkng'"),
        ({"thinking": False}, "does not read 'thinking'"),
        ({"enable-thinking": False}, "does not read"),
        ({"add_generation_prompt": False}, "the run sets it itself"),
        ({"tokenize": True}, "the run sets it itself"),
        ({"continue_final_message": True}, "the run sets it itself"),
        ({"messages": []}, "the run sets it itself"),
    ],
)
def test_arguments_without_a_use_are_refused_by_a_check(
    write_recipe, tmp_path, capsys, kwargs, words
):
    path = write_recipe(model=thinking(tmp_path), trainer={"chat_template_kwargs": kwargs})
    assert train_main([str(path), "--check"]) == 2
    error = capsys.readouterr().err
    assert f"trainer.chat_template_kwargs.{next(iter(kwargs))}: " in error and words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("template", ["{{ raise_exception('no ' ~ a) }}", {"default": BODY}])
def test_a_template_that_cannot_take_them_is_named(template):
    plain = AutoTokenizer.from_pretrained(POLICY)
    plain.chat_template = template
    with pytest.raises(RecipeError, match="chat template refuses|no single chat template"):
        prompt_tokenizer(plain, None, {"a": 1}, "data")


def thinking(tmp_path: Path) -> dict:
    """Return the model section of the pocket policy with the template ``THINKING``."""
    folder = tmp_path / "thinking"
    shutil.copytree(POLICY, folder)
    (folder / "chat_template.jinja").write_text(THINKING)
    return {"path": str(folder)}


def test_every_reader_of_a_recipe_renders_the_same_prompt(write_recipe, tmp_path, capsys):
    model = thinking(tmp_path)
    data = {"name": "pocket", "split": "test", "size": 4}
    path = write_recipe(
        model=model,
        # Lengths differ whatever is drawn; without a thought no answer is right.
        rewards=[{"name": "overlong", "max_length": 12, "buffer": 11}],
        trainer={"chat_template_kwargs": {"enable_thinking": False}, "max_steps": 1},
        eval={"data": data, "verifier": {"name": "math"}, "samples": 1, "max_new_tokens": 8},
    )
    recipe = load_recipe(path, [])
    assert recipe.eval is not None
    problems = load_problems(recipe, recipe.eval)
    messages = problems.data.render(problems.rows[0]["problem"])
    prompt = generation_prompt(problems.tokenizer, messages)
    assert prompt.endswith("<|assistant|><think></think>")
    (ids,) = prompt_token_ids(problems.tokenizer, [messages])

    assert main(["data", str(path)]) == 0
    assert capsys.readouterr().out.count("<|assistant|><think></think>\n") == 6

    policy = AutoModelForCausalLM.from_pretrained(model["path"])
    drawn = draw_prompts(
        recipe.model,
        policy,
        data,
        template_kwargs=recipe.template_kwargs,
        prompts=4,
        samples=1,
        max_new_tokens=2,
        seed=0,
    )
    assert ids in drawn.heads

    # The length of a prompt is that of what the policy reads.
    bounds = [f"data.max_prompt_tokens={len(ids) - 1}", "data.limit=1"]
    assert main(["data", str(path), *bounds]) == 2
    assert "64 prompt too long" in capsys.readouterr().err

    # The export keeps the template of its base.
    assert train_main([str(path)]) == 0
    exported = tmp_path / "recipe" / "policy" / "chat_template.jinja"
    assert exported.read_text() == THINKING


def test_a_system_message_that_the_template_refuses_is_found_by_a_check(
    write_recipe, tmp_path, capsys
):
    model = thinking(tmp_path)
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    (Path(model["path"]) / "chat_template.jinja").write_text(refuses + THINKING)
    path = write_recipe(model=model, data={"system": "Be brief."})
    assert train_main([str(path), "--check"]) == 2
    assert "refuses a prompt of system and user messages" in capsys.readouterr().err
