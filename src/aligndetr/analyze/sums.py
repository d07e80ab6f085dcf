"""Numbers that are ratios of sums over images: their values under any weights of the images."""

from dataclasses import dataclass

import numpy as np

from aligndetr.analyze.compiled import call
from aligndetr.analyze.curve_kernels import Rows, weighted_sums
from aligndetr.analyze.record import Floats, Ints


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums (n, M) of M columns over what each of the images (n,) has."""

    images: Ints
    columns: Floats

    def weighted(self, weights: Rows) -> Floats:
        """Return the sums (R, M) over images where image i counts weights[r, i] times."""
        sums = np.zeros((len(weights), self.columns.shape[1]))
        call(weighted_sums, weights, self.images, np.ascontiguousarray(self.columns), sums)
        return sums


def sum_by_image(images: Ints, columns: Floats) -> Sums:
    """Return the sums of entries, `columns` (P, M) each of an image (P,)."""
    present, rows = np.unique(images, return_inverse=True)
    sums = [sum_in_groups(rows, column, len(present)) for column in columns.T]
    return Sums(present, np.stack(sums, axis=1))


def sum_in_groups(groups: Ints, values: Floats, count: int) -> Floats:
    """Return the sum of the values (P,) of each of so many groups (P,)."""
    return np.bincount(groups, weights=values, minlength=count).astype(np.float64)


def divide(numerators: Floats, denominators: Floats) -> Floats:
    """Return the ratios, NaN where there is nothing to divide by."""
    nothing = denominators == 0
    return np.where(nothing, np.nan, numerators / np.where(nothing, 1.0, denominators))
