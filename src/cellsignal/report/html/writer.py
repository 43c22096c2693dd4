"""Write the report of one or several runs as one HTML file."""

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.common.files import git_commit, limited_name
from cellsignal.config.options import RUNS
from cellsignal.report.html.comparison import comparison
from cellsignal.report.html.page import Section, escape, section_html, write_page
from cellsignal.report.html.sections.registry import make_sections
from cellsignal.report.html.view import RunView

NAME = "report.html"


def write_html_report(
    words: Sequence[str], answers_file: Path | None = None, out: Path | None = None
) -> Path:
    """Write the report of runs and submissions; return its path.

    Args:
        words: names of runs, their configs or folders, or submissions (.csv).
        answers_file: true test labels, which no model sees: the test score is then shown.
        out: the file; by default it lies with the run, or in the folder of runs if there are
            several.

    Raises:
        InputError: no such run, runs of different competitions, or answers that cannot be read.
    """
    views = [RunView.open(word, answers_file) for word in dict.fromkeys(words)]
    ids = sorted({view.competition.id for view in views})
    if len(ids) > 1:
        raise InputError(f"report: runs of different competitions: {', '.join(ids)}")
    if answers_file is not None:
        views[0].competition.answers(answers_file)  # refused now if unreadable
    title = " beside ".join(view.title for view in views)
    lead = f"{views[0].competition.title}; as of {datetime.now(UTC):%Y-%m-%d %H:%M} UTC."
    if any(view.is_running for view in views):
        lead += " The run is going on."
    sections = make_sections(views[0])
    if len(views) > 1:
        sections = [comparison(views), *map(_one_of_several, views, range(len(views)))]
    commit = git_commit()
    given = [] if answers_file is None else ["--answers", str(answers_file)]
    made = f"Made by `{shlex.join(['cellsignal', 'report', *words, *given])}`"
    made += f", commit {commit[:12]}." if commit else "."
    return write_page(out or _default_path(views), title, lead, sections, made)


def _one_of_several(view: RunView, number: int) -> Section:
    """Return all sections of a run as one, folded."""
    parts = make_sections(view, prefix=f"run{number + 1}-")
    inner = "".join(section_html(part, level=3) for part in parts)
    content = (
        f'<details class="run"><summary>All about {escape(view.title)}</summary>{inner}</details>'
    )
    return Section(view.title, content, f"run{number + 1}")


def _default_path(views: Sequence[RunView]) -> Path:
    first = views[0]
    if len(views) > 1:
        name = limited_name("+".join(view.title for view in views))
        return RUNS / f"report_{name}.html"
    if first.record is not None:
        return Path(first.word).with_suffix(".html")
    if len(first.configs) == 1:
        return first.config.run_folder / "report" / NAME
    return first.config.run_folder.parent / NAME
