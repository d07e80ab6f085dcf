"""Percentile bootstrap over images: how much a number would differ on other pictures of the kind.

A replicate draws as many images as there are, with replacement: image i counts w_i times. Images,
not objects, because those of one image are found and missed together.
"""

import numpy as np

from aligndetr.analyze.curve_kernels import Rows
from aligndetr.analyze.record import Floats

CONFIDENCE = 0.95

Interval = tuple[float, float] | None
"""Low and high end; None where there is nothing to measure on."""


Number = float | None
"""A measured number; None where there is nothing to measure on."""


def draw(images: int, replicates: int, *, seed: int) -> Rows:
    """Return how often each image counts in each replicate, (R, I)."""
    random = np.random.default_rng(seed)
    weights = np.zeros((replicates, images), np.int32)
    for row in weights if images else ():
        row[:] = np.bincount(random.integers(images, size=images), minlength=images)
    return weights


def interval(values: Floats) -> Interval:
    """Return the 95 % interval of a number's values (R,) in the replicates.

    Replicates in which it does not exist (NaN) are left out.
    """
    known = values[~np.isnan(values)]
    if len(known) == 0:
        return None
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, [outside, 1 - outside]).tolist()
    return low, high


def number(values: Floats) -> Number:
    """Return the first of a number's values, None for NaN."""
    return None if np.isnan(values[0]) else float(values[0])
