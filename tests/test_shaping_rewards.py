"""Rewards of structure and length: their values by hand, and their time on hostile text."""

import time

import pytest

from rlvr.registry import reward
from rlvr.rewards import choice, countdown, format, length, overlong, repetition
from rlvr.rewards.text import boxes, fenced_blocks
from rlvr.schema import RecipeError

HOSTILE = [
    "\\boxed{" * 30_000,
    "\\boxed" + " " * 200_000,
    "{" * 200_000,
    "`" * 200_000,
    "```" + "a" * 200_000 + "`",
    "```python\n" * 20_000,
    "<think>" * 30_000,
    "</think>" * 25_000,
    "answer is " * 20_000,
    "answer" + " " * 200_000,
    "Answer: " + "(" * 200_000,
    "<answer>" * 25_000,
    "(" * 200_000 + "1",
    "-" * 200_000 + "1",
    "1+" * 100_000 + "1",
    "9" * 200_000,
    "\u0663" * 200_000,
    "\ud800" * 1000,
    "\x00" * 200_000,
    "",
]


def lengths(*counts: int) -> list[list[int]]:
    return [list(range(count)) for count in counts]


def test_overlong_is_dapos_equation_13():
    ids = lengths(0, 80, 81, 90, 100, 101, 500)
    assert overlong([""] * 7, ids, max_length=100, buffer=20) == pytest.approx(
        [0, 0, -0.05, -0.5, -1, -1, -1]
    )
    assert overlong([""], lengths(90), max_length=100, buffer=20, factor=2.0) == [-1.0]


def test_length_falls_over_its_slope_on_either_side():
    rewards = length([""] * 5, lengths(0, 5, 10, 20, 25), min_length=10, max_length=20, slope=10)
    assert rewards == pytest.approx([-1, -0.5, 0, 0, -0.5])


def test_repetition_is_the_share_of_repeated_ngrams():
    ids = [[1, 2, 3, 4], [5, 5, 5, 5, 5], [7]]
    assert repetition([""] * 3, ids, ngram=2) == pytest.approx([0, -0.75, 0])


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("overlong", {"max_length": 10, "buffer": 11}, "buffer"),
        ("overlong", {"max_length": 10, "buffer": 0}, "buffer"),
        ("overlong", {"max_length": 10, "buffer": 5, "factor": -1.0}, "factor"),
        ("length", {"max_length": 5, "min_length": 6, "slope": 1}, "min_length"),
        ("length", {"max_length": 5, "slope": 0}, "slope"),
        ("repetition", {"ngram": 0}, "ngram"),
    ],
)
def test_values_that_mean_nothing_are_refused_when_the_recipe_is_read(name, options, word):
    with pytest.raises(RecipeError, match=rf"rewards\[0\].{word}"):
        reward.check(name, options, "rewards[0]")


@pytest.mark.parametrize(
    ("text", "options", "kept"),
    [
        ("<think>a</think>b", {}, True),
        ("a</think>b", {}, True),
        ("a</think>b", {"opening": "completion"}, False),
        ("<think>a</think>b", {"opening": "prompt"}, False),
        ("a</think>b", {"opening": "prompt"}, True),
        ("<think>a</think>b<|im_end|>", {}, True),
        ("<think>a</think>\\boxed{2}</s>\n", {"answer": "boxed"}, True),
        ("<think>a</think><answer>2</answer><|eot_id|>", {"answer": "tags"}, True),
        ("<think>a</think><|im_end|>", {}, False),
        ("<think>a<|im_end|></think><answer>2</answer><|im_end|>b", {"answer": "tags"}, False),
        ("<think>a<think>b</think>c", {}, False),
        ("<think>a</think>b</think>c", {}, False),
        ("x<think>a</think>b", {}, False),
        ("a</think>b<think>", {}, False),
        ("<think>  </think>b", {}, False),
        ("<think>a</think>  ", {}, False),
        ("<think>a", {}, False),
        ("b", {}, False),
        ("<think>a</think>\\boxed{2}", {"answer": "boxed"}, True),
        ("<think>\\boxed{2}</think>2", {"answer": "boxed"}, False),
        ("<think>a</think>\\boxed{ }", {"answer": "boxed"}, False),
        ("<think>a</think>\\boxed{2", {"answer": "boxed"}, False),
        ("<think>a</think>\n<answer>2</answer>\n", {"answer": "tags"}, True),
        ("<think>a</think><answer>2</answer> so", {"answer": "tags"}, False),
        ("<think>a</think><answer>2</answer><answer>3</answer>", {"answer": "tags"}, False),
    ],
)
def test_format_is_kept_or_broken(text, options, kept):
    assert format([text], **options) == [1.0 if kept else 0.0]


CHOICES = [
    ("B", "correct"),
    ("(B).", "correct"),
    ("so <think>A</think> The answer is (B).", "correct"),
    ("Answer: B", "correct"),
    ("**Answer:** B) Paris", "correct"),
    ("**Final Answer: B**", "correct"),
    ("The correct option is: $\\boxed{\\text{B}}$", "correct"),
    ("\\boxed{(B)}", "correct"),
    ("<answer>B</answer>", "correct"),
    ("Answer: A\nWait, no.\nAnswer: B", "correct"),
    ("Answer: B\nThis answer is clear from the text.", "correct"),
    ("\\boxed{B. Paris}", "correct"),
    ("\\boxed{(B) Paris}", "correct"),
    ("\\boxed{\\text{B) the capital}}", "correct"),
    ("\\boxed{b}", "correct"),
    ("b", "correct"),
    ("(b)", "correct"),
    ("The answer is (b).", "correct"),
    ("Answer: b", "correct"),
    ("<answer>b</answer>", "correct"),
    ("B because it is the largest.", "correct"),
    ("Option B", "correct"),
    ("choice: (B).", "correct"),
    ("I choose b.", "correct"),
    ("I do not choose B.", "unparsable"),
    ("Option C", "wrong"),
    ("(B), since A is smaller.", "correct"),
    ("\\boxed{A. Rome}", "wrong"),
    ("\\boxed{c}", "wrong"),
    ("C because it is the largest.", "wrong"),
    ("\\boxed{B. Paris or C. Rome}", "unparsable"),
    ("\\boxed{B Paris}", "unparsable"),
    ("the answer is b bird", "unparsable"),
    ("Answer: A\nBecause of B", "wrong"),
    ("Answer: B\nAnswer: A", "wrong"),
    ("\\boxed{B} and then \\boxed{C}", "wrong"),
    ("Answer: A or B", "unparsable"),
    ("Answer: B, C", "unparsable"),
    ("The answer is B and C.", "unparsable"),
    ("\\boxed{A, B}", "unparsable"),
    ("\\boxed{ABCD}", "unparsable"),
    ("\\boxed{}", "unparsable"),
    ("\\boxed{B} \\boxed{", "unparsable"),
    ("The answer is B bird", "unparsable"),
    ("The answer is not B.", "unparsable"),
    ("the answer is \u0412.", "unparsable"),
    ("Answer: \uff22", "unparsable"),
    ("Answer: Z", "unparsable"),
    ("Bananas", "unparsable"),
    ("A B C D", "unparsable"),
    ("<think>Answer: B", "truncated"),
    ("<think>Answer: B</think> I am not sure.", "unparsable"),
]


@pytest.mark.parametrize(("text", "status"), CHOICES)
def test_the_last_explicit_letter_is_the_choice(text, status):
    assert choice([text], ["b"])[0].status == status


def test_a_choice_before_the_thoughts_end_counts_only_where_no_end_is_required():
    assert choice(["Answer: B"], ["B"], require_think=True)[0].status == "truncated"


def test_a_gold_that_is_no_letter_is_said_so():
    assert [v.status for v in choice(["B"] * 3, ["Paris", "", "12"])] == ["gold_unparsable"] * 3


COUNTDOWNS = [
    ("50 + 96 + 81 - 7", "correct"),
    ("(96+81) + (50-7)", "correct"),
    ("first 1+1\n<answer>50+96+81-7</answer>", "correct"),
    ("$\\boxed{50 + 96 + 81 - 7}$", "correct"),
    ("-(7-50-96-81)", "correct"),
    ("50 + 96 + 81 − 7", "correct"),
    ("50 + 96 + 81", "wrong"),
    ("50 + 96 + 81 - 7 + 7 - 7", "wrong"),
    ("220", "wrong"),
    ("81 + 96 - 50 - 7", "wrong"),
    ("81 / (96 - 96) + 50 + 7", "wrong"),
    ("50 + 96 + 81 - 7 = 220", "correct"),
    ("<answer>50 + 96 + 81 - 7 = 220</answer>", "correct"),
    ("<answer>$\\boxed{50+96+81-7}$</answer>", "correct"),
    ("<answer>\n```\n50 + 96 + 81 - 7\n```\n</answer>", "correct"),
    ("<answer>`50 + 96 + 81 - 7`</answer>", "correct"),
    ("50 + 96 + 81 – 7", "correct"),
    ("\\(50 + [96 + 81] - 7\\)", "correct"),
    ("\\boxed{50 + 96 + 81 - \\frac{7}{1}}", "wrong"),
    ("50 + 96 + 81 - 7 = 221", "wrong"),
    ("50 + 96 + 81 + 7 = 220", "wrong"),
    ("50 + 96 = 146 + 81 - 7 = 220", "unparsable"),
    ("220 = 220", "wrong"),
    ("50 + 96 + 81 - 7.", "unparsable"),
    ("5 0 + 96", "unparsable"),
    ("50 ** 96", "unparsable"),
    ("50 // 96", "unparsable"),
    ("__import__('os').system('true')", "unparsable"),
    ("\u0665\u0660 + 96 + 81 - 7", "unparsable"),
    ("\uff15\uff10 + 96 + 81 - 7", "unparsable"),
    ("(50 + 96 + 81 - 7", "unparsable"),
    ("<answer></answer>", "unparsable"),
    ("<answer>50 + 96 + 81 - 7", "unparsable"),
    ("\\boxed{50 + 96 + 81 - 7", "unparsable"),
    ("", "unparsable"),
    ("<think>50 + 96 + 81 - 7", "truncated"),
]


@pytest.mark.parametrize(("text", "status"), COUNTDOWNS)
def test_a_countdown_uses_each_number_once_and_exactly(text, status):
    assert countdown([text], [[81, 96, 50, 7]], [220])[0].status == status


def test_a_countdown_is_exact_where_floats_are_not():
    (verdict,) = countdown(["8/(3-8/3)"], ["[8, 3, 8, 3]"], ["24"])
    assert verdict.status == "correct"
    (verdict,) = countdown(["(10-1/3)*3"], [[10, 1, 3, 3]], [29.0])
    assert verdict.status == "correct"


@pytest.mark.parametrize("numbers", [None, [1.5], ["x"], [True], "no json", 3])
def test_a_countdown_without_whole_numbers_is_said_so(numbers):
    assert countdown(["1"], [numbers], [1])[0].status == "gold_unparsable"


def test_hostile_text_takes_linear_time_and_wins_nothing():
    start = time.process_time()
    for text in HOSTILE:
        assert choice([text], ["A"])[0].status != "correct"
        assert countdown([text], [[1, 2]], [3])[0].status != "correct"
        assert format([text], answer="boxed") == format([text], answer="tags") == [0.0]
        fenced_blocks(text)
        boxes(text)
    assert time.process_time() - start < 5  # 0.6 s here; quadratic code would need hours
