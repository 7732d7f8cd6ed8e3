"""What runs inside a sandbox: a program, its function server, or the tests of such a server.

Imports only the standard library. The assertions of a row never meet the program: they run in a
sandbox of their own, where each name that the program defines is a proxy, and a call goes over a
pipe as plain data and comes back as plain data. The program sees the arguments of calls and nothing
else, so that no return code, patched function, overloaded ``==`` or inspected frame can pass a
test: only the right value can.
"""

import builtins
import importlib
import io
import json
import os
import re
import site
import sys
import traceback
import types
import typing
from typing import Any

TYPING = (
    "Any Callable DefaultDict Deque Dict FrozenSet Generator Iterable Iterator List Literal "
    "Mapping NamedTuple Optional Sequence Set Tuple Type TypeVar Union"
).split()
MAX_REPLY = 8 << 20  # bytes of one message


def encode(value: object, keep: Any) -> Any:
    """Return ``value`` as JSON content; ``keep`` makes a handle of what is no plain data."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        # list.__iter__ and dict.items: a subclass of the program's may lie in its own methods.
        return [encode(item, keep) for item in list.__iter__(value)]
    if isinstance(value, dict):
        pairs = [[encode(key, keep), encode(item, keep)] for key, item in dict.items(value)]
        return {"dict": pairs}
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [encode(item, keep) for item in value]}
    if isinstance(value, bytes | bytearray):
        return {type(value).__name__: value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    return {"handle": keep(value)}


def decode(content: object, proxy: Any) -> Any:
    """Return the value of ``encode``'s content, of exact builtin types; ``proxy`` for handles."""
    if isinstance(content, list):
        return [decode(item, proxy) for item in content]
    if not isinstance(content, dict):
        return content
    # Exactly one key, or ValueError: the program writes this line and may send anything.
    ((tag, body),) = content.items()
    if tag == "dict":
        return {decode(key, proxy): decode(item, proxy) for key, item in body}
    if tag == "handle":
        return proxy(body)
    if tag == "complex":
        return complex(*body)
    if tag in ("bytes", "bytearray"):
        return {"bytes": bytes, "bytearray": bytearray}[tag].fromhex(body)
    kinds: Any = {"tuple": tuple, "set": set, "frozenset": frozenset}
    return kinds[tag](decode(item, proxy) for item in body)


def new_module(name, source):
    """Return an empty module ``name`` and the compiled source to execute in it."""
    module = types.ModuleType(name)
    # Registered, so that dataclasses and pickle find the module of their classes.
    sys.modules[name] = module
    site.setquit()
    # Graders of the usual data sets run programs after "from typing import *".
    for known in TYPING:
        module.__dict__[known] = getattr(typing, known)
    return module, compile(source, "program.py", "exec")


def run_script(program):
    """Run the program as a script on its standard input; return its exit code."""
    try:
        module, code = new_module("__main__", program["source"])
        exec(code, module.__dict__)
    except SystemExit as error:
        code = error.code
        if not isinstance(code, int):
            print(code or "", file=sys.stderr)
            code = 1 if code else 0
        return finish(code)
    except BaseException:
        sys.stderr.write(traceback.format_exc()[-2000:])
        return finish(1)
    return finish(0)


def finish(code):
    """Flush and return ``code``; output that cannot be written is a failure."""
    try:
        sys.stdout.flush()
        # An exit code has one byte.
        return code & 255
    except Exception:
        return 1


def resolve(module, handles, target):
    """Return the object that ``[name or handle, attribute, …]`` stands for."""
    first, *attributes = target
    # Handles are numbers: an object of the program that a test already has.
    value = handles[first] if isinstance(first, int) else getattr(module, first)
    for attribute in attributes:
        value = getattr(value, attribute)
    return value


def serve(program):
    """Define the program, then answer requests for its names until the pipe closes."""
    requests = os.fdopen(program["requests"], "rb")
    replies = os.fdopen(program["replies"], "wb")
    sys.stdin = io.StringIO()
    handles = []

    def keep(value):
        handles.append(value)
        return len(handles) - 1

    def answer(content):
        replies.write(json.dumps(content).encode() + b"\n")
        replies.flush()

    try:
        module, code = new_module("program", program["source"])
        exec(code, module.__dict__)
    except BaseException as error:
        answer({"names": [], "error": f"{type(error).__name__}: {error}"[:500]})
        return 1
    answer({"names": [name for name in module.__dict__ if isinstance(name, str)]})
    for line in requests:
        request = json.loads(line)
        try:
            value = resolve(module, handles, request["target"])
            if "arguments" not in request:
                answer({"value": encode(value, keep)})
                continue
            positional, named = decode(request["arguments"], lambda index: handles[index])
            result = value(*positional, **named)
            # "after": arguments as the call left them, for tests of functions that change a list.
            answer({"value": encode(result, keep), "after": encode(positional, keep)})
        except Exception as error:
            answer({"raised": type(error).__name__, "text": str(error)[:500]})
    return 0


class Failure(Exception):
    """An exception of the program that is of no builtin type."""


class Link:
    """The tester's end of the pipe to the program."""

    def __init__(self, requests, replies):
        self.requests, self.replies = os.fdopen(requests, "wb"), os.fdopen(replies, "rb")

    def read(self):
        # Bounded: the program could send a line without end.
        line = self.replies.readline(MAX_REPLY)
        if not line.endswith(b"\n"):
            raise Failure("the program ended" if len(line) < MAX_REPLY else "a value too large")
        return json.loads(line)

    def ask(self, target, arguments=None):
        request = {"target": target}
        if arguments is not None:
            request["arguments"] = encode(list(arguments), handle_of)
        self.requests.write(json.dumps(request).encode() + b"\n")
        self.requests.flush()
        reply = self.read()
        if "raised" in reply:
            # Builtin exceptions keep their type, so that a test may expect a ValueError.
            kind: Any = getattr(builtins, str(reply["raised"]), None)
            known = isinstance(kind, type) and issubclass(kind, Exception)
            raise (kind if known else Failure)(str(reply.get("text", "")))

        def proxy(index):
            return Proxy(self, [int(index)])

        if "after" in reply and arguments is not None:
            for old, new in zip(arguments[0], decode(reply["after"], proxy), strict=True):
                update(old, new)
        return decode(reply["value"], proxy)


def update(old, new):
    """Give ``old``, an argument, the content that the program left it with."""
    # Exact types: the program may not turn a list of the test into something else.
    if type(old) is not type(new):
        return
    if isinstance(old, list | bytearray):
        old[:] = new
    elif isinstance(old, dict | set):
        old.clear()
        old.update(new)


def handle_of(value):
    if isinstance(value, Proxy) and len(object.__getattribute__(value, "_target")) == 1:
        return object.__getattribute__(value, "_target")[0]
    raise TypeError(f"cannot pass a {type(value).__name__} to the program")


def refuse(name):
    def method(self, *arguments):
        raise TypeError(f"an object of the program has no trusted {name}")

    return method


def forward(name):
    def method(self, *arguments):
        link, target = (object.__getattribute__(self, key) for key in ("_link", "_target"))
        try:
            return link.ask([*target, name], (list(arguments), {}))
        except AttributeError as error:
            raise TypeError(str(error)) from None  # as Python itself says it

    return method


# Attributes go through object.__getattribute__, since __getattr__ asks the program.
class Proxy:
    """Something of the program that is no plain data: call it, or read its attributes."""

    def __init__(self, link, target):
        object.__setattr__(self, "_link", link)
        object.__setattr__(self, "_target", target)

    def __call__(self, *positional, **named):
        link, target = (object.__getattribute__(self, key) for key in ("_link", "_target"))
        return link.ask(target, (list(positional), named))

    def __getattr__(self, name):
        link, target = (object.__getattribute__(self, key) for key in ("_link", "_target"))
        return link.ask([*target, name])

    __len__, __getitem__, __str__ = forward("__len__"), forward("__getitem__"), forward("__str__")
    __contains__, __iter__, __next__ = (forward(f"__{n}__") for n in ("contains", "iter", "next"))
    # The program's own idea of equality or truth proves nothing.
    __eq__, __ne__, __bool__ = refuse("=="), refuse("!="), refuse("truth value")
    __lt__, __le__, __gt__, __ge__ = (refuse(sign) for sign in ("<", "<=", ">", ">="))


def test(program):
    """Run the tests against the program's server; print one JSON line with the first failure."""
    link = Link(program["requests"], program["replies"])
    # The result line gets a copy of stdout; prints of the tests go to stderr.
    out, failure, passed = os.dup(1), None, 0
    os.dup2(2, 1)
    try:
        start = link.read()
        namespace: dict[str, Any] = {"__name__": "tests"}
        if "error" in start:
            raise Failure(start["error"])
        # Only names that a test mentions are fetched: a module may define thousands.
        words = set(re.findall(r"\w+", "\n".join(program["tests"])))
        for name in sorted(words.intersection(start["names"])):
            # Names that Python itself defines keep its meaning, whatever the program made of them.
            if name in sys.stdlib_module_names:
                namespace[name] = importlib.import_module(name)
            elif not hasattr(builtins, name):
                namespace[name] = link.ask([name])
        for source in program["tests"]:
            exec(compile(source, "tests", "exec"), namespace)
            passed += 1
    except BaseException as error:
        failure = f"{type(error).__name__}: {error}"[:500]
    line = json.dumps({"passed": passed, "of": len(program["tests"]), "failure": failure})
    os.write(out, line.encode() + b"\n")
    return 0


def main(program):
    # Programs print long integers, which Python limits to 4300 digits.
    sys.set_int_max_str_digits(0)
    sys.argv = ["program.py"]
    return {"script": run_script, "serve": serve, "test": test}[program["role"]](program)
