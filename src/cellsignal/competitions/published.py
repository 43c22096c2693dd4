"""What is published of a data set: its size, and the protocols by which the field uses it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Numbers of images of a data set, for estimates before anything is downloaded.

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


@dataclass(frozen=True)
class Protocol:
    """One way the field measures itself on these images.

    Attributes:
        group: the samples column that a fold must not split.
        by_site: every sample is scored by itself; else what shares a `target_id` is.
        controls_are_classes: control wells are trained on and scored as further classes.
        assignment: the layout of the plates may be used.
        parts: where the protocol itself says what trains and what is scored: name and published
            number of samples of each.
    """

    id: str
    title: str
    group: str
    note: str
    by_site: bool = False
    controls_are_classes: bool = False
    assignment: bool = False
    parts: tuple[tuple[str, int], ...] = ()

    @property
    def summary(self) -> str:
        """The facts in one sentence, then the note."""
        unit = "site" if self.by_site else "id"
        classes = "controls are classes" if self.controls_are_classes else "controls are not scored"
        layout = "the plate layout may be used" if self.assignment else "no plate assignment"
        return f"Scored by {unit}; {classes}; {layout}; no {self.group} is split. {self.note}"
