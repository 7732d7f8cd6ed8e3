"""What supervised fine-tuning is given: rows as token ids, and mistakes that are refused."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from rlvr import policy
from rlvr.data import demonstrations, generation_prompt, load_prepared, parse_dataset, with_prefill
from rlvr.rewards import parse_reward
from rlvr.schema import RecipeError
from rlvr.train import main as train_main

POLICY = Path(__file__).parent.parent / "recipes" / "pocket" / "policy"
GOOD = "<think>\n1+6-4\n7-4\n3\n</think>\\boxed{3}"


def write(tmp_path: Path, solutions: list, column: str = "solution") -> dict:
    rows = [{"id": i, "problem": "1+2*3-4", "answer": "3"} for i in range(len(solutions))]
    rows = [row | ({column: s} if s != ... else {}) for row, s in zip(rows, solutions, strict=True)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"name": "jsonl", "path": str(path)}


def tokenised(spec: dict, max_length: int | None = 64, template: str | None = None):
    """Return the demonstrations, the rows, and the tokenizer that made them."""
    data = parse_dataset(spec, "data")
    plain = AutoTokenizer.from_pretrained(POLICY)
    plain.chat_template = plain.chat_template if template is None else template
    tokenizer = with_prefill(plain, data.shared["prefill"], "data")
    loaded = load_prepared(data, "data", tokenizer=tokenizer)
    return demonstrations(loaded, data, tokenizer, max_length, "data"), loaded, tokenizer


def halves(example: dict, tokenizer) -> tuple[str, str]:
    """Return the texts of prompt and completion, as the labels divide them."""
    start = sum(label == -100 for label in example["labels"])
    assert example["labels"][start:] == example["input_ids"][start:]
    return tokenizer.decode(example["input_ids"][:start]), tokenizer.decode(
        example["labels"][start:]
    )


TEMPLATE_THAT_OPENS = AutoTokenizer.from_pretrained(POLICY).chat_template.replace(
    "{{ '<|assistant|>' }}", "{{ '<|assistant|><think>\n' }}"
)


@pytest.mark.parametrize("solution", [GOOD, GOOD + "<|end|>", GOOD.removeprefix("<think>\n")])
@pytest.mark.parametrize("opening", ["none", "prefill", "template", "both"])
def test_the_prompt_is_that_of_rlvr_and_the_completion_goes_on_from_it(tmp_path, solution, opening):
    spec = write(tmp_path, [solution])
    if opening in ("prefill", "both"):
        spec |= {"prefill": "<think>\n"}
    template = TEMPLATE_THAT_OPENS if opening in ("template", "both") else None
    examples, loaded, tokenizer = tokenised(spec, template=template)
    prompt, completion = halves(examples[0], tokenizer)
    data = parse_dataset(spec, "data")
    assert prompt == generation_prompt(tokenizer, data.render("1+2*3-4"))
    assert prompt.endswith("<think>\n") == (opening != "none")
    body = solution.removesuffix("<|end|>")
    body = body if opening == "none" else body.removeprefix("<think>\n")
    assert completion == body + "<|end|>"


def test_rows_that_cannot_be_learnt_whole_are_dropped_and_counted(tmp_path):
    solutions = [
        GOOD,
        "",
        None,
        ...,
        ["a list"],
        "<think>\n<|end|>3",
        "trois",
        "1" * 60,
        " <|end|>",
    ]
    examples, loaded, tokenizer = tokenised(write(tmp_path, solutions))
    assert len(examples) == 1 and [row["id"] for row in loaded.rows] == ["0"]
    assert loaded.dropped == {
        "no solution": ["1", "2", "3", "4", "8"],
        "an end token inside the solution": ["5"],
        "characters unknown to the tokenizer": ["6"],
        "longer than trainer.max_length": ["7"],
    }
    kept, _, _ = tokenised(write(tmp_path, ["1" * 60]), max_length=None)
    assert len(kept[0]["input_ids"]) == 9 + 60 + 1
    assert len(tokenised(write(tmp_path, ["1" * 60]), max_length=70)[0]) == 1
    with pytest.raises(RecipeError, match="no row has a usable solution"):
        tokenised(write(tmp_path, ["1" * 60]), max_length=69)


def test_a_solution_is_found_where_columns_says(tmp_path):
    spec = write(tmp_path, [GOOD], "rationale")
    with pytest.raises(RecipeError, match="no column 'solution'.*columns"):
        tokenised(spec)
    examples, _, tokenizer = tokenised({**spec, "columns": {"solution": "rationale"}})
    assert halves(examples[0], tokenizer)[1] == GOOD + "<|end|>"


@pytest.mark.parametrize("copy", ["hub", "without solutions"])
def test_deepmaths_first_solution_is_the_one_to_imitate(tmp_path, copy):
    row = {"question": "1+2*3-4", "final_answer": "3"}
    row |= {"r1_solution_1": GOOD, "r1_solution_2": "no"} if copy == "hub" else {}
    path = tmp_path / "deepmath.jsonl"
    path.write_text(json.dumps(row) + "\n")
    found = load_prepared(
        parse_dataset({"name": "deepmath_103k", "path": str(path)}, "data"), "data"
    )
    assert found.rows[0].get("solution") == (GOOD if copy == "hub" else None)


def test_every_expert_solution_is_right_and_says_each_line():
    spec = {"name": "pocket", "split": "train", "size": 300, "solutions": "expert"}
    rows = load_prepared(parse_dataset(spec, "data"), "data").rows
    call = parse_reward({"name": "math"}, "rewards")
    columns = {"answer": [row["answer"] for row in rows]}
    assert call([row["solution"] for row in rows], columns) == [1.0] * 300
    assert all(row["solution"].count("\n") == 4 for row in rows)
    plain = load_prepared(parse_dataset({**spec, "solutions": None}, "data"), "data").rows
    assert [row["id"] for row in plain] == [row["id"] for row in rows]
    assert not any("solution" in row for row in plain)


CASES = {
    "rewards": ({"rewards": [{"name": "math"}]}, ["rewards", "sft reads none", "rewards: []"]),
    "a setting of GRPO": (
        {"trainer": {"num_generations": 8}},
        ["trainer.num_generations", "a setting of GRPO", "another base"],
    ),
    "a misspelt setting": (
        {"trainer": {"max_lenght": 8}},
        ["trainer", "max_lenght", "did you mean 'max_length'"],
    ),
    "packing": ({"trainer": {"packing": True}}, ["trainer.packing", "not yours to set"]),
    "loss on the prompt": (
        {"trainer": {"completion_only_loss": False}},
        ["trainer.completion_only_loss", "the loss is on the completion"],
    ),
    "cut rows": ({"trainer": {"truncation_mode": "keep_end"}}, ["trainer.truncation_mode"]),
    "no room": ({"trainer": {"max_length": 1}}, ["trainer.max_length", "at least 2"]),
    "an order that a resume would lose": (
        {"trainer": {"train_sampling_strategy": "group_by_length"}},
        ["trainer.train_sampling_strategy", "group_by_length", "random or sequential"],
    ),
    "an unknown loss": (
        {"trainer": {"loss_type": "dapo"}},
        ["trainer.loss_type", "one of nll, dft"],
    ),
    "pushes to no sampler": (
        {"adapter": {"builder": "peft", "method": "LoraConfig", "sync": "merge_unmerge"}},
        ["adapter.sync", "samples nothing"],
    ),
    "dynamic sampling": (
        {"algorithm": {"name": "sft", "dynamic_sampling": True}},
        ["algorithm.dynamic_sampling", "samples nothing"],
    ),
    "gold checked by nobody": (
        {"data": {"name": "pocket", "split": "train", "size": 8, "check_gold": True}},
        ["data.check_gold", "eval.verifier"],
    ),
    "an unknown writer": (
        {"data": {"name": "pocket", "split": "train", "size": 8, "solutions": "novice"}},
        ["data.solutions", "'expert'"],
    ),
    "no solutions": (
        {"data": {"name": "pocket", "split": "train", "size": 8}},
        ["data", "no column 'solution'", "solutions: expert"],
    ),
    "all too long": ({"trainer": {"max_length": 20}}, ["data", "64 longer than", "max_length"]),
    "an optimizer that mixes": (
        {"mask": {"builder": "dense"}, "trainer": {"optim": "adafactor"}},
        ["trainer.optim", "adafactor"],
    ),
}


@pytest.mark.parametrize(("sections", "words"), CASES.values(), ids=CASES)
def test_a_mistake_is_one_message_and_exit_code_2(
    write_sft, tmp_path, capsys, monkeypatch, sections, words
):
    load = policy.AutoModelForCausalLM.from_pretrained

    def refuse(*args, **kwargs):
        assert kwargs.get("device_map") == "meta", "weights were loaded"
        return load(*args, **kwargs)

    monkeypatch.setattr(policy.AutoModelForCausalLM, "from_pretrained", refuse)
    assert train_main([str(write_sft(**sections))]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    for word in words:
        assert word in error
    assert not (tmp_path / "recipe").exists()


def test_dropped_rows_are_counted_in_the_run(write_sft, tmp_path):
    data = write(tmp_path, [GOOD, "", GOOD])
    trainer = {"max_steps": 1, "per_device_train_batch_size": 2}
    assert train_main([str(write_sft(data=data, trainer=trainer))]) == 0
    provenance = json.loads((tmp_path / "recipe" / "provenance.json").read_text())
    assert provenance["rows"] == {"trained on": 2, "dropped": {"no solution": 1}}
