"""Small drawn plates for tests: nuclei as disks in the first channel, texture in the second."""

import numpy as np
import pandas as pd

SIDE = 72


def plate_samples(experiment="e", plate="p", rows="BCDEFG", columns=range(2, 12), sites=2):
    """A samples table of one plate, by default the inner 60 of 96 wells with two sites each."""
    records = [
        (f"{row}{column:02d}", site)
        for row in rows
        for column in columns
        for site in range(1, sites + 1)
    ]
    frame = pd.DataFrame(records, columns=["well", "site"])
    frame["well_id"] = f"{experiment}_{plate}_" + frame.well
    frame["sample_id"] = frame.well_id + "_s" + frame.site.astype(str)
    constant = {"experiment": experiment, "plate": plate, "cell_type": "U2OS", "role": "treatment"}
    return frame.assign(target_id=frame.well_id, treatment="x", split="train", **constant)


def plate_images(samples, cells=lambda well: 9, seed=0):
    """(2, SIDE, SIDE) uint8 for each row; `cells` gives the number of nuclei of a well."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    images = []
    for well in samples.well:
        dna = np.full((SIDE, SIDE), 15.0)
        for place in rng.permutation(9)[: cells(well)]:
            top, left = 12 + 24 * np.array(divmod(place, 3)) + rng.integers(-3, 4, 2)
            dna[(y - top) ** 2 + (x - left) ** 2 <= rng.integers(20, 40)] = 120
        actin = 60 + 25 * np.sin(x / 2 + rng.uniform(0, 6)) * np.sin(y / 2)
        noisy = np.stack([dna, actin]) + rng.normal(0, 3, (2, SIDE, SIDE))
        images.append(np.clip(np.rint(noisy), 0, 254).astype(np.uint8))
    return images
