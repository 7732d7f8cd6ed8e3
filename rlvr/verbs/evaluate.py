"""``rlvr evaluate``: policies on benchmarks, two evaluations compared, or rollouts to browse."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

from rlvr import runtime
from rlvr.config import EvalSettings, ModelSection
from rlvr.failures import DiskError
from rlvr.recipe_file import apply_overrides
from rlvr.registry import import_plugins
from rlvr.schema import RecipeError, check_value

SETTINGS = ("samples", "temperature", "top_p", "max_new_tokens", "batch_size", "seed")


def run(options: Namespace) -> int:
    """Evaluate, write, and return the exit code."""
    runtime.prepare_environment()
    if options.compare is not None:
        from rlvr.benchmarks.comparing import compare_folders

        runtime.say(compare_folders(*options.compare))
        return 0
    try:
        if options.rollouts is not None:
            from rlvr.reports.evaluation import write_rollouts

            runtime.say(str(write_rollouts(options.rollouts)))
            return 0
        return _evaluate(options)
    except DiskError as error:
        # Exit code 2: the user can mend it, and the same call goes on.
        raise RecipeError(f"{error}; then call again: finished problems are kept") from error


def _evaluate(options: Namespace) -> int:
    if options.model is None:
        raise RecipeError("evaluate: name a model, a run, or --compare A B")
    if not options.benchmark and not options.data:
        raise RecipeError("evaluate: name --benchmark NAME or --data FILE")
    if options.more_samples < 0 or (options.until_width or 1) <= 0:
        raise RecipeError("--more-samples, --until-width: must be above 0")
    # argparse takes the options of a benchmark for more names, or files, of the flag before.
    given = [*options.benchmark, *map(str, options.data)]
    words = [word for word in given if "=" in word and not Path(word).exists()]
    names = [word for word in options.benchmark if word not in words]
    files = [path for path in options.data if str(path) not in words]
    content = apply_overrides({}, [*options.overrides, *words])
    plugins = check_value(content.pop("plugins", []), list[str], "plugins")
    import_plugins(plugins)
    settings = _settings(options)
    with runtime.importing():
        from rlvr.benchmarks.evaluation import evaluate_policy, joined, table
        from rlvr.benchmarks.policies import find_policies
        from rlvr.benchmarks.problems import Chosen, load_benchmarks
    asked = {key: getattr(options, key) for key in ("prompt", "system", "prefill", "verifier")}
    chosen = Chosen(options.preset, settings, **asked)
    benchmarks = load_benchmarks(names, files, content, chosen)
    sources = find_policies(options.model, options.dtype, options.base, every=options.all)
    with joined():
        for source in sources:
            out = options.out or source.out
            if options.out is not None and len(sources) > 1:
                out = options.out / Path(source.label).name
            results = evaluate_policy(
                source,
                benchmarks,
                chosen.label,
                out,
                more_samples=options.more_samples,
                until_width=options.until_width,
            )
            if runtime.is_main():
                runtime.say(table(source.label, chosen.label, results))
                runtime.say(str(_report(out)))
    return 0


def _report(out: Path) -> Path:
    from rlvr.reports.evaluation import write_report  # imports matplotlib

    return write_report(out)


def _settings(options: Namespace) -> Mapping[str, Any]:
    """Return the single settings that were given, checked."""
    hints = get_type_hints(EvalSettings, include_extras=True)
    given = {name: getattr(options, name) for name in SETTINGS}
    checked = {
        name: check_value(value, hints[name], f"--{name.replace('_', '-')}")
        for name, value in given.items()
        if value is not None
    }
    dtypes = get_args(get_type_hints(ModelSection)["dtype"])
    if options.dtype not in (None, *dtypes):
        raise RecipeError(f"--dtype: {options.dtype!r} is none of {', '.join(dtypes)}")
    return checked
