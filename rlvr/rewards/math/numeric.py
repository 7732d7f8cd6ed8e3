"""The value of a tree at a sampled point, and the precision that it takes to see it."""

import hashlib
import math
from fractions import Fraction
from typing import Any

import mpmath

from rlvr.rewards.math.cursor import Node
from rlvr.rewards.math.exact import Undefined

MAX_SPAN = 12_000  # bits of the largest and the smallest number met
MAX_TERMS = 600  # of a sum or product


class Point:
    """A sampled value for every name, and the precision at which trees are evaluated there.

    ``kind`` is ``positive`` (values in (0.3, 3)), ``real`` (all negative at seed 0, else of either
    sign), ``integer`` (2 to 9) or ``large`` (integers from 2 to 301).
    """

    def __init__(self, seed: int, kind: str = "positive", bits: int = 200) -> None:
        self.seed, self.kind = seed, kind
        # A context of its own: mpmath.mp is global, and its precision is changed here.
        self.context = mpmath.MPContext()
        self.context.prec = bits
        self.span = 0  # the largest |log2| of a number met
        self.bound: dict[str, Any] = {}
        self.work = 0

    def draw(self, key: str) -> Any:
        """Return the value that belongs to ``key`` at this point."""
        # A hash, not a generator: a name has one value at a point, in whatever order it is met.
        digest = hashlib.blake2b(f"{self.seed} {key}".encode(), digest_size=16).digest()
        fraction = Fraction(int.from_bytes(digest, "big"), 1 << 128)
        if self.kind in ("integer", "large"):
            return self.context.mpf(2 + int(fraction * (8 if self.kind == "integer" else 300)))
        fraction = Fraction(3, 10) + fraction * Fraction(27, 10)
        if self.kind == "real" and (self.seed == 0 or digest[0] % 2 == self.seed % 2):
            fraction = -fraction
        return self.context.mpf(fraction.numerator) / fraction.denominator

    def settled(self, result: Any, largest: Any) -> Any:
        """Return ``result`` of terms up to ``largest``, or 0 where only rounding is left of it."""
        if not result or not largest:
            return result
        noise = self.context.mag(largest) - self.context.prec + 30
        return self.context.mpf(0) if self.context.mag(abs(result)) < min(noise, 0) else result

    def note(self, value: Any, *, tiny: bool = True) -> Any:
        """Return ``value`` after noting its magnitude, of small values only where ``tiny``."""
        self.work += 1
        # Bounds the time: the deadline would kill the whole worker.
        if self.work > 20_000:
            raise Undefined("too long")
        if not self.context.isfinite(value):
            raise Undefined("not finite")
        size = abs(value)
        if size and (tiny or size > 1):
            self.span = max(self.span, abs(int(self.context.mag(size))))
            if self.span > MAX_SPAN:
                raise Undefined("too large")
        return value


def value(node: Node, at: Point) -> Any:
    """Return the number that ``node`` is at the sampled point.

    Raises:
        Undefined: it is infinite, undefined, beyond the limits or no number.
    """
    kind = node[0]
    if kind == "num":
        return at.note(at.context.mpf(node[1].numerator) / node[1].denominator)
    if kind in ("sym", "const", "text", "sub", "call", "based"):
        return _named(node, at)
    if kind in ("paren", "unit"):
        return value(node[1], at)
    if kind == "neg":
        return -value(node[1], at)
    if kind == "add":
        terms = [value(item, at) for item in node[1]]
        return at.settled(sum(terms, at.context.mpf(0)), max(abs(term) for term in terms))
    if kind == "mul":
        total = at.context.mpf(1)
        for item in node[1]:
            total = at.note(total * value(item, at))
        return total
    if kind == "div" or (kind == "ratio" and len(node[1]) == 2):
        top, bottom = node[1:] if kind == "div" else node[1]
        return _quotient(value(top, at), value(bottom, at), at)
    if kind == "pow":
        return _power(value(node[1], at), value(node[2], at), at)
    if kind == "pct":
        return value(node[1], at) / 100
    if kind == "deg":
        return value(node[1], at) * at.context.pi / 180
    if kind == "big":
        return _big(node, at)
    if kind == "fn":
        return _function(node[1], [value(item, at) for item in node[2]], at)
    raise Undefined(f"a {kind} is no number")


def _negligible(number: Any, at: Point) -> bool:
    """Return whether ``number`` is zero but for rounding."""
    return not number or at.context.mag(abs(number)) < at.span - at.context.prec + 30


def _quotient(top: Any, bottom: Any, at: Point) -> Any:
    if _negligible(bottom, at):
        raise Undefined("division by zero")
    return at.note(top / bottom)


def _power(base: Any, power: Any, at: Point) -> Any:
    ctx = at.context
    if _negligible(base, at):
        if ctx.re(power) <= 0:
            raise Undefined("0 to a power that is not positive")
        return ctx.mpf(0)
    # log2 of the result, before it is computed.
    size = abs(ctx.log(abs(base), 2)) * abs(power)
    if size > MAX_SPAN:
        raise Undefined("too large")
    return at.note(base**power)


def _named(node: Node, at: Point) -> Any:
    ctx, kind = at.context, node[0]
    if kind == "const":
        if node[1] == "inf":
            raise Undefined("infinite")
        return {"pi": +ctx.pi, "e": +ctx.e, "i": ctx.j}[node[1]]
    if kind == "sym":
        return at.bound[node[1]] if node[1] in at.bound else at.draw(node[1])
    if kind == "based":
        return ctx.mpf(int(node[1], node[2]))
    if kind == "text":
        return at.draw(f"text {node[1]}")
    if kind == "sub":
        return at.draw(f"{label(node[1], at)} _ {label(node[2], at)}")
    name, arguments = node[1], node[2]
    # a(b) is a product for names that are not usual for functions.
    plain = name[0] == "sym" and name[1] not in ("f", "g", "h", "F", "G", "phi", "varphi", "psi")
    if plain and len(arguments) == 1 and arguments[0][0] == "sym" and not at.bound:
        return value(name, at) * value(arguments[0], at)
    return at.draw(f"{label(name, at)} ({', '.join(label(item, at) for item in arguments)})")


def label(node: Node, at: Point) -> str:
    """Return a text that is the same for equal indices and arguments, and for equal names."""
    if node[0] == "sym" and node[1] not in at.bound:
        return node[1]
    if node[0] == "text":
        return node[1]
    if node[0] == "sub":
        return f"{label(node[1], at)}_{label(node[2], at)}"
    if node[0] in ("seq", "br", "set"):
        return ",".join(label(item, at) for item in node[-1])
    number = value(node, at)
    return str(at.context.nstr(at.context.mpmathify(number), 15))


def _big(node: Node, at: Point) -> Any:
    """Return a finite sum or product, term by term."""
    _, name, variable, low, high, body = node
    if variable[0] != "sym":
        raise Undefined("a sum over no name")
    first, last = value(low, at), value(high, at)
    if not (at.context.isint(first) and at.context.isint(last)) or last - first > MAX_TERMS:
        raise Undefined("bounds that are no integers, or too far apart")
    total = at.context.mpf(name == "prod")
    # An inner sum may use the same variable.
    outer = dict(at.bound)
    for index in range(int(first), int(last) + 1):
        at.bound[variable[1]] = at.context.mpf(index)
        term = value(body, at)
        total = at.note(total * term if name == "prod" else total + term)
    at.bound = outer
    return total


def _function(name: str, values: list[Any], at: Point) -> Any:
    ctx = at.context
    number = values[0]
    if name == "exp":
        return _power(+ctx.e, number, at)
    if name == "log":
        if _negligible(number, at):
            raise Undefined("the logarithm of 0")
        top = ctx.log(number)
        return top if len(values) == 1 else _quotient(top, ctx.log(values[1]), at)
    if name in _DIRECT:
        # Reducing a large argument of sin costs as many bits as it has.
        if abs(number) > 1e6 and name not in ("abs", "floor", "ceil"):
            raise Undefined("too large")
        return at.settled(at.note(getattr(ctx, _DIRECT[name])(number), tiny=False), abs(number))
    if name in ("tan", "cot"):
        sine, cosine = (at.settled(f(number), abs(number)) for f in (ctx.sin, ctx.cos))
        return _quotient(sine, cosine, at) if name == "tan" else _quotient(cosine, sine, at)
    if name in _RECIPROCAL:
        return _quotient(ctx.mpf(1), getattr(ctx, _RECIPROCAL[name])(number), at)
    if name in ("factorial", "factorial2", "binom"):
        if any(abs(item) > 5000 for item in values):
            raise Undefined("too large")
        if name == "binom":
            if all(ctx.isint(item) and item >= 0 for item in values):
                return at.note(ctx.mpf(math.comb(*(int(item) for item in values))))
        # The gamma function at high precision takes seconds.
        if ctx.prec > 1200 and not all(ctx.isint(item) for item in values):
            raise Undefined("too long")
        if name == "binom":
            return at.note(ctx.binomial(*values))
        return at.note(ctx.factorial(number) if name == "factorial" else ctx.fac2(number))
    if name in ("min", "max") and all(ctx.im(item) == 0 for item in values):
        return min(values) if name == "min" else max(values)
    if name == "mod" and all(ctx.im(item) == 0 for item in values):
        if _negligible(values[1], at):
            raise Undefined("modulo 0")
        return ctx.fmod(number, values[1])
    if name in ("gcd", "lcm") and all(ctx.isint(item) for item in values):
        return ctx.mpf(getattr(math, name)(*(int(item) for item in values)))
    raise Undefined(f"{name} is not evaluated")


_DIRECT = {
    "sin": "sin", "cos": "cos", "arcsin": "asin", "arccos": "acos", "arctan": "atan",
    "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "abs": "fabs", "floor": "floor",
    "ceil": "ceil", "sgn": "sign",
}  # fmt: skip
_RECIPROCAL = {"sec": "cos", "csc": "sin", "coth": "tanh"}
