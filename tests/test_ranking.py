"""`cellsignal rank`: from the embeddings of a trained run to a submission of rankings, figures, pictures and names for unseen compounds."""

import numpy as np
import pandas as pd
from helpers import cellsignal, error_line

from cellsignal.competitions import get_competition
from cellsignal.prediction.embeddings import load_embeddings


def test_the_gallery_is_ranked_by_cosine_distance(trained, tmp_path, capsys):
    space, competition = trained("mitoreid").copy(tmp_path / "space"), get_competition("mitoreid")
    assert cellsignal("rank", "config.yaml", "--answers", space.answers, "--out", "ranked.csv", cwd=space.folder) == 0
    printed = capsys.readouterr().out
    submission = pd.read_csv(space.folder / "ranked.csv")
    competition.validate_submission(submission, competition.sample_submission(space.root), competition.classes(space.root))
    embeddings = load_embeddings(next(space.run_folder.glob("embeddings/*.npz")))
    values = pd.DataFrame(embeddings.values.astype(float), index=embeddings.samples.sample_id)
    values = values.div(np.linalg.norm(values, axis=1), axis=0)
    for query, ranking in zip(submission.query_id, submission.ranking, strict=True):
        near = 1 - values.loc[ranking.split()].to_numpy() @ values.loc[query].to_numpy()
        assert (np.diff(near) > -1e-6).all()
    score = competition.score(submission, competition.answers(space.answers))
    assert f"{score:.4f}"[:5] in printed and "strict" in printed
    assert {path.stem for path in (space.run_folder / "report").glob("*.png")} >= {"cmc", "reid_tsne", "nearest"}
    unseen = pd.read_csv(space.run_folder / "unseen" / "compounds.csv")
    assert len(unseen) == 2 and set(unseen.moa) <= {*competition.classes(space.root), "DMSO"}


def test_what_asks_for_no_ranking_says_so(trained, capsys):
    assert "bbbc021 does not ask for rankings" in error_line(capsys, "rank", "config.yaml", cwd=trained("bbbc021").folder)
