"""The house plan, held to by reading the source: which room may import which, what never occurs,
and how large things may grow.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCE = REPOSITORY / "src" / "cellsignal"
MODULES = sorted(SOURCE.rglob("*.py"))

# room -> floor; imports go to the same floor or down
FLOOR = {
    "cellsignal": 0,
    "errors": 0,
    "files": 1,
    "tables": 1,
    "table_text": 1,
    "stopping": 1,
    "images": 1,
    "intensity": 1,
    "fetch": 1,
    "config": 1,
    "folds": 1,
    "simulate": 2,
    "competitions": 2,
    "models": 3,
    "data": 3,
    "training": 4,
    "prediction": 4,
    "evaluation": 4,
    "pipeline": 5,
    "report": 5,
    "bench": 5,
    "ranking": 5,
    "baseline": 5,
    "ties": 1,
    "profiling": 5,
    "profile_tables": 5,
    "profile_steps": 5,
    "kernels": 6,
    "cloud": 6,
    "verbs": 6,
    "cli": 7,
    "__main__": 7,
}
TORCH = {"torch", "torchvision", "timm", "safetensors", "tensorboard"}
WITHOUT_TORCH = (
    "evaluation",
    "competitions",
    "simulate",
    "config",
    "images",
    "intensity",
    "fetch",
    "files",
    "tables",
    "table_text",
    "folds",
    "errors",
    "cli",
    "verbs",
    "pipeline",
    "ties",
    "profiling",
    "profile_tables",
    "profile_steps",
)
TORCH_ROOMS = ("training", "models")


def name_of(path: Path) -> str:
    return ".".join(("cellsignal", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(
        ".__init__"
    )


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def imports(path: Path, everywhere: bool = True) -> set[str]:
    """The modules a file imports; with `everywhere` also those imported inside functions, never
    those for type checking alone.
    """
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if not everywhere and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(name if name in KNOWN else node.module for name in inside)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


KNOWN = {name_of(path) for path in MODULES}


def test_the_map_of_rooms_is_complete():
    assert {room_of(name) for name in KNOWN} <= set(FLOOR)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down(path):
    mine = room_of(name_of(path))
    up = [
        name
        for name in imports(path)
        if name.split(".")[0] == "cellsignal" and FLOOR[room_of(name)] > FLOOR[mine]
    ]
    assert not up, f"{name_of(path)} (floor {FLOOR[mine]}) imports {up}"


def test_modules_import_each_other_in_no_circle():
    """At import time; what a function imports when called may point back."""
    graph = {
        name_of(path): {name for name in imports(path, everywhere=False) if name in KNOWN}
        for path in MODULES
    }
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for other in graph[name]:
                walk(other, (*trail, name))
            done.add(name)

    for name in graph:
        walk(name, ())


@pytest.mark.parametrize(
    "path", [p for p in MODULES if room_of(name_of(p)) in WITHOUT_TORCH], ids=name_of
)
def test_rooms_without_torch_name_it_nowhere(path):
    found = imports(path, everywhere=room_of(name_of(path)) not in ("cli", "verbs", "pipeline"))
    assert not {name.split(".")[0] for name in found} & TORCH
    assert not [
        name for name in found if name.startswith("cellsignal.") and room_of(name) in TORCH_ROOMS
    ]


def test_reading_simulating_and_scoring_load_no_torch():
    names = [
        name_of(p)
        for p in MODULES
        if room_of(name_of(p)) in ("competitions", "evaluation", "simulate", "config")
    ]
    program = f"""
import contextlib, importlib, io, sys
for name in {names!r}:
    importlib.import_module(name)
from cellsignal.cli import main
for words in (["score", "--help"], ["--help"], ["competitions"]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main(words)
    assert out.getvalue()
print(sorted({{name.split(".")[0] for name in sys.modules}} & {TORCH!r}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_scoring_loads_no_torch(prepared, tmp_path):
    space = prepared("rxrx1")
    program = f"""
import sys
from cellsignal.cli import main
assert main(["score", {str(space.root / "sample_submission.csv")!r}, "--answers", {str(space.answers)!r}, "--root", {str(space.root)!r}]) == 0
print("torch" in sys.modules, file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == "False", done.stderr


FORBIDDEN = {
    "pickle": re.compile(
        r"pickle\.(loads?|dumps?|Unpickler|Pickler)\b|from pickle import|^\s*(import|from) (dill|joblib|cloudpickle)\b",
        re.M,
    ),
    "allow_pickle": re.compile(r"allow_pickle\s*=\s*True|read_pickle|to_pickle"),
    "eval or exec": re.compile(r"(?<![\w.])(eval|exec)\("),
    "weights_only=False": re.compile(r"weights_only\s*=\s*False"),
    "unsafe yaml": re.compile(r"yaml\.(load|unsafe_load|full_load)\("),
    "shell": re.compile(r"shell\s*=\s*True|os\.system\("),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_that_runs_what_it_reads(what):
    assert [
        name_of(path)
        for path in MODULES
        if FORBIDDEN[what].search(path.read_text(encoding="utf-8"))
    ] == []


def test_every_checkpoint_is_read_with_weights_only():
    calls = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                calls.append(name_of(path))
                assert {k.arg: ast.unparse(k.value) for k in node.keywords}.get(
                    "weights_only"
                ) == "True", f"{path}: line {node.lineno}"
    assert calls


def test_one_module_knows_albumentations():
    users = [
        name_of(path)
        for path in MODULES
        if any(name.split(".")[0] == "albumentations" for name in imports(path))
    ]
    assert users == ["cellsignal.data.transforms"]


def test_the_numbers_of_rxrx1_stand_in_its_folder_alone():
    """As numbers, not in prose: 1108 classes, 277 a group, 1138 with the positive controls, 1139
    with all.
    """
    found = []
    for path in MODULES:
        for token in tokenize.generate_tokens(
            io.StringIO(path.read_text(encoding="utf-8")).readline
        ):
            if token.type == tokenize.NUMBER and token.string.replace("_", "") in {
                "1108",
                "277",
                "1138",
                "1139",
            }:
                found.append(path)
    assert found and all(
        path.is_relative_to(SOURCE / "competitions" / "rxrx1") for path in found
    ), found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_are_short_and_say_why_they_exist(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 480
    assert ast.get_docstring(ast.parse(text)), f"{path}: no docstring"


TABLE_READERS = {
    "cellsignal.table_text": "reads the text of every table",
    "cellsignal.tables": "reads the sheets of workbooks",
    "cellsignal.data.store": "reads the samples table of a store, written by `samples_text` and held to its hash",
    "cellsignal.report": "reads histories that training wrote",
}


def test_one_reader_of_tables():
    """Nobody else calls what reads CSV or Excel: tables of people and other programs are read by
    one rule.
    """
    readers = re.compile(
        r"(^|\.)(read_csv|read_table|read_excel|ExcelFile|load_workbook)$|^csv\.(reader|DictReader)$|\.read_fwf$"
    )
    found = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and readers.search(ast.unparse(node.func))
                and ast.unparse(node.func) != "read_table"
            ):
                found.add(name_of(path))
    assert found == set(TABLE_READERS)


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "inference").glob("*.py")), ids=lambda p: p.stem
)
def test_inference_is_thin(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 30


def test_no_place_of_one_machine_is_named():
    """Absolute paths of a home, work or temporary folder, in whatever git holds (in the sources
    alone where there is no git).
    """
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True)
    names = (
        listed.stdout.splitlines()
        if listed.returncode == 0
        else [str(p.relative_to(REPOSITORY)) for p in MODULES]
    )
    machine = re.compile(r"(?<![\w.~}-])/(work|tmp|home|root|Users|mnt|private)/\w")
    found = []
    for path in (REPOSITORY / name for name in names):
        if path.is_file() and path.suffix in {
            ".py",
            ".md",
            ".yaml",
            ".yml",
            ".toml",
            ".txt",
            ".csv",
            ".json",
            ".sh",
            ".cfg",
            "",
        }:
            text = path.read_text(encoding="utf-8", errors="replace")
            found += [f"{path.name}: {match.group()}" for match in machine.finditer(text)]
    assert found == []


@pytest.mark.parametrize("where", ["repository", "elsewhere"])
def test_entry_points_start_anywhere(where, tmp_path, monkeypatch):
    """`python -m inference.*` from the repository root, and from another folder by PYTHONPATH."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if where == "elsewhere":
        monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    cwd = REPOSITORY if where == "repository" else tmp_path
    for module, word in (
        ("inference.make_submission", "--weight"),
        ("inference.predict", "--seeds"),
        ("inference.score", "--answers"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", module, "--help"], cwd=cwd, capture_output=True, text=True
        )
        assert done.returncode == 0 and word in done.stdout, (module, done.stderr)
