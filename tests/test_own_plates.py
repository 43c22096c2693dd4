"""docs/own_plates.md, read as a new user would: every command of it, one after the other."""

import os
import re
import subprocess
import sys

import pytest
from house import REPOSITORY

PAGE = (REPOSITORY / "docs" / "own_plates.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_page_leads_from_a_folder_to_a_leaderboard(tmp_path):
    (config,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
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
