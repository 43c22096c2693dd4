"""The simulated inputs are what the commands read."""

import cv2
import numpy as np
import pandas as pd
import pytest

from cellsignal.competitions import get_competition
from cellsignal.prediction.container import load_predictions
from cellsignal.studies.memory import simulated


def test_a_png_of_noise_is_read_as_it_was_drawn():
    image = np.random.default_rng(0).integers(0, 256, (7, 16), dtype=np.uint8)
    data = np.frombuffer(simulated.noise_png(image), np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(data, cv2.IMREAD_UNCHANGED), image)


@pytest.mark.slow
def test_the_layout_and_its_predictions_and_images_go_together(tmp_path):
    root = tmp_path / "root"
    wells = simulated.write_layout(root, 0.01)  # an experiment of each cell type and split
    competition = get_competition("rxrx1")
    samples = competition.samples(root)
    assert len(samples) == 2 * len(wells) == 2 * 8 * 4 * (277 + 30 + 1)
    some = wells[wells.plate == 1].groupby("experiment").head(2)
    assert simulated.write_images(root, some) == 2 * 8 * 12
    row = samples[samples.target_id == some.id_code.iloc[0]].iloc[0]
    images = competition.read(root, row.files)
    assert images.shape == (6, 16, 16) and len({image.tobytes() for image in images}) == 6
    simulated.write_predictions(tmp_path / "test.npz", root, wells, "test", 2)
    member = load_predictions(tmp_path / "test.npz")
    assert member.views == ("identity", "rot180")
    assert (member.ids["part"] == "test").all() and len(member.site) == 2 * 4 * 1108
    truth = wells.set_index("id_code").sirna.loc[member.ids["target_id"]].to_numpy()
    assert (member.logits(member.views[0]).argmax(1) == truth).mean() > 0.3


@pytest.mark.slow
def test_profiles_have_three_replicates(tmp_path):
    number = simulated.write_profiles(tmp_path / "wells.csv", 0.001)
    table = pd.read_csv(tmp_path / "wells.csv", low_memory=False)
    assert number == len(table) == 3 * 384
    treated = table[table.Metadata_control_type.isna()]
    assert (treated.Metadata_broad_sample.value_counts() == 3).all()
    assert (treated.groupby("Metadata_moa").Metadata_broad_sample.nunique() <= 3).all()
    assert sum(column.startswith("Cells_") for column in table) == 1000
