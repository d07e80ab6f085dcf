"""What a split is like: how many images, how large, and what is to be found in them."""

from dataclasses import dataclass

import numpy as np

from aligndetr.data.annotations import Annotations

SMALL_PERCENTILE = 10.0


@dataclass(frozen=True)
class Statistics:
    """Numbers of a split that tell what a detector for it needs.

    `size` are the medians of the images' shorter and longer side in pixels; `most_objects` those
    of the fullest image; `small_share` what a tenth of the objects does not reach, of the root of
    an object's area relative to that of its image; None where there is no object. Crowd regions
    and empty boxes do not count.
    """

    images: int
    classes: int
    size: tuple[int, int]
    objects: int
    most_objects: int
    small_share: float | None

    @staticmethod
    def of(annotations: Annotations) -> "Statistics":
        """Count a split."""
        rows, boxes = annotations.target_boxes
        sizes = annotations.images.sizes
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        shares = np.sqrt(areas / sizes.prod(axis=1)[rows])
        shorter, longer = np.median(np.sort(sizes, axis=1), axis=0)
        return Statistics(
            images=len(annotations),
            classes=len(annotations.classes),
            size=(int(shorter), int(longer)),
            objects=len(boxes),
            most_objects=int(np.bincount(rows, minlength=1).max()),
            small_share=float(np.percentile(shares, SMALL_PERCENTILE)) if len(shares) else None,
        )

    def __str__(self) -> str:
        shorter, longer = self.size
        small = ""
        if self.small_share is not None:
            pixels = self.small_share * (shorter * longer) ** 0.5
            small = f", a tenth below {pixels:.0f} px"
        kinds = f"{self.classes} class{'es' * (self.classes != 1)}"
        return (
            f"{self.images} images, mostly {longer}x{shorter}; {self.objects} objects of "
            f"{kinds}{small}; {self.most_objects} in the fullest image"
        )
