"""Small copies of RxRx1's three published archives, tables and images, with the same pixels."""

import cv2
import numpy as np
import pandas as pd
from rxrx1_release import write_release, write_site_file

TRAIN, TEST = ("HEPG2-01", "RPE-01"), ("HEPG2-02", "HEPG2-03", "RPE-02", "RPE-03")
VALIDATION = ("HEPG2-02", "RPE-02")  # WILDS': the first test experiment of each cell type
SIDE = 16


def write_archives(folder):
    """Write `kaggle/`, `rxrx_ai/rxrx1/` and `wilds/rxrx1_v1.0/`; return the truth by well."""
    kaggle, rxrx_ai = folder / "kaggle", folder / "rxrx_ai" / "rxrx1"
    wilds = folder / "wilds" / "rxrx1_v1.0"
    truth = write_release(kaggle, train=TRAIN, test=TEST)
    (kaggle / "pixel_stats.csv").write_text("id_code,site,channel,mean,std\n")
    write_site_file(rxrx_ai, truth)
    write_site_file(wilds, truth)
    table = pd.read_csv(wilds / "metadata.csv")
    table.loc[table.experiment.isin(VALIDATION), "dataset"] = "val"
    table.to_csv(wilds / "metadata.csv", index=False)
    (wilds / "RELEASE_v1.0.txt").touch()
    rng = np.random.default_rng(0)
    for well in truth.itertuples():
        place = f"{well.experiment}/Plate{well.plate}"
        homes = [kaggle / well.split / place, rxrx_ai / "images" / place, wilds / "images" / place]
        for home in homes:
            home.mkdir(parents=True, exist_ok=True)
        for site in (1, 2):
            image = rng.integers(0, 255, (6, SIDE, SIDE), dtype=np.uint8)
            stem = f"{well.well}_s{site}"
            for home in homes[:2]:
                for channel, plane in enumerate(image, start=1):
                    cv2.imwrite(str(home / f"{stem}_w{channel}.png"), plane)
            blue_first = np.stack([image[2], image[1], image[0]], axis=-1)  # cv2's order
            cv2.imwrite(str(homes[2] / f"{stem}.png"), blue_first)
    return truth
