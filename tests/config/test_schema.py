import pytest

from aligndetr.config.codec import override
from aligndetr.config.presets import get_detr
from aligndetr.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        # classes: loss, matching and postprocessing must speak of the same scores
        (
            "dino-r50-4scale",
            "criterion.classification.type=softmax",
            'criterion.classification.type: softmax makes "no object" a class, by which queries '
            "of type 'top' cannot be chosen; choose another",
        ),
        (
            "detr-r50",
            "postprocess.scores=sigmoid",
            "postprocess.scores: expected softmax with the loss softmax, found sigmoid",
        ),
        (
            "dino-r50-4scale",
            "postprocess.scores=softmax",
            "postprocess.scores: expected sigmoid with the loss focal, found softmax",
        ),
        (
            "detr-r50",
            "criterion.matcher.score={type: focal}",
            "criterion.matcher.score.type: expected a cost of softmax scores with the loss "
            "softmax, found focal; change one of the two",
        ),
        (
            "dino-r50-4scale",
            "criterion.matcher.score={type: softmax}",
            "criterion.matcher.score.type: expected a cost of sigmoid scores with the loss focal, "
            "found softmax; change one of the two",
        ),
        # places: queries must have those that the decoder asks for
        (
            "detr-r50",
            "decoder.refinement=detached",
            "decoder: expected cross_attention.type=full and refinement=none with queries of type "
            "'learned', which have no reference; choose other queries",
        ),
        (
            "detr-r50",
            "decoder.cross_attention={type: gaussian}",
            "decoder: expected cross_attention.type=full and refinement=none",
        ),
        (
            "detr-r50",
            "decoder.position=embedded",
            "decoder.position: expected given with queries of type 'learned', found embedded; "
            "change one of the two",
        ),
        (
            "dab-detr-r50",
            "decoder.position=given",
            "decoder.position: expected embedded or scaled with queries of type 'anchor_boxes', "
            "found given; change one of the two",
        ),
        (
            "deformable-detr-two-stage-r50",
            "decoder.position=scaled",
            "decoder.position: expected given with queries of type 'top', found scaled",
        ),
        (
            "conditional-detr-r50",
            "denoising={type: plain}",
            "denoising: expected queries whose position follows from a reference box "
            "(anchor_boxes, or top with position=reference), found 'points'; set denoising=null",
        ),
        (
            "anchor-detr-r50",
            "denoising={type: contrastive}",
            "found 'anchor_points'; set denoising=null",
        ),
        (
            "deformable-detr-two-stage-r50",
            "denoising={type: contrastive}",
            "found 'top'; set denoising=null",
        ),
        (
            "conditional-detr-r50",
            "decoder.cross_attention.has_size=true",
            "decoder.cross_attention.has_size: expected queries with reference boxes, found "
            "'points'; set it to false",
        ),
        # rows and columns: on both sides, of one level
        (
            "anchor-detr-r50",
            "encoder={type: dense}",
            "encoder.type, decoder.cross_attention.type: expected row_column for both, with "
            "neck.levels=1, or for neither",
        ),
        (
            "anchor-detr-r50",
            "decoder.cross_attention={type: deformable}",
            "expected row_column for both, with neck.levels=1, or for neither",
        ),
        (
            "anchor-detr-r50",
            "neck.levels=2",
            "expected row_column for both, with neck.levels=1, or for neither",
        ),
        # positives of each decoder layer
        (
            "dino-r50-4scale",
            "criterion.k=[3, 1]",
            "criterion.k: expected one number or 6, one for each decoder layer, found 2; give as "
            "many",
        ),
        # sizes
        (
            "dino-r50-4scale",
            "heads=7",
            "heads: expected a divisor of the width 256, found 7; change one of the two",
        ),
        (
            "smca-r50",
            "encoder.mixing=[5]",
            "encoder.mixing: expected layers of 0 to 4, found [5]; name others, or add layers",
        ),
        (
            "align-dino-lite",
            "data.pad_to=[400, 400]",
            "data: pad_to: expected null with cache_features, whose maps have the size of their "
            "image, found [400, 400]",
        ),
    ],
)
def test_what_does_not_fit_together_is_said(name: str, change: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        override(get_detr(name), [change])
    assert message in str(caught.value)
