"""Rows of published heads become classes with names and ids."""

import pytest
import torch

from aligndetr.config.presets import get_preset
from aligndetr.config.schema import Config
from aligndetr.convert.classes import COCO, COCO_BY_ID, find_classes, pick_classes
from aligndetr.types import Classes


def labelled(names: list[str]) -> dict[str, object]:
    return {"id2label": {str(label): name for label, name in enumerate(names)}}


STREET_SIGN = [*COCO_BY_ID[:12], "street sign", *COCO_BY_ID[13:]]
"""Some name the ids that are of no class, too."""


def test_coco_has_80_classes_with_ids_to_90():
    assert len(COCO) == 80
    assert (COCO.names[0], COCO.ids[0]) == ("person", 1)
    assert (COCO.names[11], COCO.ids[11]) == ("stop sign", 13)
    assert (COCO.names[-1], COCO.ids[-1]) == ("toothbrush", 90)


@pytest.mark.parametrize(
    ("count", "hub", "classes", "rows"),
    [
        (91, {}, COCO, COCO.ids),
        (91, labelled(list(COCO_BY_ID)), COCO, COCO.ids),
        (91, labelled(STREET_SIGN), COCO, COCO.ids),
        (91, labelled([f"LABEL_{row}" for row in range(91)]), COCO, COCO.ids),  # none is named
        (80, {}, COCO, tuple(range(80))),
        (3, {}, Classes.numbered(3), (0, 1, 2)),
        (3, labelled(["LABEL_0", "LABEL_1", "LABEL_2"]), Classes.numbered(3), (0, 1, 2)),
        (2, labelled(["cat", "dog"]), Classes(("cat", "dog"), (0, 1)), (0, 1)),
        (3, labelled(["N/A", "cat", "dog"]), Classes(("cat", "dog"), (1, 2)), (1, 2)),
        (3, labelled(["cat", "dog"]), Classes.numbered(3), (0, 1, 2)),  # names of another head
    ],
)
def test_classes_follow_from_the_rows_and_their_names(count, hub, classes, rows):
    assert find_classes(count, hub) == (classes, rows)


def test_91_other_names_are_91_classes():
    names = [f"kind {row}" for row in range(91)]
    classes, rows = find_classes(91, labelled(names))
    assert classes.names == tuple(names)
    assert rows == tuple(range(91))


def config_of(preset: str, rows: int) -> Config:
    config = get_preset(preset)
    assert isinstance(config, Config)
    return config.model_copy(update={"num_classes": rows})


def picked(preset: str, rows: int, kept: tuple[int, ...], name: str) -> list[float]:
    """What is left of a tensor whose row r holds r."""
    count = rows + config_of(preset, rows).has_softmax
    tensors = {name: torch.arange(float(count)), "decoder.norm.bias": torch.ones(5)}
    config, found = pick_classes(config_of(preset, rows), tensors, kept)
    assert config.num_classes == len(kept)
    assert torch.equal(found["decoder.norm.bias"], torch.ones(5))
    return found[name].tolist()


@pytest.mark.parametrize(
    ("preset", "name", "expected"),
    [
        ("dino-r50-4scale", "decoder.heads.0.classes.bias", [1, 3]),
        ("dino-r50-4scale", "queries.head.classes.weight", [1, 3]),
        ("dino-r50-4scale", "denoising.label.weight", [1, 3]),
        # "no object" is the last row of a softmax
        ("detr-r50", "decoder.heads.0.classes.bias", [1, 3, 5]),
        # the first row orders proposals, whatever class it is of
        ("deformable-detr-two-stage-r50", "queries.head.classes.bias", [0, 3]),
        ("deformable-detr-two-stage-r50", "decoder.heads.0.classes.bias", [1, 3]),
    ],
)
def test_rows_of_no_class_are_left_out(preset, name, expected):
    assert picked(preset, 5, (1, 3), name) == expected


def test_all_rows_in_their_order_are_all():
    assert picked("detr-r50", 3, (0, 1, 2), "decoder.heads.0.classes.bias") == [0, 1, 2, 3]
