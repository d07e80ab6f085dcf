"""Our loss and our CPU kernel inside the detectors of Hugging Face transformers.

Nothing of that package is imported: its models are recognised by what they call.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from aligndetr.integrations.detr import AlignCriterion
from aligndetr.kernels import deformable_attention

SAMPLING = "MultiScaleDeformableAttention"
"""The class that samples, in DeformableDetr, RTDetr, RfDetr, LwDetr, GroundingDino and others."""

Loss = tuple[Tensor, dict[str, Tensor], list[dict[str, Tensor]] | None]
"""What transformers wants of a loss: the sum, its terms, and the outputs of lower layers."""


class AlignLoss:
    """`AlignCriterion` in the place of a model's own loss.

    For DeformableDetr, ConditionalDetr and DabDetr, whose classes are judged one by one; with
    `loss="softmax"` for Detr.

    Example:
        >>> model.loss_function = AlignLoss(k=3, tau=1.5)
        >>> model(pixel_values=pixels, labels=labels).loss.backward()
    """

    def __init__(self, loss: str = "ia_bce", **options: Any) -> None:
        """Choose the loss; the options are those of `AlignCriterion`.

        Raises:
            ValueError: There is no such loss, or it has no such option.
        """
        self.criterion = AlignCriterion(loss, **options)
        self._has_nothing_class = loss == "softmax"

    def __call__(
        self,
        logits: Tensor,
        labels: Sequence[Mapping[str, Tensor]],
        device: torch.device,
        pred_boxes: Tensor,
        config: Any,
        outputs_class: Tensor | None = None,
        outputs_coord: Tensor | None = None,
        **others: object,
    ) -> Loss:
        """Return the loss, its weighted terms by name, and the outputs of lower layers.

        Args:
            logits: (B, Q, C) of the last layer.
            labels: For each image `class_labels` (n,) and `boxes` (n, 4) cxcywh in [0, 1].
            device: Not used: tensors are where they are.
            pred_boxes: (B, Q, 4) cxcywh in [0, 1].
            config: The model's, which says whether lower layers are trained (`auxiliary_loss`).
            outputs_class: (N, B, Q, C) logits of all layers, first to last.
            outputs_coord: (N, B, Q, 4) boxes of all layers.
            others: What models with query groups or denoising of their own give; refused.

        Raises:
            ValueError: The model has another loss than one of DETR's outputs, or its classes have
                a column that this loss does not know.
        """
        del device
        if given := sorted(name for name, value in others.items() if value is not None):
            raise ValueError(
                f"AlignLoss: expected DeformableDetr, ConditionalDetr, DabDetr or Detr, found a "
                f"{type(config).__name__} whose loss also takes {', '.join(given)}"
            )
        has_nothing_class = logits.shape[-1] == config.num_labels + 1
        if has_nothing_class != self._has_nothing_class:
            found = "with" if has_nothing_class else "without"
            remedy = "use loss='softmax'" if has_nothing_class else "use another loss than softmax"
            raise ValueError(
                f"AlignLoss: expected logits {'with' if self._has_nothing_class else 'without'} a "
                f"column for no object, found {tuple(logits.shape)}, {found} one; {remedy}"
            )
        outputs: dict[str, Any] = {"pred_logits": logits, "pred_boxes": pred_boxes}
        lower = None
        if config.auxiliary_loss and outputs_class is not None and outputs_coord is not None:
            pairs = list(zip(outputs_class[:-1], outputs_coord[:-1], strict=True))
            lower = [{"logits": scores, "pred_boxes": boxes} for scores, boxes in pairs]
            outputs["aux_outputs"] = [
                {"pred_logits": scores, "pred_boxes": boxes} for scores, boxes in pairs
            ]
        targets = [{"labels": label["class_labels"], "boxes": label["boxes"]} for label in labels]
        terms = self.criterion(outputs, targets)
        return torch.stack(list(terms.values())).sum(), terms, lower


def use_kernel(model: nn.Module) -> int:
    """Let a model's deformable attention run our CPU kernel, and return in how many layers.

    Its numbers stay the same; on other devices it does what it did before.

    Raises:
        ValueError: There is no such layer.
    """
    layers = [module for module in model.modules() if type(module).__name__ == SAMPLING]
    if not layers:
        raise ValueError(
            f"use_kernel: expected a model with layers of transformers' {SAMPLING}, found none in "
            f"{type(model).__name__}"
        )
    for layer in layers:
        own: Any = layer.forward
        if not (isinstance(own, partial) and own.func is _sample):
            layer.forward = partial(_sample, own)
    return len(layers)


def _sample(
    own: Any,
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_spatial_shapes_list: Sequence[tuple[int, int]],
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Return what the layer's `own` forward returns, on a CPU by our kernel."""
    if value.device.type == "cpu":
        shapes = value_spatial_shapes_list
        return deformable_attention(value, shapes, sampling_locations, attention_weights)
    return own(
        value,
        value_spatial_shapes,
        value_spatial_shapes_list,
        level_start_index,
        sampling_locations,
        attention_weights,
        im2col_step,
    )
