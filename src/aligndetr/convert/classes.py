"""Which class each row of a published head is of: one of COCO, one that is named, or a number."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from aligndetr.config.schema import Config
from aligndetr.convert.hub import Hub
from aligndetr.types import Classes

COCO_BY_ID: tuple[str, ...] = tuple(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
"""COCO's names by category id; "N/A" where an id is of no class."""
NO_CLASS = ("__background__", "N/A")
COCO = Classes(
    names=tuple(name for name in COCO_BY_ID if name not in NO_CLASS),
    ids=tuple(number for number, name in enumerate(COCO_BY_ID) if name not in NO_CLASS),
)
"""COCO's 80 classes with their category ids, which go up to 90."""
UNNAMED = re.compile(r"LABEL_\d+")
"""What transformers calls a class without a name."""


def find_classes(count: int, hub: Hub) -> tuple[Classes, tuple[int, ...]]:
    """Return the classes of a head with `count` rows (without "no object"), and the row of each.

    91 rows are COCO's category ids, as DETR's code has them, and 80 its classes in their order,
    unless the `config.json` in `hub` names others. Rows that it calls "N/A" are of no class.
    """
    names = _names(hub)
    if count == len(COCO_BY_ID) and (not names or _are_cocos(names)):
        return COCO, COCO.ids
    if len(names) == count:
        rows = tuple(row for row, name in enumerate(names) if name not in NO_CLASS)
        return Classes(tuple(names[row] for row in rows), rows), rows
    return (COCO if count == len(COCO) else Classes.numbered(count)), tuple(range(count))


def pick_classes(
    config: Config, tensors: Mapping[str, Tensor], rows: tuple[int, ...]
) -> tuple[Config, dict[str, Tensor]]:
    """Return configuration and tensors with these rows of the heads alone, in this order.

    "No object", the last row of a softmax, stays the last; and so does the first row of a head
    that orders proposals by it, where it tells objects from background.
    """
    if rows == tuple(range(config.num_classes)):
        return config, dict(tensors)
    last = (config.num_classes,) if config.has_softmax else ()
    is_first_kept = config.queries.type == "top" and config.queries.chosen_by == "first_class"
    picked: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if is_first_kept and name.startswith("queries.head.classes."):
            picked[name] = value[torch.tensor((0, *rows[1:]))]
        elif ".classes." in name:
            picked[name] = value[torch.tensor((*rows, *last))]
        elif name == "denoising.label.weight":
            picked[name] = value[torch.tensor(rows)]
    return config.model_copy(update={"num_classes": len(rows)}), {**tensors, **picked}


def _names(hub: Hub) -> list[str]:
    """Return the names of labels 0, 1, ... in transformers' configuration; empty without names."""
    named: object = hub.get("id2label")
    by_label = (
        {str(label): str(name) for label, name in named.items()} if isinstance(named, dict) else {}
    )
    names = [by_label.get(str(label), "N/A") for label in range(len(by_label))]
    return [] if all(UNNAMED.fullmatch(name) for name in names) else names


def _are_cocos(names: list[str]) -> bool:
    """Whether COCO's ids have COCO's names; the others may have some too, as COCO-Stuff's do."""
    return len(names) == len(COCO_BY_ID) and all(
        names[number] == COCO_BY_ID[number] for number in COCO.ids
    )
