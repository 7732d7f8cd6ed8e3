"""Quotients, powers and the known functions of numbers at a point."""

import math

from rlvr.verifier.exact import Undefined
from rlvr.verifier.point import Point, Value


def quotient(top: Value, bottom: Value, at: Point) -> Value:
    if at.negligible(bottom):
        raise Undefined("division by zero")
    return at.note(top / bottom)


def power_of(base: Value, power: Value, at: Point) -> Value:
    ctx = at.context
    if at.negligible(base):
        if ctx.re(power) <= 0:
            raise Undefined("0 to a power that is not positive")
        return ctx.mpf(0)
    # log2 of the result, before it is computed.
    size = abs(ctx.log(abs(base), 2)) * abs(power)
    if size > at.limit:
        raise Undefined("too large")
    if at.real and ctx.im(base) == 0 and base < 0 and not ctx.isint(power):
        return _real_power(base, power, at)
    return at.note(base**power)


def _real_power(base: Value, power: Value, at: Point) -> Value:
    """Return the real power of a negative number by a fraction of odd denominator."""
    for bottom in (3, 5, 7, 9):
        top = at.context.nint(power * bottom)
        if at.negligible(power * bottom - top):
            return at.note(abs(base) ** power * (-1 if int(top) % 2 else 1))
    raise Undefined("not real")


def function_of(name: str, values: list[Value], at: Point) -> Value:
    ctx, number = at.context, values[0]
    if name == "exp":
        return power_of(+ctx.e, number, at)
    if name in ("log", "ln"):
        return _logarithm(name, values, at)
    if name in _DIRECT:
        return _direct(name, number, at)
    if name in ("tan", "cot"):
        sine, cosine = (at.settled(f(number), abs(number)) for f in (ctx.sin, ctx.cos))
        return quotient(sine, cosine, at) if name == "tan" else quotient(cosine, sine, at)
    if name in _RECIPROCAL:
        return quotient(ctx.mpf(1), _direct(_RECIPROCAL[name], number, at), at)
    if name == "arccot":
        return at.note(ctx.pi / 2 - ctx.atan(number))
    if name in ("factorial", "factorial2", "binom"):
        return _counting(name, values, at)
    if any(ctx.im(item) != 0 for item in values):
        raise Undefined(f"{name} of complex numbers")
    return _stepping(name, values, at)


def _logarithm(name: str, values: list[Value], at: Point) -> Value:
    ctx = at.context
    if any(at.negligible(number) for number in values):
        raise Undefined("the logarithm of 0")
    top = at.note(ctx.log(values[0]))
    if len(values) == 2:
        return quotient(top, ctx.log(values[1]), at)
    return top / ctx.log(10) if name == "log" and at.decimal else top


def _direct(name: str, number: Value, at: Point) -> Value:
    ctx = at.context
    # Reducing a large argument of sin costs as many bits as it has.
    if abs(number) > 1e6 and name not in ("abs", "floor", "ceil", "sgn", "arctan"):
        raise Undefined("too large")
    if name in ("sinh", "cosh", "tanh"):
        # 1 - tanh(x) is as small as e^(-2x).
        at.widen(int(3 * abs(number)))
    if name in ("floor", "ceil") and at.negligible(number - ctx.nint(number)):
        return ctx.nint(number)
    result = getattr(ctx, _DIRECT[name])(number)
    return at.settled(at.note(result, tiny=False), abs(number))


def _counting(name: str, values: list[Value], at: Point) -> Value:
    ctx = at.context
    if any(abs(item) > 5000 for item in values):
        raise Undefined("too large")
    whole = all(ctx.isint(item) and item >= 0 for item in values)
    if name == "binom" and whole:
        return at.note(ctx.mpf(math.comb(*(int(item) for item in values))))
    # The gamma function at high precision takes seconds.
    if ctx.prec > 1200 and not whole:
        raise Undefined("too long")
    if name == "binom":
        return at.note(ctx.binomial(*values))
    return at.note(ctx.factorial(values[0]) if name == "factorial" else ctx.fac2(values[0]))


def _stepping(name: str, values: list[Value], at: Point) -> Value:
    ctx = at.context
    if name in ("min", "max"):
        return min(values) if name == "min" else max(values)
    if name == "mod" and len(values) == 2:
        if at.negligible(values[1]):
            raise Undefined("modulo 0")
        return values[0] - values[1] * ctx.floor(values[0] / values[1])
    if name in ("gcd", "lcm") and all(ctx.isint(item) for item in values):
        return ctx.mpf(getattr(math, name)(*(int(item) for item in values)))
    raise Undefined(f"{name} is not evaluated")


_DIRECT = {
    "sin": "sin", "cos": "cos", "arcsin": "asin", "arccos": "acos", "arctan": "atan",
    "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "abs": "fabs", "floor": "floor",
    "ceil": "ceil", "sgn": "sign",
}  # fmt: skip  # fmt: skip


_RECIPROCAL = {"sec": "cos", "csc": "sin", "coth": "tanh"}
