"""Strict checking of values that a user wrote, against Python annotations.

A recipe section is a dataclass and a builder's options are its keyword-only parameters, so the
annotation is the only declaration of a key. ``true`` is no integer, ``"64"`` is no integer and an
integer is a float: nothing else is converted.
"""

import difflib
import inspect
import math
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

Converters = Mapping[Any, Callable[[Any, str], Any]]
NO_CONVERTERS: Converters = types.MappingProxyType({})


class RecipeError(ValueError):
    """A mistake of the user's: the message names the key or file and the fix."""


class RunError(RuntimeError):
    """A run that cannot be trusted or cannot go on: the message says what happened."""


@dataclass(frozen=True)
class Bounds:
    """The range of a number: from ``low`` to ``high``, both allowed unless said otherwise.

    ``above``: ``low`` itself is not allowed. ``below``: ``high`` itself is not allowed.
    """

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def check(self, value: float, where: str) -> None:
        """Raise a ``RecipeError`` that names ``where``, where ``value`` is outside or NaN."""
        # Written so that NaN fails: every comparison with it is false.
        high_enough = value > self.low if self.above else value >= self.low
        low_enough = value < self.high if self.below else value <= self.high
        if not (high_enough and low_enough and math.isfinite(value)):
            raise RecipeError(f"{where}: must be {self}, got {value}")

    def __str__(self) -> str:
        if self.high < math.inf:
            ends = ("(" if self.above else "[", ")" if self.below else "]")
            return f"in {ends[0]}{self.low:g}, {self.high:g}{ends[1]}"
        return f"{'above' if self.above else 'at least'} {self.low:g}"


# For annotations of sections and options: the type and the range in one.
Count = Annotated[int, Bounds(1)]
CountOrZero = Annotated[int, Bounds(0)]
Share = Annotated[float, Bounds(0, 1)]
PositiveShare = Annotated[float, Bounds(0, 1, above=True)]
NonNegative = Annotated[float, Bounds(0)]


def refuse_not_finite(value: object, where: str) -> None:
    """Raise where a number inside a recipe's mapping is NaN or infinite."""
    if isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"{where}: {value} is not a finite number")
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        refuse_not_finite(item, f"{where}[{key}]" if isinstance(key, int) else f"{where}.{key}")


def unknown_key(key: str, allowed: Iterable[str], where: str) -> RecipeError:
    """Return the error for ``key``, with the nearest allowed key as a suggestion."""
    allowed = sorted(allowed)
    # One guess, else the whole list: a wrong guess would mislead.
    near = difflib.get_close_matches(key, allowed, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(allowed) or 'none'}"
    return RecipeError(f"{where}: unknown {key!r}; {hint}")


def _type_name(annotation: object) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(map(repr, get_args(annotation)))
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(_type_name(option) for option in get_args(annotation))
    if annotation is type(None):
        return "null"
    if get_origin(annotation) is Annotated:
        return _type_name(get_args(annotation)[0])
    if get_args(annotation):
        return str(annotation)
    return getattr(annotation, "__name__", str(annotation))


def check_value(
    value: Any, annotation: Any, where: str, converters: Converters = NO_CONVERTERS
) -> Any:
    """Return ``value`` as ``annotation`` or raise a ``RecipeError`` that names ``where``.

    ``converters`` maps an annotation to a function ``(value, where) -> converted``, for types that
    a user writes in another form.
    """
    # Before everything else: a section is written as a mapping and becomes a dataclass.
    if annotation in converters:
        return converters[annotation](value, where)
    if annotation in (Any, inspect.Parameter.empty):
        return value
    origin, options = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        checked = check_value(value, options[0], where, converters)
        for bounds in options[1:]:
            bounds.check(checked, where)
        return checked
    if origin is Literal:
        # 1 == True and 1 == 1.0 in Python: the type must match as well.
        if value in options and type(value) in {type(option) for option in options}:
            return value
    elif origin in (Union, types.UnionType):
        return _check_union(value, options, where, converters)
    elif origin is list:
        if isinstance(value, list):
            return [
                check_value(item, options[0], f"{where}[{index}]", converters)
                for index, item in enumerate(value)
            ]
    elif origin is dict:
        if isinstance(value, dict):
            return {
                key: check_value(item, options[1], f"{where}.{key}", converters)
                for key, item in value.items()
            }
    elif annotation is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif isinstance(annotation, type) and isinstance(value, annotation):
        # bool is a subclass of int; `true` is no count.
        if annotation is bool or not isinstance(value, bool):
            return value
    raise RecipeError(f"{where}: expected {_type_name(annotation)}, got {value!r}")


def _check_union(value: Any, options: tuple, where: str, converters: Converters) -> Any:
    if value is None and type(None) in options:
        return None
    errors = []
    for option in (option for option in options if option is not type(None)):
        try:
            return check_value(value, option, where, converters)
        except RecipeError as error:
            errors.append(error)
    # `X | None`: the error of X says more than "expected X or null".
    if len(errors) == 1:
        raise errors[0]
    names = " or ".join(_type_name(option) for option in options)
    raise RecipeError(f"{where}: expected {names}, got {value!r}")


def check_options(
    function: Callable,
    options: Mapping[str, Any],
    where: str,
    converters: Converters = NO_CONVERTERS,
) -> dict[str, Any]:
    """Return the keyword-only arguments of ``function`` that ``options`` and its defaults give."""
    hints = get_type_hints(function, include_extras=True)
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    for key in options:
        if key not in parameters:
            raise unknown_key(str(key), parameters, where)
    checked = {}
    for name, parameter in parameters.items():
        if name in options:
            annotation = hints.get(name, Any)
            checked[name] = check_value(options[name], annotation, f"{where}.{name}", converters)
        elif parameter.default is inspect.Parameter.empty:
            raise RecipeError(f"{where}: {name!r} is missing; add {where}.{name}")
        else:
            checked[name] = parameter.default
    return checked
