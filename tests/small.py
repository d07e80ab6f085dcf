"""Options for tests that train: whole, but tiny."""

SMALL = (
    "backbone.pretrained=false",
    "width=32",
    "decoder.layers=2",
    "decoder.feedforward=32",
    "queries.count=12",
    "denoising.queries=4",
    "data.batch_size=4",
    "data.eval_batch_size=4",
    "data.workers=0",
    "data.cached_views=1",
    "precision=fp32",
)
"""Changes to `align-dino-tiny` that let it train in a second."""

SMALL_REGIONS = (
    "backbone.pretrained=false",
    "width=16",
    "proposals.sizes=[8, 16, 32, 64]",
    "proposals.count=50",
    "proposals.training_count=50",
    "head.hidden=16",
    "head.samples=16",
    "data.augmentation.short_side=64",
    "data.augmentation.max_side=96",
    "data.batch_size=4",
    "data.eval_batch_size=4",
    "data.workers=0",
    "data.cached_views=1",
    "precision=fp32",
)
"""Changes to `faster-rcnn-lite` that do the same."""
