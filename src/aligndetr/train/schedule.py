"""The learning rate as a function of the share of the training that is done."""

import math
from typing import assert_never

from torch.optim import Optimizer

from aligndetr.config.schema import CosineSchedule, StepSchedule


def factor(schedule: StepSchedule | CosineSchedule, share: float) -> float:
    """Return what the learning rate is multiplied with once `share` in [0, 1] is done.

    The warm-up multiplies with share / warmup on top; the cosine spans what follows it.
    """
    warmup = share / schedule.warmup if share < schedule.warmup else 1.0
    match schedule:
        case StepSchedule():
            passed = sum(share >= milestone for milestone in schedule.milestones)
            return warmup * schedule.factor**passed
        case CosineSchedule():
            falling = max(share - schedule.warmup, 0.0) / max(1 - schedule.warmup, 1e-9)
            height = (1 + math.cos(math.pi * min(falling, 1.0))) / 2
            return warmup * (schedule.floor + (1 - schedule.floor) * height)
        case _:
            assert_never(schedule)


def set_learning_rate(optimizer: Optimizer, factor: float) -> None:
    """Set the rate of every group to `factor` times the one it was built with."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["initial_lr"]
