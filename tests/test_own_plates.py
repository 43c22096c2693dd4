"""docs/own_plates.md, read as a new user would: every command of it, one after the other."""

import os
import re
import subprocess
import sys

import pandas as pd
import pytest
from house import REPOSITORY

from cellsignal.competitions import get_competition

PAGE = (REPOSITORY / "docs" / "own_plates.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def test_the_example_of_a_sheet_is_one(simulated, tmp_path):
    """The description of the page reads a sheet with the columns that the page names."""
    source = simulated("plates")
    table = pd.read_csv(source / "platemaps.csv", dtype=str, keep_default_na=False)
    table = table[table.role != "test"].replace({"role": {"dmso": "vehicle"}})
    table = table[["plate", "well", "compound", "moa", "role", "week"]]
    table.columns = ["Plate ID", "Well position", "Drug", "Mechanism", "Content type", "Run"]
    assert f"columns {', '.join(table)[:-5]} and Run" in PAGE
    for row in table.itertuples():
        for channel in "123":
            path = tmp_path / row[1] / "TimePoint_1" / f"x_{row[2]}_s1_w{channel}A1B2.TIF"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    table.to_excel(tmp_path / "compound_layout.xlsx", index=False)
    (tmp_path / "plates.yaml").write_text(EXAMPLES[0])
    samples = get_competition("plates").samples(tmp_path)
    assert len(samples) == len(table) and set(samples.role) == {"treatment", "negative_control"}
    assert get_competition("plates").notes(tmp_path) == ()


@pytest.mark.slow
def test_the_page_leads_from_a_folder_to_a_leaderboard(tmp_path):
    _, config = EXAMPLES
    (tmp_path / "my_plates.yaml").write_text(config)
    commands = "".join(re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL))
    assert commands.count("cellsignal ") == 8
    script = f'set -e\ncellsignal() {{ "{sys.executable}" -m cellsignal "$@"; }}\n{commands}'
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "188 sites of 94 wells on 3 plates, 2 batches" in done.stdout
    assert "0 errors, 0 warnings" in done.stdout and "left out: nothing" in done.stdout
    assert "5 labels, 18 to 18 wells each" in done.stdout, "several labels a well"
    assert "my_plates" in done.stdout[done.stdout.rindex("rank  name") :]
    for name in ("runs/my_samples.csv", "runs/my_plates.png", "submissions/my_plates.csv"):
        assert (tmp_path / name).stat().st_size > 0
