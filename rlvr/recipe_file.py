"""Recipe files: strict YAML with one level of inheritance and ``section.key=value`` overrides.

A path that starts with ``./``, ``../`` or ``~/`` is seen from the folder of its own file, under
whatever key; any other is a hub id, or seen from the working directory.

A recipe is its difference from its base. Mappings are merged key by key, except one that states
its ``builder`` or ``name``: it is another thing than the base's and replaces it whole.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from rlvr.schema import RecipeError


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: ``1e-6`` is a float and ``no`` a string, unlike in PyYAML's YAML 1.1."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise RecipeError(f"line {line}: key {key!r} is written twice; keep one")
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$", re.IGNORECASE), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$|^[-+]?\.inf$|^\.nan$"),
    list("-+.0123456789"),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping; the error names the file and, where known, the line."""
    if not path.is_file():
        raise RecipeError(f"recipe {path} does not exist; check the path")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, RecipeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: expected a mapping of sections, got {type(content).__name__}")
    return content


def named(value: object) -> Any:
    """Expand a word to ``{name: word}``: a recipe may write only the name."""
    return {"name": value} if isinstance(value, str) else value


def merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``change`` laid over it (see the module's docstring for the rule)."""
    merged = dict(base)
    for key, value in change.items():
        old = named(merged.get(key)) if key == "algorithm" else merged.get(key)
        replaces = isinstance(value, dict) and ("builder" in value or "name" in value)
        if isinstance(old, dict) and isinstance(value, dict) and not replaces:
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def apply_overrides(content: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply ``section.key=value`` words; the value is read as YAML."""
    for word in overrides:
        dotted, separator, text = word.partition("=")
        keys = dotted.split(".")
        if not separator or not all(keys):
            raise RecipeError(f"override {word!r}: write section.key=value")
        try:
            change: Any = yaml.load(text, Loader=_Loader) if text else None
        except yaml.YAMLError as error:
            raise RecipeError(f"override {word!r}: {text!r} is not a YAML value") from error
        for key in reversed(keys):
            change = {key: change}
        content = merge(content, absolute_paths(change, Path.cwd()))
    return content


def absolute_paths(content: object, folder: Path) -> Any:
    """Return ``content`` with each text in it that starts with ./, ../ or ~/ as an absolute path.

    ``folder`` is that of the file which states it, or the working directory for an override. A
    recipe means the same files wherever it is started.
    """
    if isinstance(content, dict):
        return {key: absolute_paths(value, folder) for key, value in content.items()}
    if isinstance(content, list):
        return [absolute_paths(item, folder) for item in content]
    if isinstance(content, str) and content.startswith(("./", "../", "~/")):
        return str((folder / Path(content).expanduser()).resolve())
    return content


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe file with its base, unchecked; see ``absolute_paths`` for the paths in them."""
    content = absolute_paths(read_yaml(path), path.parent)
    base_name = content.pop("base", None)
    if base_name is None:
        return content
    base_path = path.parent / str(base_name)
    base = absolute_paths(read_yaml(base_path), base_path.parent)
    if "base" in base:
        raise RecipeError(f"{base_path}: a base cannot have a base; inheritance is one level")
    return merge(base, content)
