"""``rlvr train RECIPE``: recipe, policy, prompts, rewards, mask or adapter, trainer, train, save.

Also the module that ``accelerate launch … -m rlvr.train RECIPE`` runs.
"""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

from rlvr import runtime
from rlvr.config import load_recipe
from rlvr.training.names import check_names


def run(options: argparse.Namespace) -> int:
    """Train one recipe and return the exit code."""
    recipe = load_recipe(options.recipe, options.overrides)
    check_names(recipe)
    runtime.prepare_environment(Path(str(recipe.run.dir)))
    with runtime.importing():  # torch and TRL: only once the recipe reads well
        from rlvr.run_dir import locked, open_run
        from rlvr.training.describe import describe
        from rlvr.training.plan import check_recipe, require_machine

        plan = check_recipe(recipe)
    runtime.say(describe(plan))
    if options.check:
        return 0
    require_machine(recipe)
    run_dir, checkpoint = open_run(recipe, resume=options.resume)
    from rlvr.training.session import train
    from rlvr.training.summary import finish

    with locked(run_dir) if runtime.is_main() else nullcontext():
        finished = train(plan, run_dir, checkpoint)
        if finished and runtime.is_main():
            finish(plan, run_dir)
    if not finished:
        command = " ".join(["rlvr train", options.recipe, *options.overrides, "--resume"])
        runtime.say(f"interrupted; nothing is lost. Go on with:\n  {command}")
        return runtime.INTERRUPTED
    return 0


def main(arguments: list[str] | None = None) -> int:
    from rlvr.cli import main as command_line

    return command_line(["train", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
