"""Make tracks of single cells, as MitoReID has them, of the microscope's fields.

The published data are tracks already. To make tracks of a screen of your own, with fields
`{drug}/{drug}_{time}_{w1|w2|w3}.tif` at 16 times, call `process.process(root, out, library, part)`.
It follows the published steps (Li et al., Nat Comput Sci 2024), a module each: `fields` (reading,
background, blurred frames), `segment` (cells), `tracks` (the same cell through time, and its
pictures). `Settings` holds the published values.
"""

from dataclasses import dataclass, replace

from cellsignal.common.errors import InputError
from cellsignal.competitions.mitoreid.images import FRAMES, STAINS

# which shows the nuclei; which is judged for blur and shows the cells
NUCLEUS, CELL = STAINS.index("w1"), STAINS.index("w2")
METHODS = ("scikit-image", "cellpose")


@dataclass(frozen=True)
class Settings:
    """The published values for fields of 2048 x 2048 pixels; see `scaled` for smaller fields.

    Attributes:
        frames: time points of a track.
        white: the count that becomes 255 of a 16-bit plane. The published pictures kept the high
            byte: 65535. For a 12-bit camera 4095.
        blur_ratio: a frame whose sharpness is more than this many times above or below the field's
            median is bad.
        most_bad: so many bad frames are replaced by their neighbours; with more the field is
            dropped.
        method: of the segmentation, one of `METHODS`.
        diameter: of a cell, in pixels.
        least_area: cells of at most this share of a frame's mean area are dropped.
        most_nucleus: cells whose nucleus is in the first frame more than this many times as bright
            as the mean are dead, and dropped.
        reach: how far a cell may move between two frames, in pixels.
        side: most pixels of a side of a crop.
        softening: side of the box that blurs the edge of a cell's mask, in pixels, odd.
    """

    frames: int = FRAMES
    white: int = 65535
    blur_ratio: float = 3.0
    most_bad: int = 2
    method: str = "scikit-image"
    diameter: float = 300.0
    least_area: float = 1 / 3
    most_nucleus: float = 3.0
    reach: float = 150.0
    side: int = 512
    softening: int = 11

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"method: {self.method!r} is not one of {', '.join(METHODS)}")
        for name in ("frames", "white", "blur_ratio", "diameter", "most_nucleus", "reach"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name}: {getattr(self, name)} is not above 0")
        if self.side < 2:
            raise InputError(f"side: {self.side} pixels, at least 2 expected")
        if self.softening < 1 or self.softening % 2 == 0:
            raise InputError(f"softening: {self.softening} is not an odd number of pixels")
        if self.most_bad < 0 or self.least_area < 0:
            raise InputError("most_bad and least_area may not be negative")

    def scaled(self, factor: float) -> "Settings":
        """Multiply all lengths by `factor`, for fields of another magnification."""
        return replace(
            self,
            diameter=self.diameter * factor,
            reach=self.reach * factor,
            side=max(2, round(self.side * factor)),
            softening=max(1, round(self.softening * factor)) | 1,
        )
