"""Box arithmetic: formats, IoU, GIoU and the inverse sigmoid.

The model speaks cxcywh in [0, 1]; xyxy appears at the edges and inside IoU. `iou` and `giou`
broadcast: give (N, 4) and (N, 4) for pairs, (N, 1, 4) and (1, M, 4) for all combinations.
"""

import torch
from torch import Tensor

SMALLEST_AREA = 1e-12
"""Unions below this count as empty, which keeps gradients of point boxes finite."""


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Return (..., 4) boxes as left, top, right, bottom, from centre, width and height."""
    centre, half_size = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half_size, centre + half_size), dim=-1)


def xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """Return (..., 4) boxes as centre, width and height, from left, top, right, bottom."""
    top_left, bottom_right = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return torch.cat(((top_left + bottom_right) / 2, bottom_right - top_left), dim=-1)


def pair_corners(boxes: Tensor, others: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return cxcywh boxes and those of their images as xyxy that broadcast to all pairs.

    IoU and GIoU of the two are (R, T, Q).

    Args:
        boxes: (T, 4).
        others: (R, B, Q, 4), of B images in R rows.
        image: (T,) the image of each of `boxes`.
    """
    return cxcywh_to_xyxy(boxes).unsqueeze(-2), cxcywh_to_xyxy(others)[:, image]


def iou(boxes_xyxy: Tensor, others_xyxy: Tensor, *, eps: float = 0.0) -> Tensor:
    """Return the intersection over union of broadcast xyxy boxes, in [0, 1].

    Args:
        boxes_xyxy: (..., 4).
        others_xyxy: (..., 4), broadcast against `boxes_xyxy`.
        eps: Added to the union. 0 is exact; DINO, DAB-DETR and detrex use 1e-6.

    Returns:
        (...) IoU; 0 where the union is empty (point boxes), never NaN.
    """
    intersection, union = _intersection_and_union(boxes_xyxy, others_xyxy)
    return intersection / _divisor(union, eps)


def giou(boxes_xyxy: Tensor, others_xyxy: Tensor, *, eps: float = 0.0) -> Tensor:
    """Return the generalised IoU of broadcast xyxy boxes, in [-1, 1] (arXiv:1902.09630).

    Args:
        boxes_xyxy: (..., 4).
        others_xyxy: (..., 4), broadcast against `boxes_xyxy`.
        eps: Added to the union and to the enclosing area. 0 is exact.
    """
    intersection, union = _intersection_and_union(boxes_xyxy, others_xyxy)
    left, top, right, bottom = _edges(boxes_xyxy)
    other_left, other_top, other_right, other_bottom = _edges(others_xyxy)
    width = torch.maximum(right, other_right) - torch.minimum(left, other_left)
    enclosing = width * (torch.maximum(bottom, other_bottom) - torch.minimum(top, other_top))
    empty = (enclosing - union) / _divisor(enclosing, eps)
    return intersection / _divisor(union, eps) - empty


def inverse_sigmoid(x: Tensor, *, eps: float) -> Tensor:
    """Return log(x / (1 - x)) with x and 1 - x kept above `eps`.

    1e-3 in DINO, DAB-DETR and detrex; 1e-5 in Deformable DETR, H-DETR and transformers.
    The gradient is 0 where the clamp acts.
    """
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def _edges(boxes_xyxy: Tensor) -> tuple[Tensor, ...]:
    """Return left, top, right, bottom, each contiguous: broadcasting is 3 times faster so."""
    return boxes_xyxy.movedim(-1, 0).contiguous().unbind()


def _intersection_and_union(boxes_xyxy: Tensor, others_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    left, top, right, bottom = _edges(boxes_xyxy)
    other_left, other_top, other_right, other_bottom = _edges(others_xyxy)
    width = torch.minimum(right, other_right) - torch.maximum(left, other_left)
    height = torch.minimum(bottom, other_bottom) - torch.maximum(top, other_top)
    intersection = width.clamp(min=0) * height.clamp(min=0)
    areas = (right - left) * (bottom - top), (other_right - other_left) * (other_bottom - other_top)
    return intersection, areas[0] + areas[1] - intersection


def _divisor(value: Tensor, eps: float) -> Tensor:
    if eps > 0:
        return value + eps
    return torch.where(value > SMALLEST_AREA, value, 1.0)
