"""A detector of a few hundred weights, synthetic images, and a clock that tests can turn."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from aligndetr.config.schema import Config
from aligndetr.data.annotations import Annotations
from aligndetr.data.dataset import DetectionDataset
from aligndetr.data.formats import open_split
from aligndetr.data.shapes import shapes_dataset
from aligndetr.model.detector import DetectorModel
from aligndetr.train import evaluation, fit, log, loop, pictures
from aligndetr.train.budget import Budget
from aligndetr.types import DetectorOutput, Features, ImageBatch, LayerOutput, QueryGroup, Targets

QUERIES, CLASSES, WIDTH = 5, 3, 8


class TinyBackbone(nn.Module):
    """One level of stride 8."""

    strides = (8,)

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 8, stride=8)
        self.is_frozen = False

    def unfreeze(self) -> None:
        self.is_frozen = False

    def forward(self, images: ImageBatch) -> Features:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            return Features((self.patches(images.pixels),), images.padding, images.sizes)


class TinyModel(nn.Module):
    """The interface of DetectorModel; dropout makes it depend on the random state."""

    precision = torch.float32
    can_renew = False

    def __init__(self, on_forward: list[Callable[[], None]]) -> None:
        super().__init__()
        self.backbone = TinyBackbone()
        self.norm = nn.GroupNorm(2, WIDTH)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(WIDTH, QUERIES * (CLASSES + 4))
        self.on_forward = on_forward
        self.seen: list[tuple[int, ...]] = []

    def features(self, images: ImageBatch) -> Features:
        return self.backbone(images)

    def forward(
        self, images: ImageBatch | Features, targets: Targets | None = None
    ) -> DetectorOutput:
        for call in self.on_forward:
            call()
        features = self.features(images) if isinstance(images, ImageBatch) else images
        tokens = self.norm(features.levels[0].float()).mean(dim=(2, 3))
        if targets is not None:
            self.seen.append(targets.counts)
        queries = self.head(self.dropout(tokens)).unflatten(1, (QUERIES, CLASSES + 4))
        layer = LayerOutput(queries[..., :CLASSES], queries[..., CLASSES:].sigmoid())
        return DetectorOutput((layer,), (QueryGroup("main", (0, QUERIES)),))


@dataclass
class Clock:
    """Stands for the `time` module; it moves when it is told to."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (evaluation, log, loop, pictures):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


@dataclass
class Lab:
    """A place to train in: data, a configuration to vary, and runs."""

    folder: Path
    train: Annotations
    val: Annotations
    config: Config
    on_forward: list[Callable[[], None]] = field(default_factory=list)

    def with_training(self, **changes: object) -> "Lab":
        return self._with("training", changes)

    def with_data(self, **changes: object) -> "Lab":
        return self._with("data", changes)

    def with_backbone(self, **changes: object) -> "Lab":
        return self._with("backbone", changes)

    def _with(self, section: str, changes: dict[str, object]) -> "Lab":
        part = getattr(self.config, section).model_copy(update=changes)
        config = self.config.model_copy(update={section: part})
        return Lab(self.folder, self.train, self.val, config, self.on_forward)

    def model(self) -> DetectorModel:
        torch.manual_seed(7)
        model = TinyModel(self.on_forward)
        model.backbone.is_frozen = self.config.backbone.freeze == "all"
        if self.config.training.unfreeze is None:
            model.backbone.requires_grad_(not model.backbone.is_frozen)
        return cast(DetectorModel, model)

    def dataset(self, annotations: Annotations, *, is_training: bool) -> DetectionDataset:
        augmentation = self.config.data.augmentation
        transform = augmentation.training if is_training else augmentation.evaluation
        backbone = self.config.backbone
        return DetectionDataset(annotations, transform(backbone.mean, backbone.std))

    def fit(
        self,
        budget: Budget | None,
        out: str = "run",
        *,
        model: DetectorModel | None = None,
        started: float = 0.0,
    ) -> dict[str, object]:
        (self.folder / out).mkdir(exist_ok=True)
        return fit.fit(
            model or self.model(),
            self.config,
            self.dataset(self.train, is_training=True),
            self.dataset(self.val, is_training=False),
            self.folder / out,
            budget=budget,
            started=started,
        )


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes_dataset(tmp_path_factory.mktemp("data") / "shapes", train=10, val=6, size=64)


@pytest.fixture
def lab(tmp_path: Path, shapes: Path) -> Lab:
    content: dict[str, Any] = {
        "name": "tiny",
        "num_classes": CLASSES,
        "data": {
            "augmentation": {"type": "light", "short_side": 32, "max_side": 48},
            "batch_size": 4,
            "eval_batch_size": 2,
            "workers": 0,
        },
        "training": {"learning_rate": 1e-2, "epochs": 2},
    }
    train, val = open_split(shapes, "train"), open_split(shapes, "val")
    return Lab(tmp_path, train, val, Config.model_validate(content))
