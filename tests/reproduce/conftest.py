"""Experiments small enough for tests: two or three arms, a few steps, eight pictures."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aligndetr.reproduce.catalogue import EXPERIMENTS
from aligndetr.reproduce.experiment import Experiment
from aligndetr.reproduce.laptop import Plan
from aligndetr.reproduce.small import DataSet
from small import SMALL


@pytest.fixture(scope="session")
def data(shapes: Path) -> DataSet:
    return replace(DataSet.open(shapes), is_synthetic=True)  # the recipe of small pictures


@pytest.fixture
def plan_of(data: DataSet, tmp_path: Path) -> Callable[[Experiment], Plan]:
    def make(experiment: Experiment) -> Plan:
        return Plan((experiment,), data, tmp_path, 2, 1, (1.0,), "fp32", SMALL)

    return make


@pytest.fixture
def two_arms() -> Experiment:
    """Focal loss against both rows of the IoU branch: two trainings."""
    table = EXPERIMENTS["4"]
    arms = tuple(table.arm(key) for key in ("focal", "iou-branch*", "iou-branch"))
    return replace(table, arms=arms, claims=table.claims[5:6])
