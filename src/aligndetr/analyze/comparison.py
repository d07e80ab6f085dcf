"""Two detectors on the same images: how sure it is that one is ahead."""

from aligndetr.analyze.analysis import Analysis
from aligndetr.analyze.bootstrap import Interval, interval


def differences(one: Analysis, other: Analysis) -> dict[str, Interval]:
    """Return the intervals of the numbers of one analysis minus those of the other.

    Both must be of the same ground truth and settings: then a replicate has the same images in
    both, and what is hard in an image is hard for both, so that intervals are narrower than
    those of the two numbers.

    Raises:
        ValueError: They are of other images, or of another number of replicates.
    """
    sizes = [(a.counts.images, len(a.replicates["AP"])) for a in (one, other)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            "differences: expected analyses of the same images with equal settings, found "
            f"(images, replicates) {sizes[0]} and {sizes[1]}"
        )
    return {
        name: interval(values - other.replicates[name]) for name, values in one.replicates.items()
    }
