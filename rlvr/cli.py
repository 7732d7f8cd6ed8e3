"""The ``rlvr`` command: one verb per job."""

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from rlvr import __version__, failures, runtime
from rlvr.schema import RecipeError, RunError

VERBS = {
    "train": "one recipe into a trained run directory",
    "study": "a base recipe x arms into runs, one table and figures",
    "delta": "two checkpoints into a sparse file that applies and reverts bit for bit",
    "verify": "right or wrong for rows of gold answer and response, from a file",
    "mask": "a mask as a file: build it from a checkpoint, or show it",
    "rotate": "a checkpoint into other weights of the same policy, to test what masks see",
    "geometry": "two checkpoints or a run into a report of where the update went",
    "curvature": "a policy's curvature on masks against random ones, and the length of an update",
    "data": "a dataset into the one row schema: counted, filtered, checked",
}


def main(arguments: list[str] | None = None) -> int:
    failures.steady_streams()
    parser = argparse.ArgumentParser(prog="rlvr", description=import_module("rlvr").__doc__)
    parser.add_argument("--version", action="version", version=f"rlvr {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    words = sys.argv[1:] if arguments is None else arguments
    for name, summary in VERBS.items():
        verb = verbs.add_parser(name, help=summary)
        if name in words:  # the others would import for seconds what they alone need
            module = _module(name)
            verb.description = module.__doc__
            module.add_arguments(verb)
    options = parse(parser, words)
    return guarded(_module(options.verb).run, options)


def _module(verb: str) -> Any:
    # ``accelerate launch -m rlvr.train`` is the one verb that is also a module to run.
    return import_module("rlvr.train" if verb == "train" else f"rlvr.verbs.{verb}")


def parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Parse with overrides allowed on either side of a flag, which argparse alone refuses."""
    options, rest = parser.parse_known_args(arguments)
    takes_overrides = hasattr(options, "overrides")
    if any(word.startswith("-") or "=" not in word or not takes_overrides for word in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if takes_overrides:
        options.overrides += rest
    return options


def guarded(verb: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """Run ``verb``; a mistake of the user's is one message and exit code 2, not a traceback."""
    try:
        return verb(options)
    except RecipeError as error:
        return failures.report(error, 2)
    except RunError as error:
        return failures.report(error, 1)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return runtime.INTERRUPTED
    except Exception as error:
        return failures.report_crash(error)


if __name__ == "__main__":
    sys.exit(main())
