"""The Align-DETR criterion for any code that speaks DETR's dicts."""

import operator
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, distributed, nn

from aligndetr.losses.bce import WeightedBCE
from aligndetr.losses.box import BoxLoss
from aligndetr.losses.classification import ClassificationLoss
from aligndetr.losses.costs import SoftmaxCost
from aligndetr.losses.criterion import Criterion
from aligndetr.losses.matching import Matcher
from aligndetr.types import DetectorOutput, LayerOutput, QueryGroup, Targets

TERMS = {"class": "class", "l1": "bbox", "giou": "giou"}
"""Our names of the losses, and those of detrex and the authors of Align-DETR."""
BEYOND = 2.0
"""Shares of the image that coordinates may reach: some code leaves boxes unclipped."""
Outputs = Mapping[str, object]
"""`pred_logits` (B, Q, C), `pred_boxes` (B, Q, 4); maybe `aux_outputs` and `enc_outputs`."""


class AlignCriterion(nn.Module):
    """IA-BCE, mixed matching and prime sample weighting in place of DETR's `SetCriterion`.

    It has no weights of its own; it is a module so that training code can treat it like one.
    """

    def __init__(
        self,
        loss: str = "ia_bce",
        *,
        k: int | Sequence[int] = 3,
        alpha: float | None = None,
        gamma: float | None = None,
        tau: float | None = 1.5,
        weights: tuple[float, float, float] = (1.0, 5.0, 2.0),
        proposal_k: int = 1,
        binary_proposals: bool = False,
        eps: float = 0.0,
    ) -> None:
        """Choose the loss; the defaults, also of the matching, are those of Align-DETR, Table A.

        Matching costs are 2 (class), 5 (L1) and 2 (GIoU), with `softmax` DETR's 1, 5 and 2.

        Args:
            loss: `ia_bce`, or the name of another loss: `focal`, `qfl`, `vfl`, ...
            k: Positives of an object in every layer but the last, or a number for each layer,
                first to last. In an image they are at most half of its queries in all, at least
                one an object.
            alpha: An option of the loss; None leaves the loss's own default.
            gamma: Likewise.
            tau: Temperature of prime sample weighting; None weighs all positives alike.
            weights: Of the class, the L1 and the GIoU loss.
            proposal_k: Positives of an object among `enc_outputs`.
            binary_proposals: Whether `enc_outputs` tell objects from background only, by their
                first logit, as in Deformable DETR's two stages. The targets stay as they are.
            eps: Added to areas in IoU and GIoU: 0 is exact, published code has 1e-6.

        Raises:
            ValueError: There is no such loss, or it has no such option; not three weights.
        """
        super().__init__()
        if len(weights) != 3:
            raise ValueError(f"AlignCriterion: expected three weights, found {len(weights)}")
        classification = _loss(loss, alpha=alpha, gamma=gamma)
        matcher = Matcher(eps=eps)
        if not isinstance(classification, WeightedBCE):
            matcher = Matcher(score=SoftmaxCost(), class_cost=1.0, eps=eps)
        self.criterion = Criterion(
            classification=classification,
            class_weight=weights[0],
            box=BoxLoss(l1=weights[1], giou=weights[2], eps=eps),
            matcher=matcher,
            k=tuple(k) if isinstance(k, Sequence) else operator.index(k),
            proposal_k=proposal_k,
            tau=tau,
            iou_eps=eps,
            proposal_labels="one" if binary_proposals else "own",
        )

    def forward(
        self, outputs: Outputs, targets: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return weighted scalar losses by name; their sum is what is minimised.

        Names are `loss_class`, `loss_bbox` and `loss_giou` of the last layer, with `_0`, `_1`, ...
        of the layers in `aux_outputs` and `_enc` of `enc_outputs`. In a distributed run they are
        divided by the mean number of objects over the processes, as in DETR.

        Args:
            outputs: `pred_logits` (B, Q, C) and `pred_boxes` (B, Q, 4) cxcywh in [0, 1] of the
                last layer; `aux_outputs`, a list of such dicts for the layers before it;
                `enc_outputs`, one such dict of any number of proposals.
            targets: For each image `labels` (n,) integers and `boxes` (n, 4) cxcywh in [0, 1]
                or, where boxes are not clipped, little beyond.

        Raises:
            ValueError: Targets, layers and proposals do not fit each other, or are none.
        """
        auxiliary = cast("Sequence[Outputs]", outputs.get("aux_outputs") or ())
        layers = (*(_layer(output) for output in auxiliary), _layer(outputs))
        if len({layer.logits.shape for layer in layers}) > 1:
            found = [tuple(layer.logits.shape) for layer in layers]
            raise ValueError(f"aux_outputs: expected pred_logits of one shape, found {found}")
        proposals = outputs.get("enc_outputs")
        encoder = _layer(cast(Outputs, proposals)) if proposals is not None else None
        if encoder is not None:
            self._check_proposals(encoder, layers[-1])
        packed = _packed(targets, layers[-1], self.criterion)
        count = _mean_count(packed, layers[-1])
        losses = self.criterion(_output(layers, encoder), packed, num_targets=count)
        return _renamed(losses, last=len(layers) - 1)

    def extra_repr(self) -> str:
        """Return the settings, for printing."""
        return f"{self.criterion!r}"

    def _check_proposals(self, encoder: LayerOutput, layer: LayerOutput) -> None:
        images, _, classes = layer.logits.shape
        is_binary = self.criterion.proposal_labels == "one"
        if encoder.logits.shape[0] != images:
            raise ValueError(
                f"enc_outputs: expected {images} images, found {encoder.logits.shape[0]}"
            )
        if not is_binary and encoder.logits.shape[2] != classes:
            raise ValueError(
                f"enc_outputs: expected pred_logits of {classes} classes, found "
                f"{encoder.logits.shape[2]}; give binary_proposals=True where they tell objects "
                "from background only"
            )


def _loss(name: str, **options: float | None) -> ClassificationLoss:
    given = {option: value for option, value in options.items() if value is not None}
    try:
        return TypeAdapter[ClassificationLoss](ClassificationLoss).validate_python(
            {"type": name, **given}
        )
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        raise ValueError(
            f"AlignCriterion: expected a loss of aligndetr.losses.classification and options that "
            f"it has, found {name!r} with {given}: {detail['msg']}"
        ) from None


def _layer(output: Outputs) -> LayerOutput:
    if missing := {"pred_logits", "pred_boxes"} - output.keys():
        raise ValueError(f"outputs: expected pred_logits and pred_boxes, found no {missing}")
    logits, boxes = cast(Tensor, output["pred_logits"]), cast(Tensor, output["pred_boxes"])
    if boxes.shape != (*logits.shape[:2], 4):
        raise ValueError(
            f"pred_boxes: expected shape {(*logits.shape[:2], 4)} beside pred_logits "
            f"{tuple(logits.shape)}, found {tuple(boxes.shape)}"
        )
    return LayerOutput(logits, boxes)


def _packed(
    targets: Sequence[Mapping[str, Tensor]], layer: LayerOutput, criterion: Criterion
) -> Targets:
    """Return the targets of all images as one, checked against the predictions."""
    images, _, columns = layer.logits.shape
    if len(targets) != images:
        raise ValueError(f"targets: expected {images}, one an image, found {len(targets)}")
    for index, target in enumerate(targets):
        if missing := {"labels", "boxes"} - target.keys():
            raise ValueError(f"targets[{index}]: expected labels and boxes, found no {missing}")
        labels, boxes = target["labels"], target["boxes"]
        if labels.ndim != 1 or boxes.shape != (len(labels), 4):
            raise ValueError(
                f"targets[{index}]: expected labels (n,) and boxes (n, 4), found "
                f"{tuple(labels.shape)} and {tuple(boxes.shape)}"
            )
    if not targets:
        return Targets(layer.boxes.new_zeros(0, 4), layer.boxes.new_zeros(0).long(), ())
    all_labels = [target["labels"] for target in targets]
    _check_values(targets, columns - (criterion.classification.type == "softmax"))
    labels = [labels.to(torch.int64) for labels in all_labels]
    return Targets.pack([target["boxes"] for target in targets], labels)


def _check_values(targets: Sequence[Mapping[str, Tensor]], classes: int) -> None:
    """Check that labels are classes, and boxes boxes; one look at the device if they are."""
    some = [(index, target) for index, target in enumerate(targets) if len(target["labels"])]
    if not some:
        return
    labels = [target["labels"] for _, target in some]
    boxes = torch.cat([target["boxes"] for _, target in some])
    if all(map(_is_integer, labels)) and bool(
        _are_classes(torch.cat(labels), classes) & _are_boxes(boxes)
    ):
        return
    for index, target in some:
        labels, boxes = target["labels"], target["boxes"]
        if not (_is_integer(labels) and bool(_are_classes(labels, classes))):
            raise ValueError(
                f"targets[{index}].labels: expected integers from 0 to {classes - 1}, found "
                f"{labels.tolist()[:5]}; leave objects to be ignored out"
            )
        if not bool(_are_boxes(boxes)):
            raise ValueError(
                f"targets[{index}].boxes: expected cxcywh as shares of the image's width and "
                f"height, found {boxes.tolist()[:2]}; divide pixels by the image's size"
            )


def _is_integer(labels: Tensor) -> bool:
    return not (labels.is_floating_point() or labels.dtype == torch.bool)


def _are_classes(labels: Tensor, classes: int) -> Tensor:
    return ((labels >= 0) & (labels < classes)).all()


def _are_boxes(boxes: Tensor) -> Tensor:
    """Whether centres are in or near the image and sizes not negative; NaN is neither."""
    return ((boxes.abs() <= BEYOND).all(dim=1) & (boxes[:, 2:] >= 0).all(dim=1)).all()


def _output(layers: tuple[LayerOutput, ...], proposals: LayerOutput | None) -> DetectorOutput:
    main = QueryGroup("main", (0, layers[-1].logits.shape[1]))
    return DetectorOutput(layers, (main,), proposals)


def _renamed(losses: Mapping[str, Tensor], *, last: int) -> dict[str, Tensor]:
    """Return the losses under their published names."""
    renamed: dict[str, Tensor] = {}
    for name, loss in losses.items():
        *place, term = name.split(".")
        depth = place[-1]
        suffix = "_enc" if depth == "proposals" else "" if int(depth) == last else f"_{depth}"
        renamed[f"loss_{TERMS[term]}{suffix}"] = loss
    return renamed


def _mean_count(targets: Targets, layer: LayerOutput) -> Tensor:
    count = torch.tensor(float(len(targets)), dtype=torch.float32, device=layer.logits.device)
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(count)
        count /= distributed.get_world_size()
    return count
