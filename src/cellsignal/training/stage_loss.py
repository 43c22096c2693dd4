"""The loss of a stage: its cross-entropy and the losses that its config adds."""

from collections.abc import Sequence
from typing import Any, Literal

import torch

from cellsignal.config.stage import Stage
from cellsignal.models.heads import Outputs
from cellsignal.training.losses import CROSS_ENTROPIES, LOSSES, HardLabelLoss, Loss, SoftLabelLoss


class StageLoss(Loss):
    """`cross_entropy` x the cross-entropy of the plain head + each added loss x its weight.

    Class weights act in all cross-entropies, label smoothing in the plain one. The state holds what
    the losses learn themselves and nothing else.

    Attributes:
        dropping: whether an image that holds no negative control, but is taken for one, is left out
            (`drop_predicted_controls`).
        leaves_parameters_out: whether a batch may give a parameter of the loss no gradient.
    """

    def __init__(
        self,
        stage: Stage,
        weights: torch.Tensor | None,
        classes: int,
        width: int,
        cross_entropy: Literal["cross_entropy", "binary_cross_entropy"] = "cross_entropy",
        controls: Sequence[int] = (),
    ):
        """
        Args:
            weights: (K,) of the classes, or None.
            classes, width: K; D of the network's embedding.
            cross_entropy: for one label an image, or for several.
            controls: the classes of negative controls, for `dropping`.
        """
        super().__init__()
        self.stage, self.dropping = stage, False
        is_control = torch.isin(torch.arange(classes), torch.tensor(controls, dtype=torch.int64))
        self.register_buffer("is_control", is_control, persistent=False)
        gamma = stage.focal or 0.0
        self.cross_entropy = CROSS_ENTROPIES[cross_entropy](weights, stage.label_smoothing, gamma)
        self.added: list[str] = []
        for field, kind in LOSSES.items():
            config = getattr(stage, field)
            if config is not None:
                self.add_module(field, kind(config, classes, width, weights))
                self.added.append(field)
        self.leaves_parameters_out = stage.mix is not None and any(
            isinstance(loss, HardLabelLoss) and any(True for _ in loss.parameters())
            for loss in self.children()
        )

    def forward(
        self, outputs: Outputs, targets: torch.Tensor, labels: torch.Tensor | None
    ) -> torch.Tensor:
        """The loss of one batch, in single precision whatever the outputs' type.

        Args:
            targets: (B, K) soft labels; rows sum to 1 or less, but for several labels an image.
            labels: (B,) int64, the same as classes for losses on hard labels, which do not see
                images with -1. None: the batch is mixed.

        Returns:
            Scalar with a graph; 0 where nothing is labelled.
        """
        if self.dropping:
            targets, labels = self._drop_predicted_controls(outputs.logits, targets, labels)
        total = self.stage.cross_entropy * self.cross_entropy(outputs.logits, targets)
        for field in self.added:
            loss = getattr(self, field)
            if isinstance(loss, SoftLabelLoss):
                total = total + loss.config.weight * loss(outputs, targets)
            elif labels is not None:
                known = labels >= 0
                embedding = outputs.embedding.float()[known]
                total = total + loss.config.weight * loss(embedding, labels[known])
        return total

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [group for field in self.added for group in getattr(self, field).parameter_groups()]

    def _drop_predicted_controls(
        self, logits: torch.Tensor, targets: torch.Tensor, labels: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Unlabel the images that hold nothing of a negative control and are predicted as one."""
        holds_control = targets[:, self.is_control].sum(1) > 0
        dropped = self.is_control[logits.argmax(1)] & ~holds_control
        if labels is not None:
            labels = torch.where(dropped, -1, labels)
        return targets * ~dropped[:, None], labels
