"""Box losses of matched pairs: L1 distance and 1 - GIoU."""

from pydantic import NonNegativeFloat
from torch import Tensor

from aligndetr.boxes import cxcywh_to_xyxy, giou
from aligndetr.settings import Settings


class BoxLoss(Settings):
    """Weighted L1 and GIoU losses (DETR, section A.2)."""

    l1: NonNegativeFloat = 5.0
    """Weight of the L1 distance of cxcywh boxes in [0, 1]."""
    giou: NonNegativeFloat = 2.0
    """Weight of 1 - GIoU."""
    eps: NonNegativeFloat = 0.0
    """Added to areas in the GIoU: 0 is exact; DINO, DAB-DETR and detrex use 1e-6."""

    def __call__(self, boxes: Tensor, targets: Tensor, prime: Tensor) -> tuple[Tensor, Tensor]:
        """Return the L1 and the GIoU loss (P,) of each pair, times its prime weight (eq. 7).

        Args:
            boxes: (P, 4) predicted, cxcywh in [0, 1].
            targets: (P, 4) of their targets.
            prime: (P,) weights without gradient.
        """
        distance = (boxes - targets).abs().sum(dim=-1)
        overlap = giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(targets), eps=self.eps)
        return self.l1 * prime * distance, self.giou * prime * (1 - overlap)
