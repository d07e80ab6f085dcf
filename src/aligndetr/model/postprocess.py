"""From predictions to detections: the best (query, class) pairs of every image."""

from torch import Tensor

from aligndetr.types import Classes, Detections, DetectorOutput, boxes_in_pixels


def postprocess(
    output: DetectorOutput, sizes: Tensor, classes: Classes, *, top: int
) -> list[Detections]:
    """Return the detections of every image, most confident first.

    A query may answer with several classes: scores are independent sigmoids
    (Deformable DETR). Boxes are clipped to the image.

    Args:
        output: Of B images.
        sizes: (B, 2) height and width of the original images, in pixels.
        classes: What the labels mean.
        top: Detections an image, at most.
    """
    main = output.main
    num_classes = main.logits.shape[-1]
    scores, flat = (
        main.logits.float().sigmoid().flatten(1).topk(min(top, main.logits[0].numel()), dim=1)
    )
    query, labels = flat // num_classes, flat % num_classes
    boxes = boxes_in_pixels(main.boxes.float(), sizes)
    boxes = boxes.gather(1, query.unsqueeze(-1).expand(-1, -1, 4))
    limits = sizes.flip(-1).repeat(1, 2).unsqueeze(1).to(boxes.dtype)  # width, height, twice
    boxes = boxes.clamp(min=0).minimum(limits)
    rows = zip(boxes.cpu(), scores.cpu(), labels.cpu(), sizes.tolist(), strict=True)
    return [
        Detections(image_boxes, image_scores, image_labels, classes, (height, width))
        for image_boxes, image_scores, image_labels, (height, width) in rows
    ]
