"""Loaders of features in place of images: in memory, or in files that later runs find again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch.utils.data import DataLoader, Dataset

from aligndetr.config.schema import AnyConfig
from aligndetr.data.batch import EpochSampler
from aligndetr.data.dataset import DetectionDataset
from aligndetr.model.build import Network
from aligndetr.train.feature_files import (
    BatchFiles,
    BatchWriter,
    ViewFiles,
    ViewWriter,
    feature_key,
    is_complete,
)
from aligndetr.train.features import (
    Deadline,
    cache_evaluation,
    cache_training,
    check_cacheable,
    features_to_evaluate,
    loader_of,
)
from aligndetr.train.log import RunLog
from aligndetr.train.views import CachedView, FeatureCache, ViewKeeper
from aligndetr.types import Batch

EvaluationBatches = DataLoader[Any] | list[Batch] | BatchFiles
"""Whatever can be gone through again and again, and has a length."""


@dataclass(frozen=True)
class Caching:
    """How a run's features are computed; views are short of their number at `deadline`.

    `is_trained` says that upper stages of the backbone are trained by now.
    """

    model: Network
    config: AnyConfig
    device: torch.device
    log: RunLog
    deadline: Deadline | None
    is_trained: bool = False

    def loaders(
        self, train: DataLoader[Any], val: DataLoader[Any]
    ) -> tuple[DataLoader[Any], EvaluationBatches]:
        """Return loaders of features for loaders of images; `val` has a process's own share.

        Each process keeps all views to train on in its memory, or all share the files.

        Raises:
            ConfigError: The backbone is trained where maps cannot be renewed, or there is no room
                for them.
        """
        check_cacheable(self.config, self.model)
        self.model.eval()
        # So that training goes on alike where the files are there and nothing is computed.
        with torch.random.fork_rng(devices=[]):
            if self.config.data.feature_folder is None:
                views = self._training(train, FeatureCache())
                return loader_of(views, train), self._evaluation(val)
            root = Path(self.config.data.feature_folder)
            views = self._shared_files(root, train)
            return loader_of(views, train), self._evaluation_files(root, val)

    def _training(self, loader: DataLoader[Any], keeper: ViewKeeper) -> Dataset[CachedView]:
        data = self.config.data
        total = data.cached_views * len(cast(EpochSampler, loader.sampler))
        self.log.say(f"caching the features of {total} views to train on")
        with self.log.chore("caching to train on", total) as report:
            return cache_training(
                self.model.features,
                loader,
                data,
                keeper,
                strides=self.model.backbone.strides,
                device=self.device,
                deadline=self.deadline,
                report=report,
                say=self.log.say,
            )

    def _shared_files(self, root: Path, loader: DataLoader[Any]) -> Dataset[CachedView]:
        """Return the views that the main process has or writes, all of them or not."""
        state = PartialState()
        folder: Path | None = None
        views: Dataset[CachedView] | None = None
        if state.is_main_process:
            views = self._training_files(root, loader)
            folder = views.folder if isinstance(views, ViewFiles) else None
        folder = broadcast_object_list([folder])[0]
        if views is None and folder is not None and is_complete(folder):
            views = ViewFiles(folder)
        if views is None:  # on another machine, which cannot see that folder
            views = self._training_files(root, loader)
        return views

    def _training_files(self, root: Path, loader: DataLoader[Any]) -> Dataset[CachedView]:
        folder = root / f"train-{self._key(loader, training=True)}"
        if is_complete(folder):
            self.log.say(f"{folder}: features of an earlier run")
            return ViewFiles(folder)
        return self._training(loader, ViewWriter(folder))

    def _evaluation(self, loader: DataLoader[Any]) -> list[Batch]:
        images = len(cast(DetectionDataset, loader.dataset))
        with self.log.chore("caching to evaluate on", images) as report:
            return cache_evaluation(self.model.features, loader, device=self.device, report=report)

    def _evaluation_files(self, root: Path, loader: DataLoader[Any]) -> BatchFiles:
        state = PartialState()
        share = f"{state.process_index + 1}of{state.num_processes}"
        folder = root / f"val-{self._key(loader, training=False)}-{share}"
        if is_complete(folder):
            return BatchFiles(folder)
        images = len(cast(DetectionDataset, loader.dataset))
        writer = BatchWriter(folder)
        with self.log.chore("caching to evaluate on", images) as report:
            for batch in features_to_evaluate(
                self.model.features, loader, device=self.device, report=report
            ):
                writer.add(batch)
        return writer.finish()

    def _key(self, loader: DataLoader[Any], *, training: bool) -> str:
        annotations = cast(DetectionDataset, loader.dataset).annotations
        weights = self.model.backbone.state_dict()
        if self.is_trained:  # their maps are made anew, and they differ whenever a run is resumed
            for name, parameter in self.model.backbone.named_parameters():
                if parameter.requires_grad:
                    del weights[name]
        precision = self.model.precision
        return feature_key(weights, precision, self.config, annotations, training=training)


def let_go(train: DataLoader[Any], val: EvaluationBatches) -> None:
    """Free the memory of cached features, to which accelerate's loaders keep references."""
    if isinstance(train.dataset, FeatureCache):
        train.dataset.clear()
    if isinstance(val, list):
        val.clear()
