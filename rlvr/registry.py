"""Named functions that a recipe can ask for: mask builders, rewards, adapters, datasets.

One decorated function is one entry, under its own name. Its keyword-only parameters are the options
of the recipe, with their annotations as types. ``plugins: [my_module]`` in a recipe imports a
user's module, and its decorators add entries. ``tests/examples`` holds one worked example of each
kind:

``@mask_builder``
    ``(weight, name, *, options) -> Tensor``: a bool tensor of the shape of ``weight``, true where
    an entry may move. An option annotated ``Tensor`` is another mask: the recipe writes its
    builder there, and the function gets the built mask.
``@reward``
    ``(completions, columns…, *, options) -> list``: for each completion a number, a ``Verdict``, or
    None where it cannot be judged. Each positional parameter after ``completions`` is a column of
    the dataset (``problem``, ``answer``, ``completion_ids``, …), one value for each completion; one
    with a default is read where the dataset has it. A function that takes the option ``correct``
    is a verifier: it says right or wrong, so ``rlvr data --validate``, ``data.check_gold`` and
    ``eval.verifier`` ask it about gold answers.
``@adapter``
    ``(*, options) -> Method`` (``rlvr.adapters.methods``).
``@dataset``
    ``(*, options) -> list``: rows with the keys ``problem`` and ``answer``, and further columns for
    the rewards. Without ``id`` a row gets one from the text of its problem.

``*args`` and ``**kwargs`` are refused: nothing would ever be in them.
"""

import importlib
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from rlvr.schema import (
    NO_CONVERTERS,
    Converters,
    RecipeError,
    RunError,
    check_options,
    check_value,
    unknown_key,
)

Function = TypeVar("Function", bound=Callable)


class Registry:
    """The functions of one kind, by name.

    ``parameters`` are the positional ones that each function has; ``columns``: it may have more,
    which name columns of the dataset. ``reserved`` are keys of a recipe's entry that cannot be
    options.
    """

    def __init__(
        self,
        kind: str,
        parameters: Sequence[str] = (),
        *,
        columns: bool = False,
        reserved: Sequence[str] = (),
    ) -> None:
        self.kind, self.parameters, self.columns = kind, list(parameters), columns
        self.reserved = reserved
        self.functions: dict[str, Callable] = {}
        self.checks: dict[str, Callable[[dict[str, Any], str], None]] = {}

    def __call__(self, function: Function) -> Function:
        """Register ``function`` under its own name; use as a decorator.

        Raises:
            RecipeError: the name is taken, or the function cannot be called as its kind is.
        """
        # Classes and partials have no __code__, from which `place` gets file and line.
        if not hasattr(function, "__code__"):
            raise RecipeError(f"{self.kind}: {function!r} is no function; decorate a function")
        name = function.__name__
        if name in self.functions:
            places = f"{place(self.functions[name])} and {place(function)}"
            raise RecipeError(
                f"{self.kind} {name!r} is registered twice, in {places}; rename one of them"
            )
        self._check_signature(function)
        self.functions[name] = function
        return function

    def _check_signature(self, function: Callable) -> None:
        name, form = function.__name__, self._form(function.__name__)
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise RecipeError(f"{self.kind} {name!r} is async; write it as {form}")
        parameters = inspect.signature(function).parameters.values()
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                named = "the columns that it reads and its options" if self.columns else "options"
                raise RecipeError(
                    f"{self.kind} {name!r}: {parameter} stays empty here; name {named}, as in "
                    f"{form}"
                )
        positional = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
        options = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        # The fixed parameters first; rewards may name columns after them.
        first = positional[: len(self.parameters)]
        if first != self.parameters or (positional != first and not self.columns):
            raise RecipeError(
                f"{self.kind} {name!r} takes ({', '.join(positional)}) by position and must take "
                f"({', '.join(self.parameters)}{', columns' if self.columns else ''}); options "
                f"stand after a *, as in {form}"
            )
        for option in options:
            if option in self.reserved:
                raise RecipeError(
                    f"{self.kind} {name!r}: the option {option!r} cannot be set, for a recipe's "
                    "entry has a key of that name; rename it"
                )

    def _form(self, name: str) -> str:
        """Return the first line of a function of this kind, as an example."""
        columns = ["answer"] if self.columns else []
        return f"def {name}({', '.join([*self.parameters, *columns, '*', 'option=1.0'])})"

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
        function = self.get(name, where)
        try:
            # Evaluates annotations that are text (`from __future__ import annotations`).
            get_type_hints(function)
        except Exception as error:
            raise RecipeError(
                f"{self.kind} {name!r}, {place(function)}: an annotation cannot be read "
                f"({described(error)}); write types that exist when the module is imported"
            ) from error
        checked = check_options(function, options, where, converters)
        if name in self.checks:
            guarded_call(self.checks[name], f"the check of {where}", checked, where)
        return checked

    def call(self, name: str, at: str, *arguments: Any, **options: Any) -> Any:
        """Return what the function ``name`` returns; ``at`` says what it is called for.

        Raises:
            RecipeError: the function raised; the message names its file and line.
        """
        return guarded_call(
            self.functions[name], f"{self.kind} {name!r}{at}", *arguments, **options
        )


mask_builder = Registry("mask builder", ("weight", "name"), reserved=("builder",))
reward = Registry("reward", ("completions",), columns=True, reserved=("name", "weight", "on_error"))
adapter = Registry("adapter", reserved=("builder",))
dataset = Registry("dataset", reserved=("name",))


def guarded_call(function: Callable, what: str, *arguments: Any, **options: Any) -> Any:
    """Return ``function(*arguments, **options)``; an exception becomes one line with its place.

    An iterator is read to its end here, so that what it raises has a place too.
    """
    try:
        returned = function(*arguments, **options)
        return list(returned) if isinstance(returned, Iterator) else returned
    except (RecipeError, RunError):
        raise
    # sys.exit(0) in a user's function would end the run as if all were well.
    except (Exception, SystemExit) as error:
        raise RecipeError(
            f"{what}: {place(function, error)}: {described(error)}; mend the function"
        ) from error


def place(function: Callable, error: BaseException | None = None) -> str:
    """Return ``file, line n``: the innermost frame of ``error`` in the file of ``function``.

    Without such a frame it is the line where ``function`` begins.
    """
    # Decorators with functools.wraps hide the file of the user's function.
    code = inspect.unwrap(function).__code__
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    # The last frame in the user's file, not in the library that it called.
    lines = [frame.lineno for frame in frames if frame.filename == code.co_filename]
    return f"{code.co_filename}, line {lines[-1] if lines else code.co_firstlineno}"


def shown(value: object) -> str:
    """Return the type of a value that a user's function returned, and its beginning."""
    return f"{type(value).__name__} {shortened(value)}"


def shortened(value: object) -> str:
    """Return the beginning of a value as Python writes it, on one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}…"


def described(error: BaseException) -> str:
    """Return the kind of an exception and its message, on one line."""
    text = " ".join(str(error).split())
    if isinstance(error, RecipeError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def import_plugins(modules: Sequence[str]) -> None:
    """Import a recipe's plugin modules so that their decorators run.

    Raises:
        RecipeError: no such module, or it does not import; the message names its file and line.
    """
    for module in modules:
        _require_module_name(module)
        try:
            importlib.import_module(module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a script may call sys.exit when it is imported
            raise RecipeError(f"plugins: {_import_problem(module, error)}") from error


def pop_plugins(content: Mapping[str, Any]) -> dict[str, Any]:
    """Import the modules that the key ``plugins`` names; return the other keys."""
    plugins = content.get("plugins", [])
    import_plugins(check_value(plugins, list[str], "plugins"))
    return {key: value for key, value in content.items() if key != "plugins"}


def _require_module_name(module: str) -> None:
    if all(part.isidentifier() for part in module.split(".")) and not module.endswith(".py"):
        return
    path = Path(module)
    if path.suffix == ".py" or "/" in module:
        raise RecipeError(
            f"plugins: {module!r} is a path; write the module's name, plugins: [{path.stem}], and "
            f"put its folder on PYTHONPATH: PYTHONPATH={path.parent}"
        )
    raise RecipeError(f"plugins: {module!r} is no module name; write one such as my_rewards")


def _import_problem(module: str, error: BaseException) -> str:
    # a.b.c: the packages a and a.b may be the ones that are missing.
    parents = [module[:end] for end, sign in enumerate(module + ".") if sign == "."]
    if isinstance(error, ModuleNotFoundError) and error.name in parents:
        return (
            f"cannot find the module {module!r} ({error}); put its folder on PYTHONPATH, or "
            "install it"
        )
    if isinstance(error, SyntaxError) and error.filename:
        return f"{module!r} does not import: {error.filename}, line {error.lineno}: " + described(
            type(error)(error.msg)
        )
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith("<frozen") and f.filename != __file__]
    # The user's frame before those of libraries, which only carried the error.
    theirs = [f for f in own if not _is_library(f.filename)]
    frame = (theirs or own or frames)[-1]
    return f"{module!r} does not import: {frame.filename}, line {frame.lineno}: {described(error)}"


def _is_library(filename: str) -> bool:
    """Tell whether a file belongs to Python, to an installed package or to this one."""
    file = Path(filename)
    roots = [Path(traceback.__file__).parent, Path(__file__).parent]
    return "site-packages" in file.parts or any(root in (file, *file.parents) for root in roots)
