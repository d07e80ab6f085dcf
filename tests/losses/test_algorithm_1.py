"""The whole criterion against the paper's pseudo-code, written with loops and brute force."""

from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import algorithm_1
from aligndetr.losses.classification import IABCE
from aligndetr.losses.criterion import Criterion
from aligndetr.types import DetectorOutput, LayerOutput, QueryGroup, Targets


def random_case(seed: int, queries: int, counts: tuple[int, ...]):
    generator = torch.Generator().manual_seed(seed)
    draw: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
    logits = torch.randn(len(counts), queries, 3, **draw)
    boxes = torch.rand(len(counts), queries, 4, **draw) * 0.4 + 0.2
    labels = torch.randint(0, 3, (sum(counts),), generator=generator)
    targets = torch.rand(sum(counts), 4, **draw) * 0.4 + 0.2
    return logits, boxes, Targets(targets, labels, counts)


def total_of(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(losses.values())).sum()


def images_of(logits, boxes, targets: Targets):
    own = targets.boxes.split(list(targets.counts)), targets.labels.split(list(targets.counts))
    return [
        (logits[i].tolist(), boxes[i].tolist(), own[1][i].tolist(), own[0][i].tolist())
        for i in range(len(targets.counts))
    ]


@settings(max_examples=200)
@given(
    seed=st.integers(0, 2**31),
    queries=st.integers(1, 12),
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple),
    k=st.integers(1, 4),
    alpha=st.sampled_from([0.0, 0.25, 0.5]),
    tau=st.sampled_from([0.5, 1.5, 9.0]),
)
def test_the_criterion_equals_algorithm_1(seed, queries, counts, k, alpha, tau) -> None:
    logits, boxes, targets = random_case(seed, queries, counts)
    criterion = Criterion(classification=IABCE(alpha=alpha), k=k, proposal_k=2, tau=tau)
    layer = LayerOutput(logits, boxes)
    main = QueryGroup("main", (0, queries))
    ours = criterion(DetectorOutput((layer, layer), (main,), proposals=layer), targets)

    for name, positives in (("main.0", k), ("main.1", 1), ("proposals", 2)):
        theirs = algorithm_1.losses(
            images_of(logits, boxes, targets), positives, alpha=alpha, gamma=2.0, tau=tau
        )
        for (term, weight), expected in zip(
            (("class", 1), ("l1", 5), ("giou", 2)), theirs, strict=True
        ):
            found = ours[f"{name}.{term}"].item()
            assert found == pytest.approx(weight * expected, rel=1e-9, abs=1e-12)


@settings(max_examples=200)
@given(seed=st.integers(0, 2**31), k=st.integers(1, 3))
@example(seed=2494, k=1)  # a kink within 1e-6
def test_the_criterions_gradient_equals_finite_differences(seed, k) -> None:
    logits, boxes, targets = random_case(seed, 5, (2, 1))
    criterion = Criterion(classification=IABCE(), k=k)
    group = (QueryGroup("main", (0, 5)),)
    generator = torch.Generator().manual_seed(seed)
    steps = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in (logits, boxes)]

    def loss(shift: float) -> torch.Tensor:
        # The quality is a constant target: it is the same on both sides of the difference.
        moved = LayerOutput(logits + shift * steps[0], boxes + shift * steps[1])
        frozen = criterion.model_copy(update={"classification": constant})
        return total_of(frozen(DetectorOutput((moved, moved), group), targets))

    leaves = [x.clone().requires_grad_() for x in (logits, boxes)]
    output = DetectorOutput((LayerOutput(*leaves),) * 2, group)
    constant = Remembered(IABCE())
    total = total_of(criterion.model_copy(update={"classification": constant})(output, targets))
    gradients = torch.autograd.grad(total, leaves)
    slope = sum(float((g * step).sum()) for g, step in zip(gradients, steps, strict=True))
    # Losses have kinks (L1, the corners of IoU); the nearer the two sides, the rarer between them.
    numeric = (loss(1e-8) - loss(-1e-8)) / 2e-8

    assert slope == pytest.approx(numeric.item(), rel=1e-4, abs=1e-5)


class Remembered:
    """A loss that keeps the quality of its first call."""

    def __init__(self, loss: IABCE) -> None:
        self._loss, self._quality = loss, None

    def quality(self, m):
        if self._quality is None:
            self._quality = self._loss.quality(m)
        return self._quality

    def normaliser(self, positives, queries, total):
        return self._loss.normaliser(positives, queries, total)

    def __call__(self, *arguments):
        return self._loss(*arguments)
