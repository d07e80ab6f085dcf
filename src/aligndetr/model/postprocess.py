"""From predictions to detections: the best (query, class) pairs of every image."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from aligndetr.config.schema import Postprocess
from aligndetr.types import (
    Classes,
    Detect,
    Detections,
    DetectorOutput,
    Features,
    ImageBatch,
    LayerOutput,
    RegionOutput,
    boxes_in_pixels,
)


def detect_with(
    network: nn.Module, classes: Classes, options: Postprocess, *, device: torch.device
) -> Detect:
    """Return a function from images to detections; it puts the network into evaluation mode."""
    network.eval()

    @torch.no_grad()
    def detect(images: ImageBatch | Features) -> list[Detections]:
        here = images.to(device)
        return postprocess(network(here), here.sizes, classes, options)

    return detect


def postprocess(
    output: DetectorOutput | RegionOutput, sizes: Tensor, classes: Classes, options: Postprocess
) -> list[Detections]:
    """Return the detections of every image, most confident first, boxes clipped to the image.

    Args:
        output: Of B images.
        sizes: (B, 2) height and width of the original images, in pixels.
        classes: What the labels mean.
        options: How many detections, and whether duplicates are dropped; a region detector has
            seen to both itself.
    """
    match output:
        case DetectorOutput(main=main):
            found, nms_iou = _best_pairs(main, options), options.nms_iou
        case RegionOutput():
            found = zip(output.boxes, output.scores, output.labels, strict=True)
            nms_iou = None
    detections: list[Detections] = []
    for (boxes, scores, labels), size in zip(found, sizes.cpu(), strict=True):
        scores, labels = scores.cpu(), labels.cpu()
        limits = size.flip(0).repeat(2).to(boxes.dtype)  # width, height, twice
        pixels = boxes_in_pixels(boxes.cpu(), size).clamp(min=0).minimum(limits)
        kept = slice(None) if nms_iou is None else _distinct(pixels, scores, labels, nms_iou)
        height, width = size.tolist()
        columns = pixels[kept], scores[kept], labels[kept]
        detections.append(Detections(*columns, classes, (height, width)))
    return detections


def _best_pairs(layer: LayerOutput, options: Postprocess) -> Iterator[tuple[Tensor, ...]]:
    """Yield boxes, scores and labels of the best (query, class) pairs of every image.

    A query may answer with several classes where scores are independent sigmoids (Deformable
    DETR), and with its best one where they are shares of a softmax (DETR).
    """
    scores = _scores(layer, options)  # (B, Q, C)
    classes = torch.arange(scores.shape[-1], device=scores.device).expand_as(scores)
    if options.scores == "softmax":
        scores, classes = scores.max(dim=-1, keepdim=True)
    choices = scores.shape[-1]
    best, flat = scores.flatten(1).topk(min(options.top, scores[0].numel()), dim=1)
    labels = classes.flatten(1).gather(1, flat)
    query = (flat // choices).unsqueeze(-1).expand(-1, -1, 4)
    boxes = layer.boxes.float().gather(1, query)
    return zip(boxes.cpu(), best.cpu(), labels.cpu(), strict=True)


def _distinct(boxes_xyxy: Tensor, scores: Tensor, labels: Tensor, nms_iou: float) -> Tensor:
    """Return the rows of the boxes that no better one of their class overlaps by more."""
    # In float64, for it moves the boxes of each class far apart.
    return batched_nms(boxes_xyxy.double(), scores.double(), labels, nms_iou)


def _scores(layer: LayerOutput, options: Postprocess) -> Tensor:
    """Return the confidence (B, Q, C): the score, fused with the predicted IoU if there is one."""
    logits = layer.logits.float()
    # The last share of a softmax is that of "no object".
    is_shared = options.scores == "softmax"
    scores = logits.softmax(dim=-1)[..., :-1] if is_shared else logits.sigmoid()
    if layer.iou_logits is None:
        return scores
    quality = layer.iou_logits.float().sigmoid().unsqueeze(-1)
    return scores.pow(1 - options.iou_power) * quality.pow(options.iou_power)
