"""Time matching and losses against a plain implementation of the same maths, in one process.

The plain one works layer by layer and image by image, as DETR code is usually written: a cost
matrix of all predictions and all objects of the batch, repeated for the k positives, scipy, and
the diagonal of the pairwise IoU. Prints the median milliseconds of both, forward + backward, their
ratio, and the peak memory of each in a process of its own.

    python benchmarks/criterion.py [--repeats 7] [--threads N] [--json]
"""

import argparse
import ctypes
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from aligndetr.losses.box import BoxLoss
from aligndetr.losses.classification import IABCE
from aligndetr.losses.criterion import Criterion
from aligndetr.losses.matching import Matcher
from aligndetr.types import DetectorOutput, LayerOutput, QueryGroup, Targets
from tools.report import Row, against, run

IMAGES, QUERIES, CLASSES, OUTPUTS, POSITIVES = 2, 900, 80, 7, 2
ALPHA, TAU, EPS = 0.25, 1.5, 1e-6


@dataclass(frozen=True)
class Case:
    """How many objects an image has, and whether half of the predictions lie near one of them."""

    objects: int
    is_trained: bool


@dataclass(frozen=True)
class Batch:
    """Predictions (logits, boxes) of all outputs, the encoder's last, and the objects."""

    outputs: list[tuple[Tensor, Tensor]]
    targets: Targets


CASES = [Case(objects, trained) for objects in (7, 30, 100, 300) for trained in (False, True)]


def make(case: Case) -> Batch:
    generator = torch.Generator().manual_seed(0)
    total = IMAGES * case.objects

    def boxes(*shape: int) -> Tensor:
        centres = torch.rand(*shape, 2, generator=generator) * 0.8 + 0.1
        sizes = torch.rand(*shape, 2, generator=generator) * 0.2 + 0.02
        return torch.cat((centres, sizes), dim=-1)

    labels = torch.randint(0, CLASSES, (total,), generator=generator)
    targets = Targets(boxes(total), labels, (case.objects,) * IMAGES)
    outputs: list[tuple[Tensor, Tensor]] = []
    for _ in range(OUTPUTS):
        logits = torch.randn(IMAGES, QUERIES, CLASSES, generator=generator) - 4 * case.is_trained
        predicted = boxes(IMAGES, QUERIES)
        if case.is_trained:
            near = QUERIES // 2
            for image in range(IMAGES):
                object_of = torch.randint(0, case.objects, (near,), generator=generator)
                object_of += image * case.objects
                noise = 1 + 0.1 * torch.randn(near, 4, generator=generator)
                predicted[image, :near] = targets.boxes[object_of] * noise
                logits[image, torch.arange(near), labels[object_of]] += 3
        outputs.append((logits.requires_grad_(), predicted.clamp(0.001, 1).requires_grad_()))
    return Batch(outputs, targets)


def ours(batch: Batch) -> Callable[[], Tensor]:
    criterion = Criterion(
        classification=IABCE(alpha=ALPHA),
        box=BoxLoss(eps=EPS),
        matcher=Matcher(eps=EPS),
        k=POSITIVES,
        proposal_k=POSITIVES,
        tau=TAU,
        iou_eps=EPS,
    )
    layers = tuple(LayerOutput(logits, boxes) for logits, boxes in batch.outputs)
    output = DetectorOutput(layers[:-1], (QueryGroup("main", (0, QUERIES)),), layers[-1])

    def call() -> Tensor:
        return torch.stack(list(criterion(output, batch.targets).values())).sum()

    return call


def corners(boxes: Tensor) -> Tensor:
    x, y, w, h = boxes.unbind(-1)
    return torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), dim=-1)


def pairwise(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return IoU and GIoU of all xyxy pairs."""
    areas = ((boxes[:, 2:] - boxes[:, :2]).prod(dim=1) for boxes in (a, b))
    inner = torch.min(a[:, None, 2:], b[:, 2:]) - torch.max(a[:, None, :2], b[:, :2])
    overlap = inner.clamp(min=0).prod(dim=2)
    hull = torch.max(a[:, None, 2:], b[:, 2:]) - torch.min(a[:, None, :2], b[:, :2])
    union = next(areas)[:, None] + next(areas) - overlap
    hull_area = hull.clamp(min=0).prod(dim=2)
    iou = overlap / (union + EPS)
    return iou, iou - (hull_area - union) / (hull_area + EPS)


@torch.no_grad()
def plain_match(
    logits: Tensor, boxes: Tensor, targets: Targets, k: int
) -> list[tuple[Tensor, Tensor]]:
    s = logits.flatten(0, 1).sigmoid()
    negative = 0.75 * s**2 * -(1 - s + 1e-8).log()
    positive = 0.25 * (1 - s) ** 2 * -(s + 1e-8).log()
    score = (positive - negative)[:, targets.labels]
    distance = torch.cdist(boxes.flatten(0, 1), targets.boxes, p=1)
    giou = pairwise(corners(boxes.flatten(0, 1)), corners(targets.boxes))[1]
    cost = (2 * score + 5 * distance - 2 * giou).view(IMAGES, QUERIES, -1).cpu()
    pairs: list[tuple[Tensor, Tensor]] = []
    for image, own in enumerate(cost.split(list(targets.counts), dim=-1)):
        query, column = linear_sum_assignment(own[image].repeat(1, k))
        target, order = torch.sort(torch.as_tensor(column) % targets.counts[image])
        pairs.append((torch.as_tensor(query)[order], target))
    return pairs


def plain_layer(logits: Tensor, boxes: Tensor, targets: Targets, k: int) -> Tensor:
    pairs = plain_match(logits, boxes, targets, k)
    image = torch.cat([torch.full_like(query, i) for i, (query, _) in enumerate(pairs)])
    query = torch.cat([query for query, _ in pairs])
    target = torch.cat(
        [target + offset for (_, target), offset in zip(pairs, targets.offsets, strict=True)]
    )
    labels, wanted = targets.labels[target], targets.boxes[target]
    found = boxes[image, query]
    iou, giou = (matrix.diag() for matrix in pairwise(corners(found), corners(wanted)))
    s = logits.sigmoid()
    quality = s[image, query, labels] ** ALPHA * iou ** (1 - ALPHA)
    quality = quality.clamp(min=0.01).detach()
    rank = quality.view(-1, k).argsort(dim=1, descending=True).argsort(dim=1)
    prime = torch.exp(-rank.flatten() / TAU)
    w_pos, w_neg = torch.zeros_like(s), s**2
    w_pos[image, query, labels] = prime * quality
    w_neg[image, query, labels] = 1 - prime * quality
    class_loss = (-w_pos * s.log() - w_neg * (1 - s).log()).sum()
    l1 = (prime[:, None] * (found - wanted).abs()).sum()
    return (class_loss + 5 * l1 + 2 * (prime * (1 - giou)).sum()) / len(targets)


def plain(batch: Batch) -> Callable[[], Tensor]:
    last = OUTPUTS - 2  # the last decoder layer; after it come the encoder's proposals
    k = max(1, min(POSITIVES, QUERIES // (2 * max(batch.targets.counts))))

    def call() -> Tensor:
        losses = [
            plain_layer(*output, batch.targets, 1 if index == last else k)
            for index, output in enumerate(batch.outputs)
        ]
        return torch.stack(losses).sum()

    return call


def step(batch: Batch, loss: Callable[[], Tensor]) -> float:
    """Return the seconds of one forward and backward pass."""
    start = time.perf_counter()
    leaves = [tensor for output in batch.outputs for tensor in output]
    torch.autograd.grad(loss(), leaves)
    return time.perf_counter() - start


def times(case: Case, repeats: int) -> list[float]:
    """Return the medians of `repeats` steps of each, taking turns, after one that warms up."""
    batch = make(case)
    ours_loss, plain_loss = ours(batch), plain(batch)
    torch.testing.assert_close(ours_loss(), plain_loss(), rtol=1e-3, atol=1e-3)
    pairs = [(step(batch, ours_loss), step(batch, plain_loss)) for _ in range(repeats + 1)]
    return [1e3 * statistics.median(column) for column in zip(*pairs[1:], strict=True)]


def peak_mib(case: Case, name: str, threads: int) -> float:
    """Return by how much a step raises this process's resident size at its peak (Linux)."""
    torch.set_num_threads(threads)
    loss = {"ours": ours, "plain": plain}[name]
    small = make(Case(1, is_trained=False))
    step(small, loss(small))  # compiles and loads what there is to load
    batch = make(case)
    ctypes.CDLL(None).malloc_trim(0)  # else pages that were freed are used without being counted
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = psutil.Process().memory_info().rss
    step(batch, loss(batch))
    status = Path("/proc/self/status").read_text()
    peak_kib = int(status.split("VmHWM:")[1].split()[0])
    return peak_kib / 1024 - before / 2**20


def memory(case: Case, threads: int) -> list[float]:
    """Return the MiB that a step of each adds, in a process of its own."""
    sizes: list[float] = []
    for name in ("ours", "plain"):
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as executor:
            sizes.append(executor.submit(peak_mib, case, name, threads).result())
    return sizes


def measure(options: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    for case in CASES:
        kind = "near" if case.is_trained else "random"
        name = f"{case.objects} objects, {kind} predictions"
        rows.append(against(name, "forward + backward", *times(case, options.repeats)))
        rows.append(against(name, "memory", *memory(case, options.threads), "MiB"))
    return rows


if __name__ == "__main__":
    run(measure, __doc__ or "", peer="plain", repeats=7)
