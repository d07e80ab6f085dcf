"""The images of a split, as a detector is evaluated on them."""

from collections.abc import Iterable

from aligndetr.config.schema import AnyConfig
from aligndetr.data.annotations import Annotations
from aligndetr.data.batch import evaluation_loader
from aligndetr.data.dataset import DetectionDataset
from aligndetr.types import Batch


def split_loader(config: AnyConfig, annotations: Annotations) -> Iterable[Batch]:
    """Return a loader of all images of a split, prepared as the configuration says."""
    backbone, options = config.backbone, config.data
    transform = options.augmentation.evaluation(backbone.mean, backbone.std)
    return evaluation_loader(
        DetectionDataset(annotations, transform),
        batch_size=options.eval_batch_size,
        workers=options.workers,
    )
