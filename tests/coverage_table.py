"""Lines of each room that the tests execute, from slipcover's JSON file.

    python tests/coverage_table.py .coverage.json

Lines that only run in processes of their own (`python -m cellsignal` as a subprocess) do not count.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

from house import SOURCE


def table(files: dict[str, dict]) -> list[str]:
    """One line for each room, the least covered first, and one for all of them."""
    covered, lines = defaultdict(int), defaultdict(int)
    for name, file in files.items():
        parts = Path(name).resolve().relative_to(SOURCE).parts
        for key in (parts[0] if len(parts) > 1 else "root", "all"):
            covered[key] += len(file["executed_lines"])
            lines[key] += len(file["executed_lines"]) + len(file["missing_lines"])
    share = {key: covered[key] / lines[key] for key in lines if lines[key]}
    order = sorted(share, key=lambda key: (key == "all", share[key]))
    return [f"{key:<14} {lines[key]:>7,} lines {100 * share[key]:5.1f} %" for key in order]


if __name__ == "__main__":
    print("\nlines executed by the tests")
    print("\n".join(table(json.loads(Path(sys.argv[1]).read_text())["files"])))
