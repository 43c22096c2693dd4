"""The house plan, held to by reading the source: which room may import which, what never occurs,
and how large things may grow.
"""

import ast
import functools
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pandas as pd
import pytest
from house import (
    FLOOR,
    REPOSITORY,
    SOURCE,
    circles,
    import_graph,
    imports,
    long_functions,
    modules,
    room_of,
    statements,
    upward_imports,
)

MODULES = list(modules().values())
KNOWN = set(modules())

TORCH = {"torch", "torchvision", "timm", "safetensors", "tensorboard"}
WITHOUT_TORCH = (
    "common",
    "fetch",
    "config",
    "simulation",
    "images",
    "competitions",
    "evaluation",
    "profiles",
    "quality",
    "baselines",
    "cli",
    "commands",
    "pipeline",
)
# they import what needs torch inside the function that needs it
LAZY = ("cli", "commands", "pipeline", "profiles", "baselines")
TORCH_ROOMS = ("training", "models")
# whatever may import from the source
READERS = [
    path
    for folder in (SOURCE, REPOSITORY / "tests", REPOSITORY / "inference")
    for path in sorted(folder.rglob("*.py"))
]


def name_of(path: Path) -> str:
    parts = ("cellsignal", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


def test_the_map_of_rooms_is_complete():
    assert {room_of(name) for name in KNOWN} <= set(FLOOR)


def test_imports_go_down():
    """Imports inside functions and for type checking count."""
    assert upward_imports(import_graph()) == []


def test_modules_import_each_other_in_no_circle():
    """Imports inside functions and for type checking count."""
    assert circles(import_graph()) == []


@pytest.mark.parametrize(
    "path", [p for p in MODULES if room_of(name_of(p)) in WITHOUT_TORCH], ids=name_of
)
def test_rooms_without_torch_name_it_nowhere(path):
    names = imports(path, KNOWN, at_import_time=room_of(name_of(path)) in LAZY)
    assert not {name.split(".")[0] for name in names} & TORCH
    assert not [n for n in names if n.startswith("cellsignal.") and room_of(n) in TORCH_ROOMS]


def test_reading_simulating_and_scoring_load_no_torch():
    names = [
        name_of(p)
        for p in MODULES
        if room_of(name_of(p)) in ("competitions", "evaluation", "simulation", "config")
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


@functools.cache
def names_in(path: Path) -> set[str]:
    """Names that a module defines or imports at its top level, also below `if`, `try` or `with`."""
    names: set[str] = set()
    pending = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        pending += ast.iter_child_nodes(node)
    return names


def unresolved_imports(path: Path, known: dict[str, Path], defined: dict[str, set[str]]) -> list:
    """Imports of this package, also inside functions, of modules or names that do not exist."""
    return [
        f"{path.name}: line {line}: {module}: {name}"
        for line, module, name, _ in statements(path)
        if module.split(".")[0] == "cellsignal"
        and f"{module}.{name}" not in known
        and (module not in known or (name is not None and name not in defined[module]))
    ]


def test_every_imported_name_exists():
    """By reading the source: an import inside a function is else seen only when it runs."""
    known = modules()
    defined = {name: names_in(path) for name, path in known.items()}
    assert [line for path in READERS for line in unresolved_imports(path, known, defined)] == []


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("from cellsignal.common.files import write_csv", 0),
        ("from cellsignal.common import files", 0),
        ("def f():\n    from cellsignal.common.files import write_cvs", 1),
        ("def f():\n    from cellsignal.common.flies import write_csv", 1),
        ("import cellsignal.common.flies", 1),
        ("from cellsignal.data.feed import np, nothing", 1),
    ],
)
def test_an_import_of_what_is_not_there_is_seen(text, missing, tmp_path):
    path = tmp_path / "module.py"
    path.write_text(text)
    known = modules()
    defined = {name: names_in(known[name]) for name in known}
    assert len(unresolved_imports(path, known, defined)) == missing


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
        text = path.read_text(encoding="utf-8")
        if "torch" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
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
        if any(name.split(".")[0] == "albumentations" for name in imports(path, KNOWN))
    ]
    assert users == ["cellsignal.config.augment"]


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


def test_no_text_is_cut_on_its_way_to_numpy():
    """pandas' `to_numpy(str)` cuts names to one letter where a value is missing."""
    cut = pd.Series([None, "HUVEC-01"], dtype="str").to_numpy(object).astype(str)
    assert cut.tolist()[1] == "HUVEC-01"
    found = [
        path
        for path in MODULES
        if re.search(r"to_numpy\((dtype=)?(np\.)?str_?\)", path.read_text())
    ]
    assert not found, "write .to_numpy(object).astype(str)"


LONGEST = {"cellsignal.training.trainer": 450}  # lines, where one story needs more than 300


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_are_short_and_say_why_they_exist(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST.get(name_of(path), 300)
    assert ast.get_docstring(ast.parse(text)), f"{path}: no docstring"


def test_functions_are_short():
    """No more than 50 lines, signature and docstring included."""
    assert long_functions() == []


TABLE_READERS = {
    "cellsignal.common.table_text": "reads the text of every table",
    "cellsignal.common.tables": "reads the sheets of workbooks",
    "cellsignal.data.pack_report": "reads what a store left out, written there and held to its hash",
    "cellsignal.data.store_files": "reads the samples table of a store, written by `samples_text` and held to its hash",
    "cellsignal.report.run_report": "reads histories that training wrote",
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
