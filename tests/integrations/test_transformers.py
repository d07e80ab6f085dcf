"""Our loss and kernel in small detectors of transformers."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aligndetr.integrations import transformers as ours
from aligndetr.integrations.detr import AlignCriterion
from aligndetr.integrations.transformers import AlignLoss, use_kernel

transformers: Any = pytest.importorskip("transformers")

CLASSES, QUERIES, LAYERS = 3, 7, 3
LABELS = [
    {"class_labels": torch.tensor([0, 2]), "boxes": torch.tensor([[0.3, 0.3, 0.2, 0.4]] * 2)},
    {"class_labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)},
]


def detector(system: str, **options: object) -> Any:
    torch.manual_seed(0)
    backbone = transformers.ResNetConfig(
        layer_type="basic", embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"] if system == "DeformableDetr" else ["stage4"],
    )  # fmt: skip
    sizes = {
        "hidden_size" if system == "DabDetr" else "d_model": 32,
        "encoder_layers": 2, "decoder_layers": LAYERS, "num_queries": QUERIES,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_labels": CLASSES, "dropout": 0.0,
        "backbone_config": backbone, "auxiliary_loss": True,
    }  # fmt: skip
    config = getattr(transformers, f"{system}Config")(**sizes | options)
    return getattr(transformers, f"{system}ForObjectDetection")(config)


def pixels() -> Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("system", ["DeformableDetr", "ConditionalDetr", "DabDetr"])
def test_the_loss_is_that_of_our_criterion_on_the_models_outputs(system: str):
    model = detector(system)
    model.loss_function = AlignLoss(k=2, tau=1.0)
    output = model(pixel_values=pixels(), labels=LABELS)
    layers = [*output.auxiliary_outputs, {"logits": output.logits, "pred_boxes": output.pred_boxes}]
    assert len(layers) == LAYERS
    *lower, last = [
        {"pred_logits": layer["logits"], "pred_boxes": layer["pred_boxes"]} for layer in layers
    ]
    targets = [{"labels": label["class_labels"], "boxes": label["boxes"]} for label in LABELS]
    expected = AlignCriterion(k=2, tau=1.0)({**last, "aux_outputs": lower}, targets)
    torch.testing.assert_close(output.loss_dict, expected)
    torch.testing.assert_close(output.loss, torch.stack(list(expected.values())).sum())
    names = {
        f"loss_{term}{layer}" for term in ("class", "bbox", "giou") for layer in ("", "_0", "_1")
    }
    assert output.loss_dict.keys() == names


def test_without_auxiliary_losses_the_last_layer_counts_alone():
    model = detector("DeformableDetr", auxiliary_loss=False)
    model.loss_function = AlignLoss()
    output = model(pixel_values=pixels(), labels=LABELS)
    assert output.loss_dict.keys() == {"loss_class", "loss_bbox", "loss_giou"}
    assert output.auxiliary_outputs is None


def test_a_few_steps_lower_the_loss():
    model = detector("DeformableDetr").train()
    model.loss_function = AlignLoss(k=1)
    use_kernel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses: list[float] = []
    for _ in range(12):
        loss = model(pixel_values=pixels(), labels=LABELS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("system", "loss", "words"),
    [
        ("Detr", "ia_bce", "expected logits without a column for no object, .* loss='softmax'"),
        ("DeformableDetr", "softmax", "expected logits with a column for no object"),
    ],
)
def test_classes_that_the_loss_does_not_know_are_refused(system: str, loss: str, words: str):
    model = detector(system)
    model.loss_function = AlignLoss(loss)
    with pytest.raises(ValueError, match=words):
        model(pixel_values=pixels(), labels=LABELS)


def test_detr_has_its_softmax():
    model = detector("Detr")
    model.loss_function = AlignLoss("softmax", k=1)
    assert model(pixel_values=pixels(), labels=LABELS).loss.isfinite()


def test_models_whose_losses_take_more_are_refused():
    config = transformers.RTDetrConfig()
    logits, boxes = torch.zeros(2, QUERIES, CLASSES), torch.rand(2, QUERIES, 4)
    with pytest.raises(ValueError, match=r"RTDetrConfig whose loss also takes denoising_meta"):
        AlignLoss()(
            logits, LABELS, logits.device, boxes, config, denoising_meta_values={"a": 1}, other=None
        )


def test_the_kernel_gives_the_same_outputs_and_gradients():
    model = detector("DeformableDetr", with_box_refine=True).double()
    with torch.no_grad():  # new ones sample at cells' centres, where two slopes meet
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    other = copy.deepcopy(model)
    assert use_kernel(other) == use_kernel(other) == 2 + LAYERS
    double = pixels().double()  # in single precision a location may round to another cell
    labels = [{**label, "boxes": label["boxes"].double()} for label in LABELS]
    outputs = [each(pixel_values=double, labels=labels) for each in (model, other)]
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(outputs[0].pred_boxes, outputs[1].pred_boxes, atol=1e-5, rtol=1e-5)
    for output in outputs:
        output.loss.backward()
    whole = sum(own.grad.square().sum() for own in model.parameters() if own.grad is not None)
    for (name, own), mine in zip(model.named_parameters(), other.parameters(), strict=True):
        if own.grad is None:
            assert mine.grad is None, name
        else:
            assert mine.grad is not None
            assert (mine.grad - own.grad).norm() <= 1e-9 * (own.grad.norm() + whole**0.5), name


def test_every_layer_calls_the_kernel_and_so_does_a_copy(monkeypatch: pytest.MonkeyPatch):
    calls: list[int] = []
    kernel = ours.deformable_attention

    def watched(value: Tensor, *others: Any) -> Tensor:
        calls.append(value.shape[1])
        return kernel(value, *others)

    monkeypatch.setattr(ours, "deformable_attention", watched)
    model = detector("DeformableDetr")
    use_kernel(model)
    with torch.no_grad():
        for each in (model, copy.deepcopy(model)):
            calls.clear()
            each(pixel_values=pixels())
            assert len(calls) == 2 + LAYERS


def test_other_devices_keep_their_own_way():
    model = detector("DeformableDetr")
    use_kernel(model)
    with torch.device("meta"):
        shapes = [(2, 3)]
        value, weights = torch.empty(1, 6, 4, 8), torch.empty(1, 5, 4, 1, 2)
        locations = torch.empty(1, 5, 4, 1, 2, 2)
    layer = next(m for m in model.modules() if type(m).__name__ == ours.SAMPLING)
    found = layer(value, torch.tensor(shapes), shapes, torch.tensor([0]), locations, weights, 64)
    assert (found.device.type, found.shape) == ("meta", (1, 5, 32))


def test_a_model_without_such_layers_is_refused():
    with pytest.raises(ValueError, match="found none in Linear"):
        use_kernel(nn.Linear(1, 1))
