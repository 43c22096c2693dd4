"""What README.md and docs/ say: links lead somewhere, commands exist, the first config loads."""

import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from house import REPOSITORY, SOURCE

from cellsignal.cli import build_parser
from cellsignal.competitions import competition_ids, get_competition
from cellsignal.config import load_config

PAGES = sorted(
    [
        REPOSITORY / "README.md",
        *(REPOSITORY / "docs").rglob("*.md"),
        *(REPOSITORY / "kernels").glob("*.md"),
        *(REPOSITORY / "configs").rglob("*.md"),
        *SOURCE.rglob("README.md"),
    ]
)
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def name_of(page):
    return str(page.relative_to(REPOSITORY))


def indented_blocks(text):
    """The code blocks that are indented by four spaces, without the indent."""
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, re.M)
    return [re.sub(r"^    ", "", block, flags=re.M).strip("\n") for block in blocks]


def by_hand():
    """The README's block of commands."""
    (block,) = [b for b in indented_blocks(README) if "cellsignal simulate" in b]
    return [line for line in block.splitlines() if line and not line.startswith("source ")]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert missing == []


@pytest.mark.parametrize("competition_id", competition_ids())
def test_each_competition_has_its_row(competition_id):
    """Docs name its folder and its metric as the code has them."""
    text = (REPOSITORY / "docs" / "competitions.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| \[{competition_id}\]\(\.\./(.*?)\) \|.*\|$", text, re.M)
    competition = get_competition(competition_id)
    folder = Path(inspect.getfile(type(competition))).parent
    assert (REPOSITORY / row).parent == folder
    (line,) = [line for line in text.splitlines() if line.startswith(f"| [{competition_id}]")]
    assert competition.metric in line


def commands_of(text):
    """Every `cellsignal ...` command of a page that names its arguments in full."""
    lines = [line for block in indented_blocks(text) for line in block.splitlines()]
    lines += re.findall(r"`(cellsignal [^`]+)`", text)
    commands = []
    for line in lines:
        line = re.sub(r"\s+#.*", "", line.strip())
        if line.startswith("cellsignal ") and not re.search(r"[\[\]|\\<>]|\.\.\.", line):
            commands.append(line)
    return commands


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_exist(page):
    """The first words of each command are verbs; its options are options of that verb."""
    parser = build_parser()
    for command in commands_of(page.read_text(encoding="utf-8")):
        words = shlex.split(command)[1:]
        subparser = parser
        while words:
            actions = [a for a in subparser._actions if getattr(a, "choices", None)]
            named = [a for a in actions if isinstance(a.choices, dict)]
            if not named or words[0].startswith("-"):
                break
            assert words[0] in named[0].choices, f"{command}: no verb {words[0]!r}"
            subparser = named[0].choices[words.pop(0)]
        options = {word.split("=")[0] for word in words if word.startswith("--")}
        known = {option for action in subparser._actions for option in action.option_strings}
        assert options <= known, f"{command}: no option {sorted(options - known)}"


def test_the_commands_by_hand_parse():
    """Those of `cellsignal`; the `python -m inference` ones are run by the slow test."""
    for line in by_hand():
        if line.startswith("cellsignal "):
            build_parser().parse_args(shlex.split(line)[1:])


def test_the_first_config_loads(tmp_path):
    (block,) = [b for b in indented_blocks(README) if b.startswith("name: first")]
    assert len(block.splitlines()) <= 15
    path = tmp_path / "first.yaml"
    path.write_text(block)
    config = load_config(path)
    assert config.name == yaml.safe_load(block)["name"]
    assert config.stages[0].name == "all"


@pytest.mark.slow
def test_the_commands_by_hand_run_in_small(tmp_path):
    """The README's block as it stands, but for smaller plates and fewer epochs."""
    for name in ("configs", "inference"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    short = "--set stages.all.epochs=1 --set stages.cell_type.epochs=1"
    for line in by_hand():
        line = line.replace("--classes 48", "--classes 8 --size 24 --set controls=2")
        if "demo.yaml" in line:
            line = f"{line} {short}"
        words = shlex.split(line)
        if words[0] == "python":
            words[0] = sys.executable
        else:
            words[:1] = [sys.executable, "-m", "cellsignal"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    board = (tmp_path / "submissions" / "leaderboard.csv").read_text()
    assert "rxrx1_demo" in board
