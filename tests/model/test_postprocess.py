import math

import pytest
import torch

from aligndetr.config.schema import Postprocess
from aligndetr.model.postprocess import postprocess
from aligndetr.types import Classes, DetectorOutput, LayerOutput, QueryGroup, RegionOutput

CLASSES = Classes(("cat", "dog"), (3, 7))


def output(logits: torch.Tensor, boxes: torch.Tensor, start: int = 0) -> DetectorOutput:
    groups = (QueryGroup("main", (start, logits.shape[1])),)
    return DetectorOutput((LayerOutput(logits, boxes),), groups)


def test_the_best_query_class_pairs_come_first_in_pixels():
    logits = torch.tensor([[[-9.0, 2.0], [1.0, 3.0]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.25, 0.5, 0.5, 1.0]]])
    (found,) = postprocess(
        output(logits, boxes), torch.tensor([[100, 200]]), CLASSES, Postprocess(top=3)
    )
    assert found.names == ("dog", "dog", "cat")
    torch.testing.assert_close(found.scores, torch.tensor([3.0, 2.0, 1.0]).sigmoid())
    expected = torch.tensor([[0.0, 0, 100, 100], [80, 30, 120, 70], [0, 0, 100, 100]])
    torch.testing.assert_close(found.boxes, expected)
    assert found.image_size == (100, 200)


def test_boxes_are_clipped_to_the_image():
    boxes = torch.tensor([[[0.0, 1.0, 0.5, 0.5]]])
    (found,) = postprocess(
        output(torch.zeros(1, 1, 2), boxes), torch.tensor([[40, 80]]), CLASSES, Postprocess(top=1)
    )
    torch.testing.assert_close(found.boxes, torch.tensor([[0.0, 30.0, 20.0, 40.0]]))


def test_only_the_main_group_counts_and_top_may_exceed_the_pairs():
    logits = torch.tensor([[[9.0, 9.0], [1.0, 0.0]]])
    boxes = torch.full((1, 2, 4), 0.5)
    (found,) = postprocess(
        output(logits, boxes, 1), torch.tensor([[10, 10]]), CLASSES, Postprocess(top=300)
    )
    torch.testing.assert_close(found.scores, torch.tensor([1.0, 0.0]).sigmoid())


def test_nms_drops_the_worse_of_two_boxes_of_one_class_alone():
    logits = torch.tensor([[[2.0, -9.0], [3.0, -9.0], [-9.0, 1.0]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.4, 0.42], [0.5, 0.5, 0.4, 0.4]]])
    options = Postprocess(top=3, nms_iou=0.9)
    (found,) = postprocess(output(logits, boxes), torch.tensor([[10, 10]]), CLASSES, options)
    assert found.names == ("cat", "dog")
    torch.testing.assert_close(found.scores, torch.tensor([3.0, 1.0]).sigmoid())


def test_nms_of_no_detections_is_none():
    (found,) = postprocess(
        output(torch.zeros(1, 0, 2), torch.zeros(1, 0, 4)),
        torch.tensor([[10, 10]]),
        CLASSES,
        Postprocess(nms_iou=0.5),
    )
    assert len(found) == 0


@pytest.mark.parametrize(("power", "expected"), [(0.0, 0.5), (0.3, 0.5**0.7 * 0.8**0.3)])
def test_scores_are_fused_with_the_predicted_iou(power, expected) -> None:
    layer = LayerOutput(
        torch.tensor([[[0.0, -20.0]]]),
        torch.full((1, 1, 4), 0.5),
        torch.tensor([[math.log(4.0)]]),  # an IoU of 0.8
    )
    found = DetectorOutput((layer,), (QueryGroup("main", (0, 1)),))
    options = Postprocess(top=1, iou_power=power)
    (detections,) = postprocess(found, torch.tensor([[10, 10]]), CLASSES, options)

    assert detections.scores.item() == pytest.approx(expected)


def test_what_a_region_detector_found_is_brought_into_pixels_alone() -> None:
    """It has chosen, ordered and thinned out itself."""
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.5, 0.5, 0.2, 0.4], [0.0, 1.0, 0.5, 0.5]])
    scores, labels = torch.tensor([0.9, 0.8, 0.3]), torch.tensor([1, 1, 0])
    found = RegionOutput(
        {},
        (boxes, boxes[:0]),
        (scores, scores[:0]),
        (labels, labels[:0]),
    )
    sizes = torch.tensor([[100, 200], [30, 40]])
    first, second = postprocess(found, sizes, CLASSES, Postprocess(top=1, nms_iou=0.5))
    expected = torch.tensor([[80.0, 30, 120, 70], [80, 30, 120, 70], [0, 75, 50, 100]])
    torch.testing.assert_close(first.boxes, expected)
    assert first.names == ("dog", "dog", "cat")
    assert torch.equal(first.scores, scores)
    assert (len(second), second.image_size) == (0, (30, 40))


def test_a_softmax_gives_each_query_its_best_class_and_never_no_object():
    logits = torch.tensor([[[2.0, 1.0, 5.0], [0.0, 3.0, 0.0], [1.0, 1.5, 1.0]]])  # last: no object
    boxes = torch.rand(1, 3, 4) * 0.2 + 0.4
    layer = LayerOutput(logits, boxes)
    output = DetectorOutput((layer,), (QueryGroup("main", (0, 3)),))
    sizes = torch.tensor([[100, 100]])
    options = Postprocess(top=10, scores="softmax")
    (found,) = postprocess(output, sizes, Classes.numbered(2), options)
    shares = logits[0].softmax(-1)
    assert found.labels.tolist() == [1, 1, 0]  # queries 1, 2, 0
    expected = torch.stack((shares[1, 1], shares[2, 1], shares[0, 0]))
    torch.testing.assert_close(found.scores, expected)
