"""The layers, the light modules, the limits of size: read from the source with the standard library alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "autoprune"

LAYERS = (
    "errors",
    "registry",
    "storage",
    "requirements",
    "markup",
    "config",
    "axes",
    "tasks",
    "groups",
    "policy",
    "compatibility",
    "space",
    "pareto",
    "records",
    "pruning",
    "runtimes",
    "evaluation",
    "predictor",
    "artifacts",
    "report",
    "search",
    "integrations",
    "cli",
    "__main__",
)
APART = ("pruning", "evaluation", "predictor")
LIGHT = (
    "errors",
    "registry",
    "storage",
    "requirements",
    "markup",
    "config",
    "axes",
    "policy",
    "pareto",
    "records",
    "report",
)
HEAVY = {"torch", "ray", "sklearn", "optuna", "scipy", "onnx", "onnxruntime", "torch_pruning", "pandas", "tensorboardX"}
GLOBAL_SEEDING = {"torch.manual_seed", "torch.set_rng_state", "np.random.seed", "numpy.random.seed", "random.seed"}
FILE_LINES = 400
FUNCTION_LINES = 80
PARAMETERS = 6

Function = ast.FunctionDef | ast.AsyncFunctionDef
FILES = sorted(PACKAGE.rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def name_of(path: Path) -> str:
    """Return a module's dotted name below `autoprune`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def stage_of(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def functions_of(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(tree_of(path)) if isinstance(node, Function))


def imports_of(path: Path, *, at_run_time: bool = False) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted module); with `at_run_time` only those that run when the module is imported."""
    pending: list[ast.AST] = [tree_of(path)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module
            if node.module == "autoprune":
                yield from ((node.lineno, f"autoprune.{alias.name}") for alias in node.names)
        if at_run_time and (isinstance(node, Function) or _is_type_checking(node)):
            continue
        pending += ast.iter_child_nodes(node)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def test_every_module_belongs_to_a_declared_stage() -> None:
    found = {stage_of(name_of(path)) for path in FILES} - {""}
    assert found <= set(LAYERS)


@pytest.mark.parametrize("stage", LAYERS)
def test_a_stage_imports_only_from_the_stages_before_it(stage: str) -> None:
    allowed = set(LAYERS[: LAYERS.index(stage) + 1])
    if stage in APART:
        allowed -= set(APART) - {stage}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in FILES
        if stage_of(name_of(path)) == stage
        for line, module in imports_of(path)
        if module.startswith("autoprune.") and stage_of(module.removeprefix("autoprune.")) not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_modules_import_each_other_by_absolute_names() -> None:
    relative = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not relative


def test_no_module_imports_the_package_itself() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}" for path in FILES for line, name in imports_of(path) if name == "autoprune"
    ]
    assert not wrong


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    modules = {f"autoprune.{name_of(path)}".rstrip("."): path for path in FILES}
    graph = {
        name: {target for _, target in imports_of(path, at_run_time=True) if target in modules and target != name}
        for name, path in modules.items()
    }
    done: set[str] = set()

    def visit(name: str, road: tuple[str, ...]) -> None:
        assert name not in road, " -> ".join([*road[road.index(name) :], name])
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*road, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_light_modules_load_nothing_heavy_not_even_through_others() -> None:
    modules = {f"autoprune.{name_of(path)}".rstrip("."): path for path in FILES}
    roots = ["autoprune", "autoprune.cli.app", *(m for m in modules if m.split(".")[1:2] and m.split(".")[1] in LIGHT)]
    pending = [(root, root) for root in roots]
    seen = {root for root, _ in pending}
    wrong = []
    while pending:
        name, road = pending.pop()
        for line, target in imports_of(modules[name], at_run_time=True):
            if target.split(".", maxsplit=1)[0] in HEAVY:
                wrong.append(f"{road}:{line} imports {target}")
            parts = target.split(".")
            for loaded in (".".join(parts[:n]) for n in range(1, len(parts) + 1)):
                if loaded in modules and loaded not in seen:
                    seen.add(loaded)
                    pending.append((loaded, f"{road} -> {loaded}"))
    assert not wrong, "\n".join(wrong)


def test_files_and_functions_stay_short() -> None:
    long_files = [f"{p.relative_to(ROOT)}: {n}" for p in FILES if (n := len(p.read_text().splitlines())) > FILE_LINES]
    long_functions = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in FILES
        for node in functions_of(path)
        if (node.end_lineno or node.lineno) - node.lineno + 1 > FUNCTION_LINES
    ]
    assert not long_files
    assert not long_functions


def test_functions_take_few_parameters() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in FILES
        if stage_of(name_of(path)) != "cli"
        for node in functions_of(path)
        if node.name != "forward"
        if len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]) - _is_method(node) > PARAMETERS
    ]
    assert not wrong


def _is_method(node: Function) -> bool:
    first = [*node.args.posonlyargs, *node.args.args][:1]
    return bool(first) and first[0].arg in ("self", "cls")


def test_no_checker_is_silenced() -> None:
    silenced = re.compile(r"#\s*(noqa|type:\s*ignore|pragma|pylint|ruff:|mypy:|fmt:)", re.IGNORECASE)
    wrong = [
        f"{p.relative_to(ROOT)}:{n}"
        for p in FILES
        for n, text in enumerate(p.read_text().splitlines(), 1)
        if silenced.search(text)
    ]
    assert not wrong


def test_nothing_is_left_to_do_or_empty() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
    wrong = [
        str(path.relative_to(ROOT)) for path in FILES if marks.search(path.read_text()) or not path.read_text().strip()
    ]
    assert not wrong


def test_every_module_and_sub_package_says_what_it_is() -> None:
    silent = [str(path.relative_to(ROOT)) for path in FILES if not ast.get_docstring(tree_of(path))]
    folders = {path.parent for path in FILES}
    assert not silent
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_no_public_function_bears_the_name_of_a_sub_package() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in FILES
        for node in tree_of(path).body
        if isinstance(node, Function) and node.name in packages
    ]
    assert not wrong


def test_nothing_prints_but_the_command_line() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not wrong


def test_global_randomness_is_touched_only_inside_a_fork_of_it() -> None:
    wrong = [f"{path.relative_to(ROOT)}:{line}" for path in FILES for line in _seeding_lines(tree_of(path))]
    assert not wrong


def _seeding_lines(node: ast.AST) -> Iterator[int]:
    """Yield the lines that seed a global generator, unless a fork of it is restored around them."""
    if isinstance(node, ast.With) and any("fork_rng" in ast.unparse(item) for item in node.items):
        return
    if isinstance(node, ast.Call) and ast.unparse(node.func) in GLOBAL_SEEDING:
        yield node.lineno
    for child in ast.iter_child_nodes(node):
        yield from _seeding_lines(child)
