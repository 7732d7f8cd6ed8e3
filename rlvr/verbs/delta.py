"""``rlvr delta pack|apply|revert``: what it does, and the line it ends with."""

from argparse import Namespace
from pathlib import Path

from rlvr import runtime
from rlvr.commands import DELTA_VERBS
from rlvr.delta.exact import pack
from rlvr.delta.publish import leftovers
from rlvr.delta.restoring import apply, discard_applied, revert
from rlvr.schema import RunError


def run(options: Namespace) -> int:
    """Pack, apply or revert and return the exit code."""
    out = options.out
    # Named, not deleted: another pack of the same file may be running.
    for path in leftovers(out):
        runtime.say(f"an interrupted run left {path}; delete it if none is running")
    try:
        if options.sub_verb == "pack":
            runtime.say(f"{out}: {describe(options.base, options.tuned, out)}")
        elif options.sub_verb == "apply":
            apply(options.base, options.delta, out)
            runtime.say(f"{out}: the tuned checkpoint, checked bit for bit")
        else:
            revert(options.tuned, options.delta, out)
            runtime.say(f"{out}: the base checkpoint, checked bit for bit")
    except OSError as error:
        raise RunError(f"{error}; nothing was written as {out}") from error
    finally:
        # Arguments may be runs: their deltas were made whole on the way.
        for path in (getattr(options, word) for word in DELTA_VERBS[options.sub_verb][1]):
            discard_applied(path)
    return 0


def describe(base: Path, tuned: Path, out: Path) -> str:
    """Pack and return what became of it, in one line."""
    packed = pack(base, tuned, out)
    return (
        f"{packed.changed:,} of {packed.entries:,} entries changed "
        f"({packed.changed / max(packed.entries, 1):.3%}), {packed.file_bytes:,} bytes "
        f"({packed.file_bytes / max(packed.weight_bytes, 1):.2%} of the weights)"
    )
