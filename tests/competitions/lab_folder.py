"""A small copy of the lab's archive: `bbbc021v1_subset/<mechanism>/bbbc021v1_<n>.png`."""

from pathlib import Path

import cv2
import numpy as np

# as the lab's repository has them; spelt out here, not taken from the source
FOLDERS = {
    "Cholesterol_lowering": "Cholesterol-lowering",
    "DNA_damage": "DNA damage",
    "DNA_replication": "DNA replication",
    "Eg5_inhibitors": "Eg5 inhibitors",
    "Kinase_inhibitors": "Aurora kinase inhibitors",
    "Protein_synthesis": "Protein synthesis",
}
PUBLISHED = {
    "Cholesterol_lowering": 72,
    "DNA_damage": 108,
    "DNA_replication": 96,
    "Eg5_inhibitors": 144,
    "Kinase_inhibitors": 144,
    "Protein_synthesis": 96,
}


def write_lab_folder(root: Path, wells: int = 2, first: int = 0) -> Path:
    """Write `wells` wells of four 256x256 RGB images for each mechanism, numbered on."""
    rng, number = np.random.default_rng(0), first
    for name in FOLDERS:
        folder = root / "bbbc021v1_subset" / name
        folder.mkdir(parents=True)
        for _ in range(4 * wells):
            picture = rng.integers(0, 255, (256, 256, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / f"bbbc021v1_{number}.png"), picture)
            number += 1
    return root / "bbbc021v1_subset"
