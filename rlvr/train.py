"""``rlvr train RECIPE``: recipe, policy, prompts, rewards, mask or adapter, trainer, train, save.

Also the module that ``accelerate launch … -m rlvr.train RECIPE`` runs.
"""

import argparse
import sys
from pathlib import Path

from rlvr import runtime
from rlvr.config import load_recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="YAML recipe")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--check", action="store_true", help="check and explain, then exit")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")


def run(options: argparse.Namespace) -> int:
    """Train one recipe and return the exit code."""
    from rlvr.run_dir import open_run

    recipe = load_recipe(options.recipe, options.overrides)
    runtime.prepare_environment(Path(str(recipe.run.dir)))
    from rlvr.training.describe import describe
    from rlvr.training.plan import check_recipe  # imports trl: only once the recipe reads well

    plan = check_recipe(recipe)
    runtime.say(describe(plan))
    if options.check:
        return 0
    run_dir, checkpoint = open_run(recipe, resume=options.resume)
    from rlvr.training.session import train
    from rlvr.training.summary import finish

    finished = train(plan, run_dir, checkpoint)
    if not finished:
        command = " ".join(["rlvr train", options.recipe, *options.overrides, "--resume"])
        runtime.say(f"interrupted; nothing is lost. Go on with:\n  {command}")
        return runtime.INTERRUPTED
    if runtime.is_main():
        finish(plan, run_dir)
    return 0


def main(arguments: list[str] | None = None) -> int:
    from rlvr.cli import main as command_line

    return command_line(["train", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
