"""A plate with planted faults, from images to the list of what stands out."""

import cv2
import numpy as np
import pandas as pd
import pytest
from site_images import plate_images, plate_samples

from cellsignal.common.errors import ImageError, InputError
from cellsignal.quality.measuring import Images, channel_planes, measure, nuclear_channel
from cellsignal.quality.outliers import Rule
from cellsignal.quality.tables import quality_of
from cellsignal.quality.text import exclusion_table, quality_text, standing_plates

BLURRED, SATURATED, EMPTY = "B03", "C07", "D05"


def damage(image, well):
    if well == BLURRED:
        return np.stack([cv2.GaussianBlur(plane, (0, 0), 4.0) for plane in image])
    if well == SATURATED:
        image = image.copy()
        image[1, 20:40] = 255
    return image


def images_of(stored, samples):
    return Images(
        samples,
        {"dna": 0, "actin": 1},
        stored.__getitem__,
        list(range(len(samples))),
        [str(hash(stored[row].tobytes())) for row in range(len(samples))],
        "a test",
    )


@pytest.fixture(scope="module")
def faulty():
    samples = plate_samples()
    stored = plate_images(samples, cells=lambda well: 2 if well == EMPTY else 9)
    stored = [damage(image, well) for image, well in zip(stored, samples.well, strict=True)]
    return samples, stored


@pytest.fixture(scope="module")
def quality(faulty):
    samples, stored = faulty
    return quality_of(samples, measure(images_of(stored, samples), "dna", 0), Rule())


def test_planted_faults_stand_out_and_nothing_else(quality):
    out = quality.wells[quality.wells.stands_out != ""].set_index("well").stands_out
    assert sorted(out.index) == [BLURRED, SATURATED]
    assert "focus" in out[BLURRED] and "actin saturated z" in out[SATURATED]


def test_few_cells_stand_out_only_if_asked_for(faulty):
    """A toxic treatment is no fault of the microscope."""
    samples, stored = faulty
    measured = measure(images_of(stored, samples), "dna", 0)
    table = quality_of(samples, measured, Rule(by=("cells",))).wells
    assert table.well[table.stands_out != ""].tolist() == [EMPTY]
    cells = table.set_index("well").cells
    assert cells[EMPTY] == 2 and cells.median() == 9


def test_a_saturated_pixel_is_not_enough(faulty):
    """All others have none, so that the MAD is 0 and any z is large: the least difference holds."""
    samples, stored = faulty
    changed = [image.copy() for image in stored]
    changed[0][1, 0, 0] = 255
    out = quality_of(samples, measure(images_of(changed, samples), "dna", 0), Rule()).wells
    assert out.stands_out[out.well == samples.well[0]].item() == ""


def test_the_list_names_wells_and_why(quality):
    listed = exclusion_table(quality, ["wells"])
    assert listed.well.tolist() == [BLURRED, SATURATED]
    assert (listed.reason != "").all()
    assert exclusion_table(quality, ["plates"]).empty  # one plate stands out from no other


def test_the_text_says_the_rule_and_the_wells(quality):
    text = quality_text(quality, "a test", "dna")
    assert "|robust z| of at least 6" in text and "saturated 0.005" in text
    assert "2 of 60 wells stand out" in text and "an estimate" in text
    assert "no plate has both positive and negative controls" in text


def test_a_measured_plate_is_not_read_again_unless_it_changed(faulty, tmp_path):
    samples, stored = faulty
    reads = []

    def read(row):
        reads.append(row)
        return stored[row]

    images = images_of(stored, samples)
    images = Images(samples, images.planes, read, images.items, images.content, images.what)
    first = measure(images, "dna", 0, tmp_path)
    count = len(reads)
    again = measure(images, "dna", 0, tmp_path)
    assert count == len(samples) and len(reads) == count
    assert np.array_equal(first.values, again.values, equal_nan=True)
    content = [*images.content[:-1], "other"]
    measure(
        Images(samples, images.planes, read, images.items, content, "a test"), "dna", 0, tmp_path
    )
    assert len(reads) == 2 * count
    (piece,) = tmp_path.glob("*.npz")
    piece.write_bytes(piece.read_bytes()[:100])
    damaged = measure(images, "dna", 0, tmp_path)
    assert len(reads) == 3 * count and np.array_equal(first.values, damaged.values, equal_nan=True)


def test_a_site_that_cannot_be_read_is_left_out_and_named(faulty):
    samples, stored = faulty

    def read(row):
        if row == 4:
            raise ImageError("plane.png", "corrupt", "is damaged")
        return stored[row]

    images = images_of(stored, samples)
    images = Images(samples, images.planes, read, images.items, images.content, images.what)
    measured = measure(images, "dna", 0)
    assert measured.problems == ((samples.sample_id[4], "plane.png: is damaged"),)
    wells = quality_of(samples, measured, Rule()).wells.set_index("well_id")
    one = wells.loc[samples.well_id[4]]
    assert (one.sites, one.unread) == (1, 1) and np.isfinite(one["dna mean"])
    with pytest.raises(InputError, match="none of the 120 sites can be read"):
        measure(
            Images(samples, images.planes, lambda row: read(4), images.items, images.content, ""),
            "dna",
            0,
        )


def test_a_plate_that_is_out_of_focus_stands_out():
    tables, stored = [], []
    for number in range(13):
        samples = plate_samples(plate=f"p{number}", rows="AB", columns=range(1, 4), sites=1)
        made = plate_images(samples, seed=number)
        if number == 4:
            made = [np.stack([cv2.GaussianBlur(p, (0, 0), 4.0) for p in image]) for image in made]
        tables.append(samples)
        stored += made
    samples = pd.concat(tables, ignore_index=True)
    quality = quality_of(samples, measure(images_of(stored, samples), "dna", 0), Rule())
    assert standing_plates(quality.plates).index.tolist() == [("e", "p4")]
    listed = exclusion_table(quality, ["wells", "plates"])
    assert listed.plate.tolist() == ["p4"] * 6 and listed.reason.str.startswith("plate: ").all()


def test_controls_are_compared_by_plate_and_treatment():
    samples = plate_samples()
    role = np.array(["treatment"] * 60, object)
    role[:8], role[8:12], role[12:16] = "negative_control", "positive_control", "positive_control"
    samples["role"] = np.repeat(role, 2)
    treatment = np.array(["x"] * 60, object)
    treatment[8:12], treatment[12:16] = "toxic", "harmless"
    samples["treatment"] = np.repeat(treatment, 2)
    few = set(samples.well[samples.treatment == "toxic"])
    stored = plate_images(samples, cells=lambda well: 3 if well in few else 9)
    controls = quality_of(samples, measure(images_of(stored, samples), "dna", 0), Rule()).controls
    cells = controls[controls.measure == "cells"].set_index("positive")
    assert cells.index.tolist() == ["all", "harmless", "toxic"]
    assert cells.n_positive.tolist() == [8, 4, 4] and (cells.n_negative == 8).all()
    assert cells.z_prime["toxic"] == 1 and cells.reason["toxic"] == "the controls do not vary"
    assert np.isnan(cells.z_prime["harmless"])
    assert "means of the controls are equal" in cells.reason["harmless"]


def test_channels_of_a_clip_are_measured_in_its_middle_frame():
    names = [f"{stain} t{t:02d}" for stain in ("dna", "tmrm") for t in range(1, 5)]
    assert channel_planes(names, 4) == {"dna": 2, "tmrm": 6}


def test_the_nuclear_channel():
    planes = {"actin": 0, "Hoechst 33342": 1}
    assert nuclear_channel(planes, None) == "Hoechst 33342"
    assert nuclear_channel(planes, "1") == "actin"
    assert nuclear_channel(planes, "none") is None
    assert nuclear_channel({"w1": 0}, None) is None
    with pytest.raises(InputError, match="--nuclei golgi: there is no such channel"):
        nuclear_channel(planes, "golgi")
