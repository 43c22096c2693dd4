"""A tiny release of RxRx1: its CSVs, without images."""

import pandas as pd

# eight treatments in two groups of four, two positive controls, one untreated
K, POSITIVE, NEGATIVE = 8, (8, 9), 10
PLATES = {1: (0, 1, 2, 3), 2: (4, 5, 6, 7)}


def write_release(root, train=("HEPG2-01", "RPE-01"), test=("HEPG2-02", "RPE-02"), text=False):
    """A tiny Kaggle release, and its full truth as a frame of wells."""
    rows = []
    for split, experiments in (("train", train), ("test", test)):
        for experiment in experiments:
            for plate, labels in PLATES.items():
                for column, label in enumerate((*labels, *POSITIVE, NEGATIVE)):
                    role = (
                        "treatment"
                        if label < K
                        else "negative_control"
                        if label == NEGATIVE
                        else "positive_control"
                    )
                    well = f"C{column + 3:02d}"
                    rows.append(
                        (
                            f"{experiment}_{plate}_{well}",
                            experiment,
                            plate,
                            well,
                            label,
                            role,
                            split,
                        )
                    )
    truth = pd.DataFrame(
        rows, columns=["id_code", "experiment", "plate", "well", "sirna", "well_type", "split"]
    )
    shown = truth.copy()
    if text:
        names = [("UNTREATED" if s == NEGATIVE else f"sirna_{s}") for s in shown.sirna]
        shown["sirna"] = pd.Series(names, index=shown.index)
    root.mkdir(parents=True, exist_ok=True)
    place = ["id_code", "experiment", "plate", "well"]
    for split in ("train", "test"):
        part = shown[shown.split == split]
        treated = part[part.well_type == "treatment"]
        treated[place + ["sirna"] * (split == "train")].to_csv(root / f"{split}.csv", index=False)
        controls = part[part.well_type != "treatment"]
        controls[[*place, "sirna", "well_type"]].to_csv(root / f"{split}_controls.csv", index=False)
    sample = shown[(shown.split == "test") & (shown.well_type == "treatment")][["id_code"]]
    sample.assign(sirna="sirna_3" if text else 3).to_csv(
        root / "sample_submission.csv", index=False
    )
    return truth


def write_site_file(root, truth):
    """rxrx.ai's metadata.csv of the same wells."""
    root.mkdir(parents=True, exist_ok=True)
    frames = []
    for site in (1, 2):
        frames.append(
            pd.DataFrame(
                {
                    "site_id": truth.id_code + f"_{site}",
                    "well_id": truth.id_code,
                    "cell_type": truth.experiment.str.split("-").str[0],
                    "dataset": truth.split,
                    "experiment": truth.experiment,
                    "plate": truth.plate,
                    "well": truth.well,
                    "site": site,
                    "well_type": truth.well_type,
                    "sirna": ["EMPTY" if s == NEGATIVE else f"s{21000 + s}" for s in truth.sirna],
                    "sirna_id": truth.sirna,
                }
            )
        )
    pd.concat(frames).sort_values("site_id").to_csv(root / "metadata.csv", index=False)
