"""Imports point down only, and a heavy library is imported behind its fence alone."""

import ast
import re
from pathlib import Path

import rlvr

PACKAGE = Path(rlvr.__file__).parent
LAYERS = [
    {"cli", "commands", "train", "verbs"},
    {"training", "reports", "curvature", "benchmarks"},
    {"plots"},
    {
        "policy",
        "base_weights",
        "adapters",
        "optim",
        "rewards",
        "eval",
        "data",
        "geometry",
        "rotation",
        "studies",
    },
    {"engines", "decoding", "costs"},
    {"masks", "run_dir", "verifier"},
    {"delta", "provenance", "logs", "isolation"},
    {"algorithms", "config", "registry", "runtime", "targets", "linalg", "lapack", "intervals"}
    | {
        "recipe_file",
        "checkpoints",
        "failures",
        "files",
        "generation",
        "launcher",
        "locks",
        "peers",
        "precision",
        "schema",
        "verdict",
    },
]
FENCES = {
    "trl": {"training"},
    "peft": {"adapters"},
    "matplotlib": {"plots"},
    "scipy": {"studies", "geometry", "intervals"},
    "math_verify": {"verifier"},
    "deepspeed": {"engines"},
    "vllm": set(),
    "jsonschema": {"rewards"},
    "reasoning_gym": {"rewards", "data"},
    "pyarrow": {"data"},
}


def unit(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports() -> list[tuple[str, str]]:
    """Return (unit, imported module) of every import in the package, local ones included."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                found.append((unit(path), node.module))
            elif isinstance(node, ast.Import):
                found += [(unit(path), alias.name) for alias in node.names]
    return found


def depth(name: str) -> int:
    return next(index for index, layer in enumerate(LAYERS) if name in layer)


def test_every_module_has_a_layer():
    units = {unit(path) for path in PACKAGE.rglob("*.py")} - {"__init__", "__main__"}
    assert units == set().union(*LAYERS)


def test_imports_point_down():
    upward = []
    for source, module in imports():
        parts = module.split(".")
        if parts[0] != "rlvr" or len(parts) == 1 or source in ("__init__", parts[1]):
            continue
        if depth(parts[1]) < depth(source):
            upward.append(f"{source} imports {module}")
    assert not upward


def test_features_do_not_import_each_other():
    features = LAYERS[3]
    crossing = {
        f"{source} imports {module}"
        for source, module in imports()
        if source in features
        and module.startswith("rlvr.")
        and module.split(".")[1] in features - {source}
    }
    assert not crossing


def test_heavy_libraries_stay_behind_their_fence():
    leaks = {
        f"{source} imports {module}"
        for source, module in imports()
        for library, allowed in FENCES.items()
        if module.split(".")[0] == library and source not in allowed
    }
    assert not leaks


# What only rlvr/checkpoints may say: the names of weight files, and the folders of a run's policy.
FILE_NAMES = re.compile(
    r"(?<!\w)model\*?\.safetensors|pytorch_model|adapter_config\.json|weight_map|policy\.delta"
    r"|\bglob\([^)]*(safetensors|\.bin)|/ ['\"](merged|lora|adapter|policy)['\"]"
    r"|\b(snapshot_download|hf_hub_download|cached_file)\b"
)


def test_one_package_knows_what_a_checkpoint_folder_holds():
    elsewhere = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if unit(path) != "checkpoints":
            code = ast.unparse(without_docstrings(ast.parse(path.read_text())))
            elsewhere += [f"{path.relative_to(PACKAGE)}: {m[0]}" for m in FILE_NAMES.finditer(code)]
    assert not elsewhere


def without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            body[0] = ast.Pass()
    return tree


def is_any(annotation: ast.expr | None) -> bool:
    return isinstance(annotation, ast.Name) and annotation.id == "Any"


def test_few_parameters_are_of_any_type():
    """At most one in fifty; ``*args`` and ``**kwargs`` that are only handed on do not count."""
    annotated, loose = 0, []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                given = node.args
                parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs]
                annotated += sum(one.annotation is not None for one in parameters)
                loose += [
                    f"{path.relative_to(PACKAGE)}: {node.name}({one.arg})"
                    for one in parameters
                    if is_any(one.annotation)
                ]
    assert len(loose) <= 0.02 * annotated, loose
