"""Figures of the source itself: modules, lines, long functions, circles, upward imports.

    python tests/house.py [SOURCE]

`test_architecture.py` holds the rules by the same functions.
"""

import ast
import functools
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCE = REPOSITORY / "src" / "cellsignal"

# room -> floor; a module imports from its own floor or lower ones
FLOOR = {
    "cellsignal": 0,
    "common": 0,
    "fetch": 1,
    "config": 1,
    "simulation": 1,
    "images": 1,
    "metrics": 1,
    "competitions": 2,
    "models": 3,
    "data": 3,
    "evaluation": 3,
    "training": 4,
    "prediction": 4,
    "profiles": 4,
    "quality": 4,
    "baselines": 4,
    "report": 5,
    "audit": 5,
    "export": 5,
    "pipeline": 6,
    "studies": 6,
    "tuning": 6,
    "kaggle": 6,
    "cloud": 6,
    "commands": 7,
    "cli": 7,
    "__main__": 8,
}


def modules(source: Path = SOURCE) -> dict[str, Path]:
    """Dotted names of all modules, with their files."""
    names = {}
    for path in sorted(source.rglob("*.py")):
        parts = ("cellsignal", *path.relative_to(source).with_suffix("").parts)
        names[".".join(parts).removesuffix(".__init__")] = path
    return names


def room_of(module: str) -> str:
    """The folder or file right below `cellsignal` that a module lies in.

    The `commands` of every room, and the list of the studies' `parsers`, are a part of the command
    line, and stand on a floor of their own.
    """
    if module.endswith((".commands", ".parsers")):
        return "commands"
    return module.split(".")[1] if "." in module else module


def imports(path: Path, known: set[str], at_import_time: bool = False) -> set[str]:
    """The modules that a file imports.

    Imports inside functions and for type checking count, unless `at_import_time`.
    """
    pairs = (
        (module, name) for _, module, name, early in statements(path) if early or not at_import_time
    )
    full = ((module, f"{module}.{name}") for module, name in pairs)
    return {name if name in known else module for module, name in full}


@functools.cache
def statements(path: Path) -> list[tuple[int, str, str | None, bool]]:
    """The import statements of a file, read once: line, module, the name imported from it (None for
    the module itself), and whether it runs when the file is imported.
    """
    found = []

    def visit(node: ast.AST, early: bool) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ):
            early = False
        elif isinstance(node, ast.Import):
            found.extend((node.lineno, alias.name, None, early) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            found.extend((node.lineno, str(node.module), a.name, early) for a in node.names)
        if not isinstance(node, ast.expr):  # holds no statement
            for child in ast.iter_child_nodes(node):
                visit(child, early)

    visit(ast.parse(path.read_text(encoding="utf-8")), True)
    return found


def import_graph(source: Path = SOURCE) -> dict[str, set[str]]:
    """Module -> the modules of this package that it imports, lazy imports included."""
    paths = modules(source)
    known = set(paths)
    return {name: imports(path, known) & known - {name} for name, path in paths.items()}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other (strongly connected components of two or more)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = []
            while not group or group[-1] != name:
                group.append(stack.pop())
            if len(group) > 1:
                groups.append(sorted(group))

    for name in graph:
        if name not in index:
            visit(name)
    return groups


def upward_imports(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Pairs (module, imported) in which the imported one lies on a higher floor."""
    return [
        (name, other)
        for name, others in graph.items()
        for other in sorted(others)
        if FLOOR.get(room_of(other), 9) > FLOOR.get(room_of(name), 9)
    ]


def long_functions(source: Path = SOURCE, limit: int = 50) -> list[tuple[str, str, int]]:
    """Functions of more than `limit` lines: module, name, lines."""
    rows = []
    for name, path in modules(source).items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > limit:
                    rows.append((name, node.name, lines))
    return rows


def line_count(path: Path) -> int:
    """Lines of a file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def figures(source: Path = SOURCE) -> dict[str, int]:
    """What the table in docs/architecture.md shows."""
    paths = modules(source)
    graph = import_graph(source)
    text = "\n".join(path.read_text(encoding="utf-8") for path in paths.values())
    return {
        "modules": len(paths),
        "lines": sum(line_count(path) for path in paths.values()),
        "longest module": max(line_count(path) for path in paths.values()),
        "modules over 300 lines": sum(line_count(path) > 300 for path in paths.values()),
        "functions over 50 lines": len(long_functions(source)),
        "circles": len(circles(graph)),
        "upward imports": len(upward_imports(graph)),
        "files at the root": len(list(source.glob("*.py"))),
        "fmt: skip": text.count("fmt: " + "skip"),
    }


if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCE
    for what, number in figures(where).items():
        print(f"{what:26}{number:7,}")
    for group in circles(import_graph(where)):
        print("circle:", ", ".join(group))
    for low, high in upward_imports(import_graph(where)):
        print(f"upward: {low} -> {high}")
