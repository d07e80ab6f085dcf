"""Ground truth and predictions for the tests of the analysis."""

import numpy as np

from aligndetr.data.annotations import CocoDict
from aligndetr.evaluate.evaluator import Results

NOTHING: Results = np.empty((0, 7))


def truth(
    objects: list[tuple[int, int, list[float]]],
    *,
    images: int = 2,
    classes: int = 2,
    crowds: list[tuple[int, int, list[float]]] | None = None,
) -> CocoDict:
    """Return a COCO file of objects and crowd regions, each image id, category id and box.

    Images are 1, 2, ..., categories 1 "a", 2 "b", ...
    """
    every = [(*entry, 0) for entry in objects] + [(*entry, 1) for entry in crowds or []]
    return {
        "info": {},
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": 100, "width": 100}
            for i in range(1, images + 1)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": label,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": crowd,
            }
            for number, (image, label, box, crowd) in enumerate(every, start=1)
        ],
        "categories": [{"id": i, "name": chr(96 + i)} for i in range(1, classes + 1)],
    }


def found(*rows: tuple[int, int, float, list[float]]) -> Results:
    """Return results, each given as image id, category id, score and box."""
    return np.array([[image, *box, score, label] for image, label, score, box in rows]).reshape(
        -1, 7
    )


def random_case(seed: int, *, ties: bool = True) -> tuple[Results, CocoDict]:
    """Return a small random case: boxes on a grid and few scores, so that much is equal.

    Some images have no objects, some no predictions, some fewer predictions than objects; some
    objects are crowd regions, some are annotated with another area than that of their box.
    """
    random = np.random.default_rng(seed)
    images, classes = int(random.integers(1, 6)), int(random.integers(1, 4))
    scale = 1 if random.random() < 0.5 else 12

    def box() -> list[float]:
        numbers = random.integers([0, 0, 1, 1], [5, 5, 6, 6]).astype(float) * scale
        return (numbers if ties else numbers + random.uniform(0, 1, 4)).tolist()

    def some(most: int) -> range:
        return range(int(random.integers(0, most)))

    ground_truth = truth(
        [(int(random.integers(1, images + 1)), int(random.integers(1, classes + 1)), box())
         for _ in some(14)],
        images=images,
        classes=classes,
        crowds=[(int(random.integers(1, images + 1)), int(random.integers(1, classes + 1)), box())
                for _ in some(4)],
    )  # fmt: skip
    for annotation in ground_truth["annotations"]:
        annotation["area"] *= random.choice([1.0, 0.5])
    order = random.permutation(len(ground_truth["annotations"]))
    ground_truth["annotations"] = [ground_truth["annotations"][i] for i in order]
    rows = [
        (
            int(random.integers(1, images + 1)),
            int(random.integers(1, classes + 1)),
            float(random.integers(0, 6) / 5 if ties else random.random()),
            box(),
        )
        for _ in some(30)
    ]
    return found(*rows), ground_truth
