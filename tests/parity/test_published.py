"""Our networks at published weights: memory, predictions, denoising, losses and gradients.

Runs on every case of `dino/`, `align/`, `dab/`, `deformable/` and `hdeformable/`; each case's
configuration is derived from its weights, as `aligndetr convert` does, and from its own metadata.
"""

import pytest
import torch
from torch import Tensor

from aligndetr.model.groups import attention_mask
from aligndetr.types import DetectorOutput
from parity.goldens import Golden
from parity.published import Published, features_of, targets_of

FOLDERS = ("dino", "align", "dab", "deformable", "hdeformable")
SUFFIXES = {"denoising": "_dn", "proposals": ("_interm", "_enc"), "extra": "_one2many"}
TERMS = {"class": ("loss_ce", "loss_class"), "l1": ("loss_bbox",), "giou": ("loss_giou",)}
every_case = pytest.mark.goldens(FOLDERS, "*.safetensors", has=("logits",))


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours.detach(), theirs, atol=tolerance, rtol=0)


@every_case
def test_the_encoders_memory_is_equal(golden: Golden):
    published = Published(golden)
    if "memory" not in golden:
        return  # left out of the file to keep it small; the predictions depend on it
    model = published.model.train(bool(golden.metadata["train"]))
    with torch.no_grad():
        neck = model.neck(features_of(golden))
        memory = model.encoder(neck)
    expected = golden["memory"]
    if expected.shape[0] != memory.tokens.shape[0] and expected.dim() == 3:
        is_sequence_first = expected.shape[0] == memory.tokens.shape[1]
        expected = expected.transpose(0, 1) if is_sequence_first else expected
    close(memory.tokens[: len(expected)], expected)


@every_case
def test_every_layers_predictions_are_equal(golden: Golden):
    output = Published(golden).output()
    for depth, layer in enumerate(output.layers):
        for group in output.groups:
            prefix = {"denoising": "dn_", "main": "", "extra": ""}[group.name]
            suffix = "_one2many" if group.name == "extra" else ""
            boxes = {"denoising": "dn_boxes", "main": "pred_boxes", "extra": "boxes_one2many"}
            part = layer.span(*group.span)
            close(part.logits, golden[f"{prefix}logits{suffix}"][depth])
            close(part.boxes, golden[boxes[group.name]][depth])


@every_case
def test_the_proposals_are_equal(golden: Golden):
    published = Published(golden)
    proposals = published.output().proposals
    names = [name for name in ("interm_logits", "enc_logits") if name in golden]
    if proposals is None or not names:
        assert proposals is None or "enc_logits" not in golden
        return
    boxes = golden[names[0].replace("logits", "boxes")]
    close(proposals.logits, golden[names[0]])
    close(proposals.boxes, boxes)


@pytest.mark.goldens(FOLDERS, "*.safetensors", has=("dn_attn_mask",))
def test_the_mask_of_denoising_queries_is_equal(golden: Golden):
    mask = attention_mask(Published(golden).output().groups, torch.device("cpu"))
    assert mask is not None
    assert torch.equal(mask, golden["dn_attn_mask"].bool())


def losses_of(published: Published) -> tuple[DetectorOutput, dict[str, Tensor]]:
    output = published.output()
    return output, published.config.criterion(output, targets_of(published.case))


def expected_losses(golden: Golden) -> dict[str, tuple[Tensor, float]]:
    """Published losses with their weights, but for what is only logged."""
    weights = golden.metadata["weight_dict"]
    return {
        name.removeprefix("loss."): (value, weights[name.removeprefix("loss.")])
        for name, value in golden.arrays.items()
        if name.startswith("loss.") and name.removeprefix("loss.") in weights
    }


def published_names(ours: str, last: int) -> set[str]:
    """All names that published code may have for one of our losses."""
    *place, term = ours.split(".")
    group, depth = place[0], place[-1]
    layer = "" if depth in (str(last), "proposals") else f"_{depth}"
    suffix = SUFFIXES.get(group, "")
    suffixes = suffix if isinstance(suffix, tuple) else (suffix,)
    return {
        f"{stem}{ending}"
        for stem in TERMS[term]
        for suffix in suffixes
        for ending in (f"{layer}{suffix}", f"{suffix}{layer}")
    }


@pytest.mark.goldens(FOLDERS, "*.safetensors", has=("logits", "gt_boxes"))
def test_every_loss_is_equal(golden: Golden):
    output, losses = losses_of(Published(golden))
    expected = expected_losses(golden)
    for name, value in losses.items():
        (theirs,) = published_names(name, len(output.layers) - 1) & expected.keys()
        published, weight = expected.pop(theirs)
        torch.testing.assert_close(value.detach(), published * weight, atol=1e-7, rtol=1e-4)
    for name, (published, _) in expected.items():  # of denoising, without any object
        assert float(published) == 0, name


@pytest.mark.goldens(FOLDERS, "*_grads.safetensors")
def test_every_gradient_is_equal(golden: Golden):
    case = golden.other(
        str(golden.path.parent / golden.path.name.replace("_grads.safetensors", ".safetensors"))
    )
    published = Published(case)
    _, losses = losses_of(published)
    torch.stack(list(losses.values())).sum().backward()
    raw = {name.removeprefix("grad."): value for name, value in golden.arrays.items()}
    expected = published.rename(raw)
    found = dict(published.model.named_parameters())
    assert found.keys() - expected.keys() <= {
        name
        for name, parameter in found.items()
        if parameter.grad is None or not parameter.grad.any()
    }
    for name, parameter in found.items():
        if name in expected:
            assert parameter.grad is not None, name
            error = (parameter.grad - expected[name]).norm()
            assert error <= 1e-4 * expected[name].norm() + 1e-7, name
