"""List the sections of a run's report, in their order."""

from collections.abc import Callable, Sequence

from cellsignal.common.errors import InputError
from cellsignal.report.html.page import Section
from cellsignal.report.html.sections.classified import classified
from cellsignal.report.html.sections.confusions import confusions
from cellsignal.report.html.sections.embedding_maps import embedding_maps
from cellsignal.report.html.sections.extremes import extremes
from cellsignal.report.html.sections.leaderboard import leaderboard
from cellsignal.report.html.sections.made_of import made_of
from cellsignal.report.html.sections.plates import plates
from cellsignal.report.html.sections.reliability import reliability
from cellsignal.report.html.sections.results_files import audit, baselines, quality
from cellsignal.report.html.sections.slices import slices
from cellsignal.report.html.sections.steps import steps
from cellsignal.report.html.sections.summary import summary
from cellsignal.report.html.sections.training import training
from cellsignal.report.html.view import RunView

MakeHtml = Callable[[RunView], str | None]
SECTIONS: tuple[tuple[str, str, MakeHtml], ...] = (  # title, anchor, what makes its HTML
    ("Summary", "summary", summary),
    ("Baselines", "baselines", baselines),
    ("Leaderboard", "leaderboard", leaderboard),
    ("Learning curves", "training", training),
    ("What each step adds", "steps", steps),
    ("Where it is right and wrong", "slices", slices),
    ("Plates and positions", "plates", plates),
    ("What is confused with what", "confusion", confusions),
    ("Can its confidence be believed?", "reliability", reliability),
    ("Best and worst wells", "extremes", extremes),
    ("Embeddings, classified", "classified", classified),
    ("Map of the embeddings", "embeddings", embedding_maps),
    ("Leak audit", "audit", audit),
    ("Plate quality", "quality", quality),
    ("What the run was made of", "made-of", made_of),
)


def make_sections(
    view: RunView,
    makers: Sequence[tuple[str, str, MakeHtml]] = SECTIONS,
    prefix: str = "",
) -> list[Section]:
    """Return the sections that apply to a run; those that lack something are one line.

    Args:
        prefix: of the anchors, where several runs stand on one page.
    """
    made = []
    for title, anchor, make in makers:
        anchor = f"{prefix}{anchor}"
        try:
            content = make(view)
        except InputError as error:
            made.append(Section(title, "", anchor, note=str(error)))
            continue
        if content is not None:
            made.append(Section(title, content, anchor))
    return made
