"""Classify a deal's images: nearest neighbour, discriminant analysis, and position alone."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b

import cv2
import numpy as np
import pandas as pd

from cellsignal.common.ties import draw_one, tied_best
from cellsignal.profiles.image_features import image_features
from cellsignal.studies.oversampling.deals import Deal
from cellsignal.studies.split_audit import fit_discriminant

SIDE = 32  # pixels to which images are shrunk for the nearest neighbour, and of the noise
Predict = Callable[[Deal], np.ndarray]  # the predicted labels of `deal.valid`


def well_positions(samples: pd.DataFrame) -> np.ndarray | None:
    """Read row and column of each well, (N, 2) int, from addresses such as B07 or AF48.

    None where they are written otherwise.
    """
    parts = [re.fullmatch(r"([A-Z]{1,2})(\d{1,2})", well) for well in samples.well]
    if not all(parts):
        return None
    places = []
    for letters, number in (part.groups() for part in parts):
        row = 0
        for letter in letters:
            row = 26 * row + ord(letter) - ord("A") + 1
        places.append((row, int(number)))
    return np.array(places)


def nearest_position(address: np.ndarray, label: np.ndarray, deal: Deal) -> np.ndarray:
    """Predict the most frequent label among the training images of the nearest wells.

    Whatever their plate. Of equally frequent labels one is drawn, with a seed, for each position.
    """
    places, place = np.unique(address[deal.train], axis=0, return_inverse=True)
    names, code = np.unique(label[deal.train], return_inverse=True)
    counts = np.zeros((len(places), len(names)))
    np.add.at(counts, (place.reshape(-1), code), 1)
    queries, back = np.unique(address[deal.valid], axis=0, return_inverse=True)
    distance = ((queries[:, None] - places[None]) ** 2).sum(axis=2)
    nearest = distance == distance.min(axis=1, keepdims=True)
    return names[draw_one(tied_best(nearest @ counts))][back.reshape(-1)]


@dataclass(frozen=True)
class ImageData:
    """What classifiers see.

    Attributes:
        pixels: (N, C x 32 x 32) float32.
        features: (N, F) float32, standardised by plate.
        content: (N,) a hash of each image.
    """

    pixels: np.ndarray
    features: np.ndarray
    content: np.ndarray
    channels: int

    @classmethod
    def of(cls, images: Iterable[np.ndarray], samples: pd.DataFrame) -> "ImageData":
        """Measure images, (C, H, W) uint8, of some samples."""
        small, features, content = [], [], []
        for image in images:
            shrunk = [cv2.resize(c, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for c in image]
            small.append(shrunk)
            features.append(image_features(image))
            content.append(blake2b(np.ascontiguousarray(image), digest_size=8).hexdigest())
        pixels = np.asarray(small, np.float32)
        table = pd.DataFrame(np.asarray(features))
        by_plate = table.groupby([samples.experiment.to_numpy(), samples.plate.to_numpy()])
        sd = by_plate.transform("std", ddof=0) + 1e-6
        standard = ((table - by_plate.transform("mean")) / sd).to_numpy(np.float32)
        return cls(pixels.reshape(len(pixels), -1), standard, np.array(content), pixels.shape[1])


def image_classifiers(data: ImageData, samples: pd.DataFrame, metric: str) -> dict[str, Predict]:
    """Return name -> function that predicts a deal's validation rows from images.

    Args:
        metric: of the nearest neighbour.
    """
    from sklearn.neighbors import KNeighborsClassifier

    label = samples.label.to_numpy(dtype=int)

    def neighbour(deal: Deal) -> np.ndarray:
        # a copy is no nearer than its original
        train, (valid, back) = np.unique(deal.train), np.unique(deal.valid, return_inverse=True)
        model = KNeighborsClassifier(1, algorithm="brute", metric=metric)
        return model.fit(data.pixels[train], label[train]).predict(data.pixels[valid])[back]

    def discriminant(deal: Deal) -> np.ndarray:
        model = fit_discriminant(data.features[deal.train], label[deal.train])
        return model.predict(data.features[deal.valid])

    return {"nearest neighbour": neighbour, "discriminant analysis": discriminant}
