"""How large a data set is as published, for estimates before anything is downloaded."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Numbers of images of a published data set.

    An image is a row of the samples table: a site, field, crop or track.

    Attributes:
        train: of the labelled treatments of the training split.
        test: of the treatments of the test split.
        train_controls, test_controls: of the control wells that have a class.
        unlabelled: that a stage without labels may train on.
        classes: of the treatments.
        control_classes: that the control wells add.
        compounds: that the training treatments are of; what `target: compound` tells apart.
        cell_types: 1 where they are not told apart.
        sites: images of a well.
        source: where the numbers are from, and what they leave out.
    """

    train: int
    classes: int
    source: str
    test: int = 0
    train_controls: int = 0
    test_controls: int = 0
    unlabelled: int = 0
    control_classes: int = 0
    compounds: int = 0
    cell_types: int = 1
    sites: tuple[int, ...] = (1,)

    @property
    def images(self) -> int:
        """All images that have a use."""
        labelled = self.train + self.train_controls
        return max(labelled, self.unlabelled) + self.test + self.test_controls
