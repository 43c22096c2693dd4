"""Change the source in one place at a time and see whether a test of that module fails.

    python tests/mutation.py --sample 200 --seed 0 --out runs/mutation.json

A change swaps a comparison or an operator, or moves a number by one. The tests of a module are its
own (`tests/<room>/test_<module>.py`) and at most three more files that import it. A change that no
test notices is printed as a survivor; docs/architecture.md names those that are harmless.
"""

import argparse
import ast
import copy
import functools
import importlib
import importlib.abc
import importlib.machinery
import json
import multiprocessing
import os
import random
import re
import sys
import time
from pathlib import Path
from types import ModuleType

from house import REPOSITORY, SOURCE, import_graph, modules

ROOMS = ("metrics", "evaluation", "data", "training", "prediction")
TIMEOUT = 300  # seconds for the tests of one change
TEST_FILES = 4  # for one change
# loaded here, they cost nothing in each process
PRELOADED = ["albumentations", "hypothesis", "pandas", "pytest", "pytorch_metric_learning.losses"]
PRELOADED += ["scipy.stats", "sklearn.metrics", "torch.utils.tensorboard", "zarr"]
SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def _slots(tree: ast.Module) -> list[tuple[int, str]]:
    """(position in `ast.walk`, kind) of everything that can be changed."""
    annotations: set[int] = set()
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            part = getattr(node, name, None)
            if part is not None:
                annotations.update(id(child) for child in ast.walk(part))
    slots = []
    for position, node in enumerate(ast.walk(tree)):
        if id(node) in annotations:
            continue
        if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
            slots.append((position, "compare"))
        elif isinstance(node, ast.BinOp) and type(node.op) in SWAPS:
            texts = [n for n in (node.left, node.right) if isinstance(n, ast.Constant)]
            if not any(isinstance(n.value, str) for n in texts):
                slots.append((position, "operator"))
        elif isinstance(node, ast.BoolOp):
            slots.append((position, "operator"))
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
            slots.append((position, "number"))
    return slots


def change(tree: ast.Module, position: int) -> tuple[ast.Module, int, str]:
    """A copy of `tree` with the node at `position` changed; its line; what was changed."""
    changed = copy.deepcopy(tree)
    node = next(n for i, n in enumerate(ast.walk(changed)) if i == position)
    before = ast.unparse(node)
    if isinstance(node, ast.Compare):
        node.ops[0] = SWAPS[type(node.ops[0])]()
    elif isinstance(node, ast.BinOp | ast.BoolOp):
        node.op = SWAPS[type(node.op)]()
    else:
        assert isinstance(node, ast.Constant)
        node.value = node.value + 1 if isinstance(node.value, int) else node.value * 2 + 1
    return ast.fix_missing_locations(changed), node.lineno, f"{before}  ->  {ast.unparse(node)}"


_graph = functools.cache(import_graph)


def _naming(module: str) -> list[Path]:
    """Test files that name a module."""
    parent, _, last = module.rpartition(".")
    pattern = re.compile(
        rf"{re.escape(module)}\b|from {re.escape(parent)} import [^\n]*\b{re.escape(last)}\b"
    )
    paths = sorted((REPOSITORY / "tests").rglob("test_*.py"))
    return [path for path in paths if pattern.search(path.read_text(encoding="utf-8"))]


def _own_tests(module: str) -> Path:
    """The test file that mirrors a module, if there is one."""
    parts = module.split(".")
    return (REPOSITORY / "tests").joinpath(*parts[1:-1], f"test_{parts[-1]}.py")


@functools.cache
def tests_of(module: str) -> list[Path]:
    """At most `TEST_FILES` test files: its own, others that name the module, those of its users."""
    own = _own_tests(module)
    named = sorted(_naming(module), key=lambda path: path.parent != own.parent)
    users = sorted(user for user, imported in _graph().items() if module in imported)
    of_users = sorted(map(_own_tests, users), key=lambda path: path.parent != own.parent)
    files = [path for path in dict.fromkeys([own, *named, *of_users]) if path.is_file()]
    return files[:TEST_FILES]


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module from a changed tree instead of its file."""

    def __init__(self, name: str, path: Path, tree: ast.Module):
        self.name = name
        self.path = path
        self.code = compile(tree, str(path), "exec")

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.name:
            return None
        package = self.path.name == "__init__.py"
        spec = importlib.machinery.ModuleSpec(
            fullname, self, origin=str(self.path), is_package=package
        )
        if package:
            spec.submodule_search_locations = [str(self.path.parent)]
        return spec

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = str(self.path)
        exec(self.code, module.__dict__)


def _run_tests(name: str, path: Path, tree: ast.Module, files: list[Path]) -> None:
    """In a process of its own: exit 0 if all tests pass, else the status of pytest.

    The first file alone, then the others. Slow tests run where the first file has no others.
    """
    quiet = os.open(os.devnull, os.O_WRONLY)
    options = ["-x", "-q", "-p", "no:cacheprovider"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    if not os.environ.get("MUTATION_SHOW"):
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        options.append("--tb=no")
    sys.meta_path.insert(0, _Changed(name, path, tree))
    import pytest
    from hypothesis import Phase, settings

    # a failing example is not made smaller, nor kept for the runs of unchanged code
    phases = [Phase.explicit, Phase.generate]
    settings.register_profile("change", phases=phases, database=None, deadline=None)
    settings.load_profile("change")

    def run(paths: list[Path], marks: str) -> int:
        return int(pytest.main([*options, "-m", marks, *map(str, paths)]))

    none = pytest.ExitCode.NO_TESTS_COLLECTED
    status = run(files[:1], "not slow and not torture")
    if status == none:
        status = run(files[:1], "not torture")
    if status in (0, none) and files[1:]:
        status = run(files[1:], "not slow and not torture")
    os._exit(0 if status == none else status)


def survives(
    name: str, path: Path, tree: ast.Module, files: list[Path], timeout: float = TIMEOUT
) -> str:
    """ "killed", "survived" or "timeout" (which counts as killed: a test that hangs is noticed)."""
    process = multiprocessing.get_context("fork").Process(
        target=_run_tests, args=(name, path, tree, files)
    )
    process.start()
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        process.join()
        return "timeout"
    return "survived" if process.exitcode == 0 else "killed"


def draw(rooms: list[str], sample: int, seed: int) -> list[tuple[str, int]]:
    """(module, position) of `sample` changes, drawn evenly from all that are possible."""
    choices = []
    for name, path in modules().items():
        if name.split(".")[1:2] and name.split(".")[1] in rooms:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            choices += [(name, position) for position, _ in _slots(tree)]
    return random.Random(seed).sample(choices, min(sample, len(choices)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rooms", nargs="+", default=list(ROOMS))
    parser.add_argument("--sample", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", default="1/1", help="which part of the sample, e.g. 1/2")
    parser.add_argument("--no-control", action="store_true", help="no run without a change first")
    parser.add_argument("--out", type=Path, help="JSON with every change and its verdict")
    arguments = parser.parse_args()
    sys.path[:0] = [str(SOURCE.parent)]
    os.chdir(REPOSITORY)
    for name in PRELOADED:
        importlib.import_module(name)
    from cellsignal.models.torchvision_cpu import import_timm

    import_timm()
    for name in [n for n in sys.modules if n.split(".")[0] == "cellsignal"]:
        del sys.modules[name]
    part, parts = (int(number) for number in arguments.part.split("/"))
    drawn = draw(arguments.rooms, arguments.sample, arguments.seed)[part - 1 :: parts]
    controls = [] if arguments.no_control else sorted({name for name, _ in drawn if tests_of(name)})
    for name in controls:
        path = modules()[name]
        unchanged = ast.parse(path.read_text(encoding="utf-8"))
        if survives(name, path, unchanged, tests_of(name), timeout=3600) != "survived":
            print(f"{name}: a test fails without any change; MUTATION_SHOW=1 shows which")
            return 1
    rows = []
    started = time.monotonic()
    for number, (name, position) in enumerate(drawn, 1):
        path = modules()[name]
        tree, line, what = change(ast.parse(path.read_text(encoding="utf-8")), position)
        files = tests_of(name)
        verdict = survives(name, path, tree, files) if files else "untested"
        where = f"{path.relative_to(REPOSITORY)}:{line}"
        rows.append({"where": where, "change": what, "verdict": verdict})
        if verdict not in ("killed", "timeout"):
            print(f"{verdict}: {where}: {what}", flush=True)
        if number % 20 == 0:
            print(f"{number}/{len(drawn)} in {time.monotonic() - started:.0f} s", flush=True)
        if arguments.out:
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(rows, indent=1))
    noticed = sum(row["verdict"] in ("killed", "timeout") for row in rows)
    print(f"{noticed} of {len(rows)} changes are noticed ({noticed / max(len(rows), 1):.0%})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
