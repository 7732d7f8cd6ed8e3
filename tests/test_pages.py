"""The pages for readers: what they show exists, and what they quote is what runs."""

import re
from pathlib import Path

import pytest
import yaml

from rlvr.cli import VERBS
from rlvr.config import check_section, resolve_recipe
from rlvr.data import parse_dataset
from rlvr.registry import reward
from rlvr.rewards import parse_reward
from rlvr.studies.spec import StudyFile

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
FOLDERS = (".github", "launch", "recipes", "rlvr", "scripts", "tests")
PAGES = [README]
PAGES += sorted(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))
EXAMPLES = sorted((ROOT / "tests" / "examples").glob("my_*.py"))
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"
PATH = re.compile(r"\b((?:recipes|launch|scripts|rlvr|tests)/[\w./-]+\.\w+)")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub writes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return {title.replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_shows_only_files_links_and_verbs_that_exist(page):
    text = page.read_text()
    for path in PATH.findall(text):
        assert (ROOT / path).is_file(), path
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http:", "https:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link
    for verb in re.findall(r"^(?:\| `|)rlvr (\w+)", text, re.MULTILINE):
        assert verb in VERBS, verb


def test_every_part_has_a_page_that_the_readme_links():
    text = README.read_text()
    assert len(text.splitlines()) <= 220
    for page in PAGES:
        parts = {"policy", "tests"} & {*page.relative_to(ROOT).parts}
        if page.name == "README.md" and page.parent != ROOT and not parts:
            assert f"({name_of(page)})" in text, name_of(page)


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_contributing_quotes_each_example_as_it_runs(example):
    quoted = f"```python\n# {name_of(example)}\n{example.read_text()}```"
    assert quoted in CONTRIBUTING.read_text()


def test_there_is_an_example_of_every_part_a_user_adds():
    kinds = {path.stem.removeprefix("my_") for path in EXAMPLES}
    assert kinds == {"mask", "reward", "adapter", "dataset", "benchmark"}


def yaml_blocks(page: str) -> list[dict]:
    text = (ROOT / page).read_text()
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]


@pytest.mark.parametrize("page", ["README.md", "recipes/README.md"])
def test_the_recipes_of_the_pages_are_recipes(page):
    for content in yaml_blocks(page):
        content.pop("base", None)
        assert resolve_recipe(content, "runs/x").trainer


def test_the_sections_of_the_pages_are_checked_sections():
    (data,) = yaml_blocks("rlvr/data/README.md")
    assert parse_dataset(data["data"], "data").name == "jsonl"
    (study,) = yaml_blocks("rlvr/studies/README.md")
    assert list(check_section(StudyFile, study, "study").arms) == ["dense", "safe", "SFT"]


def test_the_reward_of_the_readme_is_a_reward():
    (block,) = re.findall(r"```python\n# my_rewards.py\n(.*?)```", README.read_text(), re.DOTALL)
    try:
        exec(block, {})
        call = parse_reward({"name": "my_reward", "weight": 0.2, "bonus": 2.0}, "rewards[0]")
        assert call(["so 12", "no"], {"answer": ["12", "7"]}) == [2.0, 0.0]
    finally:
        reward.functions.pop("my_reward", None)
