"""A small copy of the bootcamp project's folder of idr0088: pictures by image id and one CSV."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

# drug -> its group in the table, "" where none is known
DRUGS = {
    **{f"agonist {n}": "GPCR agonist" for n in range(5)},
    **{f"kinase {n}": "Kinase inhibitor" for n in range(5)},
    "blocker 1": "Chanel blocker",
    "blocker 2": "Channel blocker",
    "blocker 3": "Channel blocker",
    "rare 1": "Microbicide",
    "Huperzine A": "",
    "riddle": "",
    "DMSO": "",
}
FIRST, EACH = 11_340_525, 3  # images of a drug, with consecutive ids


def write_bootcamp_folder(root: Path, side: int = 24) -> pd.DataFrame:
    """Write `df_image_MoA.csv` and `raw_images/`; return the table."""
    rng = np.random.default_rng(0)
    (root / "raw_images").mkdir(parents=True)
    rows = []
    for number, (drug, group) in enumerate(DRUGS.items()):
        for image in range(FIRST + EACH * number, FIRST + EACH * (number + 1)):
            rows.append((f" {image}", drug, group, drug if group else ""))
            picture = rng.integers(0, 255, (side, side, 3), dtype=np.uint8)
            jpeg = cv2.imencode(".jpg", picture)[1].tobytes()  # as IDR sends it
            (root / "raw_images" / f"{image}.png").write_bytes(jpeg)
    table = pd.DataFrame(rows, columns=["Image", "Drug", "Compound MoA", "Compound Name"])
    table.to_csv(root / "df_image_MoA.csv")
    return table
