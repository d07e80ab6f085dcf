"""Feed a training: ours against torchvision's CocoDetection with the same augmentation.

    python benchmarks/loader.py [--images 96] [--repeats 3] [--json]

Pictures of 480 x 640 as JPEG files, seven objects each. Images per second of DETR's augmentation
from two workers; the share of time that training waits for data (align-dino-lite without a
feature cache); and what four workers' own memory grows by between the first and the tenth epoch.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch.utils.data import DataLoader

from aligndetr.config.presets import get_detr
from aligndetr.data.batch import set_epoch, stack_padded, training_loader
from aligndetr.data.coco import read_coco
from aligndetr.data.dataset import DetectionDataset
from aligndetr.data.transforms import DetrAugmentation, LightAugmentation
from aligndetr.train.optimizer import build_optimizer
from aligndetr.types import Batch
from tools.contestants import ours, training_step
from tools.report import Row, against, run
from tools.turns import Call, take_turns

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OBJECTS, BATCH, WORKERS = 7, 8, 2
EPOCHS, MANY_WORKERS, MANY_IMAGES = 10, 4, 2000
LITE = "align-dino-lite"


def write_pictures(folder: Path, files: int, images: int, size: tuple[int, int]) -> Path:
    """Write JPEG files, and annotations of `images` images that share them; return these."""
    random = np.random.default_rng(0)
    height, width = size
    for index in range(files):
        coarse = random.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), np.uint8)
        Image.fromarray(coarse).resize((width, height)).save(folder / f"{index}.jpg", quality=90)
    objects = [
        {
            "id": index + 1,
            "image_id": index // OBJECTS,
            "category_id": 1 + index % 5,
            "bbox": [*random.uniform(0, min(size) / 2, 2), *random.uniform(4, min(size) / 2, 2)],
            "iscrowd": 0,
            "area": 100.0,
        }
        for index in range(images * OBJECTS)
    ]
    content = {
        "images": [
            {"id": i, "file_name": f"{i % files}.jpg", "height": height, "width": width}
            for i in range(images)
        ],
        "categories": [{"id": label, "name": str(label)} for label in range(1, 6)],
        "annotations": objects,
    }
    file = folder / "train.json"
    file.write_text(json.dumps(content))
    return file


def our_loader(file: Path, augmentation: Any, workers: int) -> DataLoader[Any]:
    annotations = read_coco(file, folders=[file.parent])
    dataset = DetectionDataset(annotations, augmentation.training(MEAN, STD))
    return training_loader(dataset, batch_size=BATCH, workers=workers, seed=0)


def their_loader(file: Path, workers: int) -> DataLoader[Any]:
    """Return torchvision's data set with DETR's augmentation from torchvision's transforms."""
    from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
    from torchvision.transforms import v2

    ours = DetrAugmentation()
    resize = v2.RandomShortestSize(list(ours.short_sides), max_size=ours.max_side)
    crop = v2.Compose(
        [v2.RandomShortestSize(list(ours.crop_short_sides)), v2.RandomCrop(ours.crop_range[0])]
    )
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([crop], p=ours.crop),
            resize,
            v2.ClampBoundingBoxes(),
            v2.SanitizeBoundingBoxes(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    plain = CocoDetection(file.parent, file, transforms=transform)
    dataset = wrap_dataset_for_transforms_v2(plain, target_keys=("boxes", "labels"))
    return DataLoader(
        dataset,
        batch_size=BATCH,
        shuffle=True,
        num_workers=workers,
        collate_fn=stacked,
        drop_last=True,
        persistent_workers=True,
    )


def stacked(samples: list[tuple[Any, dict[str, Any]]]) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    images, targets = zip(*samples, strict=True)
    return stack_padded([image.as_subclass(torch.Tensor) for image in images]), list(targets)


def make_epoch(file: Path, whose: str) -> Call:
    """Return a call that loads an epoch."""
    is_ours = whose == "ours"
    loader = (
        our_loader(file, DetrAugmentation(), WORKERS) if is_ours else their_loader(file, WORKERS)
    )

    def call() -> None:
        for _ in loader:
            pass

    return call


def waiting_share(file: Path) -> tuple[float, float]:
    """Return the share of a training's time in which it waits for data, and its images/s."""
    config = get_detr(LITE)
    loader = our_loader(file, LightAugmentation(), WORKERS)
    network = ours(LITE, "auto").train()
    optimizer = build_optimizer(network, config.training)
    waited, images, started = 0.0, 0, 0.0
    for epoch in range(3):
        set_epoch(loader, epoch)
        batches: Iterator[Batch] = iter(loader)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                break
            if epoch > 0:  # the first one starts workers and compiles
                waited += time.perf_counter() - asked
                images += len(batch.image_ids)
                started = started or asked
            training_step(network, config, optimizer, batch.images, batch.targets)
    seconds = time.perf_counter() - started
    return waited / seconds, images / seconds


def growth_mib(file: Path) -> float:
    """Return by how much the memory of the workers, shared with nobody, grows over ten epochs."""
    loader = our_loader(file, LightAugmentation(short_side=48, max_side=64), MANY_WORKERS)
    sizes: list[float] = []
    for epoch in range(EPOCHS):
        set_epoch(loader, epoch)
        for _ in loader:
            pass
        own = [
            psutil.Process(child.pid).memory_full_info().uss
            for child in multiprocessing.active_children()
        ]
        sizes.append(sum(own) / 2**20)
    return sizes[-1] - sizes[0]


def measure(options: argparse.Namespace) -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        large, small = Path(name) / "large", Path(name) / "small"
        large.mkdir()
        small.mkdir()
        file = write_pictures(large, options.images, options.images, (480, 640))
        makers = {whose: partial(make_epoch, file, whose) for whose in ("ours", "theirs")}
        found = take_turns(makers, repeats=options.repeats, threads=1)
        images = options.images // BATCH * BATCH
        speeds = images / found["ours"].seconds, images / found["theirs"].seconds
        share, speed = waiting_share(file)
        many = write_pictures(small, 16, MANY_IMAGES, (48, 64))
        growth = growth_mib(many)
    return [
        against("DETR's augmentation, 480 x 640", "2 workers", *speeds, "images/s", more=True),
        Row(f"training {LITE} without a cache", "waiting for data", 100 * share, "%"),
        Row(f"training {LITE} without a cache", "speed", speed, "images/s"),
        Row(f"{MANY_WORKERS} workers, {EPOCHS} epochs", "growth of their memory", growth, "MiB"),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=96)
    run(measure, __doc__ or "", peer="CocoDetection", repeats=3, parser=parser)
