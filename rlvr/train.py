"""``rlvr train RECIPE``: recipe, policy, prompts, rewards, mask or adapter, trainer, train, save.

Also the module that ``accelerate launch … -m rlvr.train RECIPE`` runs.
"""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from rlvr import peers, runtime
from rlvr.config import load_recipe
from rlvr.failures import DiskError, explained_writes
from rlvr.launcher import resume_command
from rlvr.locks import locked
from rlvr.schema import RecipeError, RunError
from rlvr.training.names import check_names

if TYPE_CHECKING:
    from rlvr.training.plan import Plan


def run(options: argparse.Namespace) -> int:
    """Train one recipe and return the exit code."""
    recipe = load_recipe(options.recipe, options.overrides)
    check_names(recipe)
    _check_options(options)
    if not options.check:
        runtime.require_devices()
    run_dir = Path(str(recipe.run.dir))
    with runtime.importing(), runtime.as_processes(options.gpus):
        # torch and TRL: only once the recipe reads well
        runtime.prepare_environment(run_dir)
        from rlvr.training.costs import cost_lines
        from rlvr.training.describe import describe
        from rlvr.training.machine import require_machine
        from rlvr.training.plan import check_recipe

        plan = check_recipe(recipe)
        costs = []
        if options.gpus is not None:
            costs = cost_lines(plan, options.gpus, options.gpu_memory)
        runtime.say("\n".join([describe(plan), *costs]))
    if options.check:
        return 0
    require_machine(recipe)
    # Before training: the launcher may be gone when the message is needed.
    again = resume_command(options.recipe, options.overrides)
    try:
        with explained_writes(run_dir):
            finished = _train(plan, run_dir, again, resume=options.resume)
    except DiskError as error:
        raise RunError(
            f"{error}, then go on with `{again}`: every finished checkpoint is kept. "
            "trainer.save_total_limit and run.checkpoint=delta make a run smaller"
        ) from error
    if not finished:
        runtime.say(f"interrupted; nothing is lost. Go on with:\n  {again}")
        return runtime.INTERRUPTED
    return 0


def _check_options(options: argparse.Namespace) -> None:
    if options.gpus is None:
        return
    if not options.check:
        raise RecipeError("--gpus: is what --check plans for; add --check or leave it out")
    if options.gpus < 1 or options.gpu_memory <= 0:
        raise RecipeError("--gpus, --gpu-memory: must be at least 1 GPU and more than 0 GB")


def _train(plan: "Plan", run_dir: Path, again: str, *, resume: bool) -> bool:
    """Train and evaluate in ``run_dir``, which the main process holds; false where interrupted."""
    from rlvr.run_dir import check_run, open_run, require_writable
    from rlvr.training.inputs import join_processes
    from rlvr.training.session import train
    from rlvr.training.summary import finish

    args = join_processes(plan.recipe, run_dir)
    runtime.from_main(lambda: require_writable(run_dir, resume=resume))
    runtime.from_main(lambda: check_run(plan.recipe, resume=resume))
    with ExitStack() as held:
        # Only the main process locks; it lives as long as the run.
        runtime.from_main(lambda: held.enter_context(locked(run_dir)))
        checkpoint = runtime.from_main(lambda: open_run(plan.recipe, resume=resume))
        with peers.watched(lambda: _where_to_go_on(run_dir, again)):
            finished = train(plan, args, run_dir, checkpoint)
        if finished and runtime.is_main():
            finish(plan, run_dir)
    return finished


def _where_to_go_on(run_dir: Path, again: str) -> str:
    from rlvr.checkpoints.runs import checkpoints

    newest = checkpoints(run_dir)[-1:]
    if not newest:
        return "no checkpoint was complete yet: start again"
    return f"the newest checkpoint is {newest[0]}. Go on with `{again}`"


def main(arguments: list[str] | None = None) -> int:
    from rlvr.cli import main as command_line

    return command_line(["train", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
