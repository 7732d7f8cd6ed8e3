"""The ``rlvr`` command: one verb per job."""

import argparse
import sys
from collections.abc import Callable
from importlib import import_module

import rlvr
from rlvr import commands, failures
from rlvr.runtime import INTERRUPTED
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
    "evaluate": "a policy on benchmarks: avg@k, pass@k and intervals, and every completion",
    "data": "a dataset into the one row schema: counted, filtered, checked",
}


def main(words: list[str] | None = None) -> int:
    failures.steady_streams()
    parser = argparse.ArgumentParser(prog="rlvr", description=rlvr.__doc__)
    parser.add_argument("--version", action="version", version=f"rlvr {rlvr.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, summary in VERBS.items():
        add_arguments = getattr(commands, name)
        add_arguments(verbs.add_parser(name, help=summary, description=add_arguments.__doc__))
    options = parse(parser, sys.argv[1:] if words is None else words)
    # ``accelerate launch -m rlvr.train`` is the one verb that is also a module to run.
    module = "rlvr.train" if options.verb == "train" else f"rlvr.verbs.{options.verb}"
    return guarded(lambda: import_module(module).run(options))


def parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Parse with overrides allowed on either side of a flag, which argparse by itself refuses."""
    options, rest = parser.parse_known_args(arguments)
    takes_overrides = hasattr(options, "overrides")
    if any(word.startswith("-") or "=" not in word or not takes_overrides for word in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if takes_overrides:
        options.overrides += rest
    return options


def guarded(verb: Callable[[], int]) -> int:
    """Run ``verb``; a mistake of the user's is one message and exit code 2, not a traceback."""
    try:
        return verb()
    except RecipeError as error:
        return failures.report(error, 2)
    except RunError as error:
        return failures.report(error, 1)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        return failures.report_crash(error)


if __name__ == "__main__":
    sys.exit(main())
