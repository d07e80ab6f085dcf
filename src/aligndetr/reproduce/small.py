"""Laptop scale: what an arm of the paper becomes, and what a training of it is called.

The network is that of `config.laptop.shrunk`: a frozen light backbone whose features are kept,
128 wide, 1 + 3 layers, 100 queries; what makes the arm stays. A class weight and a seed make it
a trial.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aligndetr.config.codec import override
from aligndetr.config.family_regions import faster_rcnn_lite
from aligndetr.config.laptop import align_dino_lite, align_dino_tiny, shrunk
from aligndetr.config.presets import get_preset
from aligndetr.config.schema import AnyConfig, Config
from aligndetr.data.annotations import Annotations
from aligndetr.data.formats import open_split
from aligndetr.data.shapes import shapes_dataset
from aligndetr.precision import Precision
from aligndetr.reproduce.experiment import Arm

TUNING_SEED = 0
"""The seed that class weights are chosen with; arms are compared with others."""
NEVER = 10**6
"""Epochs between evaluations of a training that is evaluated at its end alone."""


@dataclass(frozen=True)
class DataSet:
    """A data folder: its name, a digest of what is in it, and how many classes and images."""

    folder: Path
    name: str
    digest: str
    num_classes: int
    images: int
    is_synthetic: bool

    @staticmethod
    def open(folder: Path | None) -> DataSet:
        """Return the data in a folder; the synthetic set, written if need be, for None.

        Raises:
            DatasetError: The data cannot be read.
        """
        target = shapes_dataset() if folder is None else folder
        splits = [open_split(target, split) for split in ("train", "val")]
        digest = hashlib.sha256("".join(_content(split) for split in splits).encode())
        name = "shapes" if folder is None else target.resolve().name
        classes, images = len(splits[0].classes), len(splits[0])
        return DataSet(target, name, digest.hexdigest()[:8], classes, images, folder is None)


def _content(split: Annotations) -> str:
    table = split.objects
    columns = (split.images.ids, split.images.sizes, table.images, table.labels, table.bboxes)
    digest = hashlib.sha256(json.dumps(split.classes.names).encode())
    for column in columns:
        digest.update(column.tobytes())
    return digest.hexdigest()


def small_config(
    arm: Arm,
    data: DataSet,
    *,
    overrides: Sequence[str] = (),
    features: Path | None = None,
    precision: Precision = "auto",
) -> AnyConfig:
    """Return the configuration of an arm at laptop scale, but for its class weight.

    Images, batches and rates are those of `align-dino-tiny` for the synthetic set and of
    `align-dino-lite` for any other.

    Args:
        arm: With changes to its preset, which are made to the small one.
        data: What it is trained on.
        overrides: Further changes, the same for all arms.
        features: Where the features of the frozen backbone are kept for all arms and seeds.
        precision: What `auto` becomes; a change to another arithmetic stays.
    """
    recipe = align_dino_tiny() if data.is_synthetic else align_dino_lite()
    large = get_preset(arm.preset)
    base = shrunk(large) if isinstance(large, Config) else faster_rcnn_lite()
    training = recipe.training.model_copy(
        update={"offset_factor": large.training.offset_factor, "evaluate_every": NEVER}
    )
    changes = {
        "cache_seed": TUNING_SEED,
        "feature_folder": None if features is None else str(features),
    }
    config = base.model_copy(
        update={
            "num_classes": data.num_classes,
            "data": recipe.data.model_copy(update=changes),
            "training": training,
        }
    )
    changed = override(override(config, overrides), arm.overrides)
    if changed.precision != "auto":
        return changed
    return changed.model_copy(update={"precision": precision})


@dataclass(frozen=True)
class Trial:
    """One training: of an arm with a class weight and a seed, for so many steps.

    `weight` is None where the arm has no class weight to choose, as a region detector has none.
    """

    config: AnyConfig
    weight: float | None
    seed: int
    steps: int
    evaluations: int = 1
    """How often AP is measured on the way, about; the last time is at the end."""

    def trained_config(self, data: DataSet) -> AnyConfig:
        """Return what is trained; how predictions become detections is no part of it."""
        changes = [f"training.seed={self.seed}"]
        if self.weight is not None:
            changes.append(f"criterion.class_weight={self.weight:g}")
        if self.evaluations > 1:
            epochs = self.steps * self.config.data.batch_size / data.images
            changes.append(f"training.evaluate_every={max(1, round(epochs / self.evaluations))}")
        return override(_without_choices(self.config), changes)

    def name(self, data: DataSet) -> str:
        """Return a file name: a digest of all that decides on the weights, and what to tell by."""
        config = self.trained_config(data)
        told = config.model_dump(mode="json", exclude={"name": True, "data": {"feature_folder"}})
        text = json.dumps([told, self.steps, data.digest], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        loss = config.criterion.classification.type if isinstance(config, Config) else "regions"
        weight = "" if self.weight is None else f"-w{self.weight:g}"
        return f"{loss}{weight}-s{self.seed}-{digest}"


def has_weight(config: AnyConfig) -> bool:
    """Whether a class weight is to be chosen."""
    return isinstance(config, Config)


def is_fused(config: AnyConfig) -> bool:
    """Whether scores are fused with a predicted IoU, as the arms of one training may do or not."""
    return isinstance(config, Config) and config.head.iou_branch


def _without_choices(config: AnyConfig) -> AnyConfig:
    """Return the configuration with scores fused as usual.

    Arms that differ in nothing else are so trained once.
    """
    if not isinstance(config, Config):
        return config
    usual = config.postprocess.model_copy(update={"iou_power": 0.3})
    return config.model_copy(update={"postprocess": usual})
