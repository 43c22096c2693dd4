"""Checks of the images: equal ones and nearly equal ones on both sides."""

import hashlib

import numpy as np
import pandas as pd

from cellsignal.audit.findings import Finding, first_examples, not_applicable, passed
from cellsignal.audit.parts import Audited, Part
from cellsignal.audit.pictures import Pictures, near_pairs
from cellsignal.data.store import Store

_ADVICE = "keep one of each pair, or deal both to one fold; ask where the copy comes from"


def check_images(audited: Audited, pictures: Pictures | None, left_out: int = 0) -> list[Finding]:
    """Look for images that are, or nearly are, on both sides.

    Args:
        pictures: None without a store.
        left_out: how many images were not looked at for near-duplicates.
    """
    checks = ("identical images", "near-duplicate images")
    if audited.store is None or pictures is None:
        return [not_applicable(check, audited.no_store) for check in checks]
    samples = audited.samples
    content, blank = image_codes(audited.store, samples)
    findings = [_identical_anywhere(samples, content, blank)]
    store_row = samples["row"].to_numpy()
    pairs = near_pairs(pictures, lambda row: audited.store.read(int(store_row[row])))
    equal = content[pairs["first"].astype(int)] == content[pairs["second"].astype(int)]
    pairs = pairs[~equal].reset_index(drop=True)
    for part in audited.parts:
        findings.append(_identical(samples, part, np.where(blank, -1, content)))
        findings.append(_near(samples, part, pairs, left_out))
    return findings


def image_codes(store: Store, samples: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return (N,) int, equal where two samples' pixels are; and (N,) bool, images of one grey.

    The store's checksums name candidates; their pixels are read and compared by SHA-256.
    """
    rows = samples["row"].to_numpy()
    names = pd.Series(store.checksum[rows]).astype(str)
    for position in np.flatnonzero(names.duplicated(keep=False)):
        names.iloc[position] = hashlib.sha256(store.read(int(rows[position]))).hexdigest()
    return pd.factorize(names)[0], (store.sd[rows] == 0).all(axis=1)


def _identical_anywhere(samples: pd.DataFrame, content: np.ndarray, blank: np.ndarray) -> Finding:
    """Say how many images are equal at all: within one side they count twice."""
    check = "copies of images"
    doubled = pd.Series(content).duplicated(keep=False).to_numpy() & ~blank
    if not doubled.any():
        return passed(check, "", f"{len(samples):,} images, no two are equal", int(blank.sum()))
    message = f"{int(doubled.sum())} images equal another sample's image"
    return Finding(
        check,
        "",
        "warn",
        int(doubled.sum()),
        message,
        first_examples(samples.sample_id[doubled]),
        "one picture under two names counts twice: keep one of them",
    )


def _identical(samples: pd.DataFrame, part: Part, content: np.ndarray) -> Finding:
    """Compare contents; -1 is a blank image, which is nobody's copy."""
    check = "identical images"
    train = np.setdiff1d(part.train, part.held)
    owner = {code: row for row, code in zip(train[::-1], content[train[::-1]], strict=True)}
    owner.pop(-1, None)
    held = np.unique(part.held)
    copies = [(row, owner[content[row]]) for row in held if content[row] in owner]
    if not copies:
        return passed(
            check, part.name, f"{len(held):,} held-out images, none equals a training one"
        )
    ids = samples.sample_id
    return Finding(
        check,
        part.name,
        "fail",
        len(copies),
        f"{len(copies)} held-out images equal a training image, pixel by pixel",
        first_examples(f"{ids.iloc[row]} = {ids.iloc[other]}" for row, other in copies[:5]),
        _ADVICE,
    )


def _near(samples: pd.DataFrame, part: Part, pairs: pd.DataFrame, left_out: int) -> Finding:
    check = "near-duplicate images"
    train, held = (np.isin(np.arange(len(samples)), rows) for rows in (part.train, part.held))
    first, second = (pairs[name].to_numpy(int) for name in ("first", "second"))
    across = (train[first] & held[second]) | (held[first] & train[second])
    more = f"; {left_out:,} images were not looked at (--images)" if left_out else ""
    if not across.any():
        return passed(check, part.name, f"no held-out image nearly equals a training one{more}")
    copies = pairs[across].sort_values("correlation", ascending=False)
    ids = samples.sample_id
    words = [
        f"{ids.iloc[int(row['first'])]} ~ {ids.iloc[int(row['second'])]} ({row['correlation']:.2f})"
        for _, row in copies.head(5).iterrows()
    ]
    message = f"{len(copies)} pairs of a held-out and a training image are nearly equal{more}"
    return Finding(check, part.name, "fail", len(copies), message, first_examples(words), _ADVICE)
