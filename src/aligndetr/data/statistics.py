"""What a split is like: how many images, how large, and what is to be found in them."""

from dataclasses import dataclass

import numpy as np

from aligndetr.data.annotations import Annotations

SMALL_PERCENTILE = 10.0


@dataclass(frozen=True)
class Statistics:
    """Numbers of a split that tell what a detector for it needs.

    `size` is the median height and width of its images in pixels; `most_objects` those of the
    fullest image; `small_side` the root of the area of an object, in pixels, which a tenth of
    the objects does not reach; None where there is no object. Crowd regions and empty boxes do not
    count.
    """

    images: int
    classes: int
    size: tuple[int, int]
    objects: int
    most_objects: int
    small_side: float | None

    @staticmethod
    def of(annotations: Annotations) -> "Statistics":
        """Count a split."""
        boxes = [annotations.targets(index)[0].numpy() for index in range(len(annotations))]
        every = np.concatenate(boxes)
        sides = np.sqrt((every[:, 2] - every[:, 0]) * (every[:, 3] - every[:, 1]))
        height, width = np.median(annotations.images.sizes, axis=0)
        return Statistics(
            images=len(annotations),
            classes=len(annotations.classes),
            size=(int(height), int(width)),
            objects=len(every),
            most_objects=max(map(len, boxes)),
            small_side=float(np.percentile(sides, SMALL_PERCENTILE)) if len(sides) else None,
        )

    def __str__(self) -> str:
        height, width = self.size
        small = "" if self.small_side is None else f", a tenth below {self.small_side:.0f} px"
        kinds = f"{self.classes} class{'es' * (self.classes != 1)}"
        return (
            f"{self.images} images, mostly {width}x{height}; {self.objects} objects of "
            f"{kinds}{small}; {self.most_objects} in the fullest image"
        )
