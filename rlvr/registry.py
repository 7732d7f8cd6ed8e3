"""Named functions that a recipe can ask for: mask builders, rewards, adapters, datasets.

One decorated function is one entry; its keyword-only parameters are the options of the recipe.
``plugins: [my_module]`` in a recipe imports a user's module, whose decorators add to these.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from rlvr.schema import NO_CONVERTERS, Converters, RecipeError, check_options, unknown_key

Function = TypeVar("Function", bound=Callable)


class Registry:
    """The functions of one kind, by name."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.functions: dict[str, Callable] = {}
        self.checks: dict[str, Callable[[dict[str, Any], str], None]] = {}

    def __call__(self, function: Function) -> Function:
        """Register ``function`` under its own name; use as a decorator."""
        name = function.__name__
        if name in self.functions:
            raise RecipeError(f"{self.kind} {name!r} is registered twice; rename one of them")
        self.functions[name] = function
        return function

    def checks_options(self, name: str) -> Callable[[Function], Function]:
        """Register a function of (options, where) that refuses values of ``name``'s options.

        It runs when a recipe is checked, before anything is loaded; what a type cannot say belongs
        there.
        """

        def register(function: Function) -> Function:
            self.checks[name] = function
            return function

        return register

    def get(self, name: str, where: str) -> Callable:
        if name not in self.functions:
            raise unknown_key(name, self.functions, f"{where} ({self.kind})")
        return self.functions[name]

    def check(
        self,
        name: str,
        options: Mapping[str, Any],
        where: str,
        converters: Converters = NO_CONVERTERS,
    ) -> dict[str, Any]:
        """Return the checked options of entry ``name``, defaults filled in."""
        checked = check_options(self.get(name, where), options, where, converters)
        if name in self.checks:
            self.checks[name](checked, where)
        return checked


mask_builder = Registry("mask builder")
reward = Registry("reward")
adapter = Registry("adapter")
dataset = Registry("dataset")


def import_plugins(modules: list[str]) -> None:
    """Import a recipe's plugin modules so that their decorators run."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise RecipeError(
                f"plugins: cannot import {module!r} ({error}); put it on PYTHONPATH or install it"
            ) from error
