from typing import Any

import pytest
import torch
from torch.testing import assert_close

from aligndetr.integrations.detr import AlignCriterion
from aligndetr.losses.classification import IABCE
from aligndetr.losses.criterion import Criterion
from aligndetr.types import DetectorOutput, LayerOutput, QueryGroup, Targets


def layer(seed: int, queries: int = 6, images: int = 2) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, queries, 3, generator=generator)
    boxes = torch.rand(images, queries, 4, generator=generator) * 0.4 + 0.2
    return {"pred_logits": logits.requires_grad_(), "pred_boxes": boxes.requires_grad_()}


def one_column(output: dict[str, Any]) -> dict[str, Any]:
    return output | {"pred_logits": output["pred_logits"][..., :1]}


def total_of(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(losses.values())).sum()


def targets(*counts: int):
    generator = torch.Generator().manual_seed(9)
    return [
        {
            "labels": torch.randint(0, 3, (count,), generator=generator),
            "boxes": torch.rand(count, 4, generator=generator) * 0.4 + 0.2,
        }
        for count in counts
    ]


def packed(dicts) -> Targets:
    return Targets.pack([t["boxes"] for t in dicts], [t["labels"] for t in dicts])


def ours_of(dicts) -> tuple[LayerOutput, ...]:
    return tuple(LayerOutput(d["pred_logits"], d["pred_boxes"]) for d in dicts)


def test_images_without_objects_have_only_background() -> None:
    losses = AlignCriterion()(layer(0), targets(0, 0))

    assert list(losses) == ["loss_class", "loss_bbox", "loss_giou"]
    assert losses["loss_class"] > 0
    assert losses["loss_bbox"] == losses["loss_giou"] == 0
    total_of(losses).backward()


def test_one_layer_by_hand() -> None:
    # A perfect box with score 1/2: t = (1/2)^(1/4), so the class loss is log 2; other classes
    # cost s^2 log 2 each.
    box = torch.tensor([[[0.5, 0.5, 0.2, 0.2]]])
    losses = AlignCriterion(weights=(2.0, 5.0, 2.0))(
        {"pred_logits": torch.zeros(1, 1, 3), "pred_boxes": box},
        [{"labels": torch.tensor([1]), "boxes": box[0]}],
    )

    assert losses["loss_class"].item() == pytest.approx(2 * (1 + 2 * 0.25) * 0.6931472, rel=1e-5)
    assert losses["loss_bbox"].item() == losses["loss_giou"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("k", [3, (2, 1, 2)])
def test_layers_are_named_and_matched_as_in_the_criterion(k) -> None:
    auxiliary, last, encoder = [layer(1), layer(2)], layer(3), layer(4, queries=11)
    outputs = last | {"aux_outputs": auxiliary, "enc_outputs": encoder}
    things = targets(2, 1)
    losses = AlignCriterion(k=k, proposal_k=2, tau=2.0)(outputs, things)
    criterion = Criterion(classification=IABCE(), k=k, proposal_k=2, tau=2.0)
    reference = criterion(
        DetectorOutput(
            ours_of([*auxiliary, last]), (QueryGroup("main", (0, 6)),), ours_of([encoder])[0]
        ),
        packed(things),
    )

    places = {"_0": "main.0", "_1": "main.1", "": "main.2", "_enc": "proposals"}
    terms = {"class": "class", "bbox": "l1", "giou": "giou"}
    assert set(losses) == {f"loss_{term}{place}" for term in terms for place in places}
    for suffix, place in places.items():
        for theirs, term in terms.items():
            assert_close(losses[f"loss_{theirs}{suffix}"], reference[f"{place}.{term}"])


def test_every_prediction_gets_a_gradient() -> None:
    outputs: dict[str, Any] = layer(5) | {
        "aux_outputs": [layer(6)],
        "enc_outputs": layer(7, queries=9),
    }
    total_of(AlignCriterion()(outputs, targets(1, 2))).backward()

    for output in (outputs, *outputs["aux_outputs"], outputs["enc_outputs"]):
        assert output["pred_logits"].grad.abs().sum() > 0
        assert output["pred_boxes"].grad.abs().sum() > 0


def test_binary_proposals_learn_their_first_logit_and_leave_the_targets_alone() -> None:
    # The published two_stage_binary_cls sets the labels of the targets themselves to 0.
    outputs = layer(8) | {"enc_outputs": layer(9, queries=9)}
    things = [
        {"labels": torch.tensor([2, 1]), "boxes": torch.rand(2, 4) * 0.4 + 0.2},
        {"labels": torch.tensor([1]), "boxes": torch.rand(1, 4) * 0.4 + 0.2},
    ]
    losses = AlignCriterion(binary_proposals=True)(outputs, things)
    plain = AlignCriterion()(outputs, things)
    background = [thing | {"labels": torch.zeros_like(thing["labels"])} for thing in things]
    as_objects = AlignCriterion(k=(1,))(outputs["enc_outputs"], background)

    assert [thing["labels"].tolist() for thing in things] == [[2, 1], [1]]
    assert_close(losses["loss_class_enc"], as_objects["loss_class"])
    assert_close(losses["loss_class"], plain["loss_class"])
    assert set(losses) == set(plain)


def test_other_losses_go_by_their_names() -> None:
    outputs, things = layer(10), targets(1, 1)
    focal = AlignCriterion(loss="focal", k=1)(outputs, things)
    plain = Criterion()(
        DetectorOutput(ours_of([outputs]), (QueryGroup("main", (0, 6)),)), packed(things)
    )

    assert_close(focal["loss_class"], plain["main.0.class"])
    softmax = AlignCriterion(loss="softmax", k=1)(
        outputs, [t | {"labels": t["labels"] % 2} for t in things]
    )
    assert torch.isfinite(softmax["loss_class"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "iabce"}, "found 'iabce'"),
        ({"loss": "qfl", "alpha": 0.5}, "found 'qfl' with {'alpha': 0.5}"),
        ({"alpha": 1.5}, "less than or equal to 1"),
    ],
)
def test_a_wrong_loss_or_option_is_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        AlignCriterion(**options)


def test_three_weights_are_wanted() -> None:
    with pytest.raises(ValueError, match="expected three weights, found 2"):
        AlignCriterion(weights=(1.0, 2.0))  # pyright: ignore[reportArgumentType]


def test_the_settings_are_printed() -> None:
    assert "Varifocal" in repr(AlignCriterion("vfl"))


def test_a_list_of_k_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one number or 1"):
        AlignCriterion(k=(2, 1))(layer(11), targets(1, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o, t: (o, t[:1]), "targets: expected 2, one an image, found 1"),
        (
            lambda o, t: (o, [t[0] | {"boxes": t[1]["boxes"]}, t[1]]),
            r"targets\[0\]: expected labels",
        ),
        (
            lambda o, t: (o, [t[0], t[1] | {"labels": torch.tensor([-1])}]),
            r"targets\[1\]\.labels: expected integers from 0 to 2, found \[-1\]",
        ),
        (lambda o, t: (o, [t[0], t[1] | {"labels": torch.tensor([3])}]), "from 0 to 2"),
        (lambda o, t: (o, [t[0], t[1] | {"labels": torch.tensor([1.0])}]), "expected integers"),
        (lambda o, t: (o | {"pred_boxes": torch.rand(2, 5, 4)}, t), "pred_boxes: expected shape"),
        (lambda o, t: (o | {"aux_outputs": [layer(1, queries=9)]}, t), "aux_outputs: expected"),
        (
            lambda o, t: (o | {"enc_outputs": layer(1, images=3)}, t),
            "enc_outputs: expected 2 images, found 3",
        ),
        (
            lambda o, t: (o | {"enc_outputs": one_column(layer(1))}, t),
            "enc_outputs: expected pred_logits of 3 classes, found 1; give binary_proposals",
        ),
        (
            lambda o, t: (o, [t[0], t[1] | {"boxes": 640 * t[1]["boxes"]}]),
            r"targets\[1\]\.boxes: expected cxcywh as shares",
        ),
        (
            lambda o, t: (o, [t[0] | {"boxes": t[0]["boxes"] * torch.nan}, t[1]]),
            r"targets\[0\]\.boxes: .* found \[\[nan",
        ),
        (
            lambda o, t: (o, [t[0] | {"boxes": -t[0]["boxes"]}, t[1]]),
            r"targets\[0\]\.boxes: expected",
        ),
        (lambda o, t: ({"logits": o["pred_logits"]}, t), "expected pred_logits and pred_boxes"),
        (lambda o, t: (o, [{"boxes": t[0]["boxes"]}, t[1]]), "found no {'labels'}"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        AlignCriterion()(*change(layer(0), targets(2, 1)))


def test_empty_labels_may_be_of_any_type_and_others_of_any_integers() -> None:
    things = targets(2, 0)
    things[0]["labels"] = things[0]["labels"].to(torch.uint8)
    things[1] = {"labels": torch.tensor([]), "boxes": torch.zeros(0, 4)}

    assert total_of(AlignCriterion()(layer(0), things)).isfinite()


def test_a_batch_of_no_images_has_no_loss() -> None:
    losses = AlignCriterion()(layer(0, images=0), [])

    assert {name: loss.item() for name, loss in losses.items()} == {
        "loss_class": 0.0,
        "loss_bbox": 0.0,
        "loss_giou": 0.0,
    }


@pytest.mark.parametrize(
    "dtypes", [("float64", "float32"), ("float32", "float64"), ("bfloat16",) * 2]
)
def test_predictions_may_be_of_any_precision(dtypes) -> None:
    outputs, things = layer(0), targets(2, 1)
    expected = AlignCriterion()(outputs, things)
    logits, boxes = (getattr(torch, name) for name in dtypes)
    found = AlignCriterion()(
        {
            "pred_logits": outputs["pred_logits"].to(logits),
            "pred_boxes": outputs["pred_boxes"].to(boxes),
        },
        things,
    )

    for name, loss in expected.items():
        tolerance = 0.1 if "bfloat16" in dtypes else 1e-5
        assert_close(found[name], loss, rtol=tolerance, atol=tolerance, check_dtype=False)


def test_many_objects_in_half_precision_are_counted_exactly() -> None:
    boxes = torch.rand(1001, 4, dtype=torch.bfloat16) * 0.4 + 0.2
    things = [{"labels": torch.zeros(1001, dtype=torch.int64), "boxes": boxes}]
    outputs = layer(0, images=1)
    half = AlignCriterion()(outputs, things)["loss_class"]
    full = AlignCriterion()(outputs, [things[0] | {"boxes": boxes.float()}])["loss_class"]

    assert_close(half, full)
