"""What does not fit is told by the names that it was published under."""

import pytest
import torch
from torch import Tensor

from aligndetr.convert.fit import Fit, fit, summarised


def renamed(name: str) -> str:
    return name.replace("transformer.", "").replace("self_attn", "attention")


def compared(published: dict[str, Tensor], network: dict[str, Tensor]) -> Fit:
    tensors = {renamed(name): value for name, value in published.items()}
    return fit(tensors, network, published, renamed)


NETWORK = {
    f"encoder.layers.{layer}.attention.{part}": torch.ones(2)
    for layer in range(3)
    for part in ("weight", "bias")
}
PUBLISHED = {
    name.replace("attention", "self_attn").replace("encoder", "transformer.encoder"): value
    for name, value in NETWORK.items()
}


def test_equal_names_and_shapes_fit():
    found = compared(PUBLISHED, NETWORK)
    assert found == Fit((), (), (), (), ())
    assert found.problems == ""


def test_what_is_missing_has_the_name_of_one_most_like_it():
    lacking = PUBLISHED.copy()
    del lacking["transformer.encoder.layers.1.self_attn.bias"]
    del lacking["transformer.encoder.layers.2.self_attn.weight"]
    del lacking["transformer.encoder.layers.2.self_attn.bias"]
    found = compared(lacking, {**NETWORK, "neck.level": torch.ones(1)})
    assert found.missing == (
        "transformer.encoder.layers.1.self_attn.bias",
        "transformer.encoder.layers.2.self_attn.weight",
        "transformer.encoder.layers.2.self_attn.bias",
        "neck.level",  # nothing is like it
    )
    assert found.problems == (
        "4 missing (transformer.encoder.layers.1.self_attn.bias and 1 like it, "
        "transformer.encoder.layers.2.self_attn.weight, neck.level)"
    )


def test_what_is_unexpected_or_of_another_shape_has_its_published_name():
    found = compared(
        PUBLISHED
        | {
            "transformer.patterns.weight": torch.ones(1),
            "transformer.encoder.layers.0.self_attn.bias": torch.ones(3, 1),
        },
        NETWORK,
    )
    assert found.unexpected == ("transformer.patterns.weight",)
    wrong = "transformer.encoder.layers.0.self_attn.bias 3x1 instead of 2"
    assert found.misshapen == (wrong,)
    assert found.problems == (
        f"1 unexpected (transformer.patterns.weight); 1 of another shape ({wrong})"
    )


def test_what_only_training_needs_starts_afresh_and_what_nobody_needs_is_left_out():
    published = PUBLISHED | {
        "criterion.empty_weight": torch.ones(2),
        "backbone.bn1.num_batches_tracked": torch.tensor(0),
        "pixel_mean": torch.ones(3),
    }
    found = compared(published, NETWORK | {"denoising.label.weight": torch.ones(2)})
    assert found.fresh == ("denoising.label.weight",)
    assert found.left_out == tuple(published)[-3:]
    assert found.problems == ""


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], ""),
        (["a.0"], "a.0"),
        (["a.0", "a.1", "b"], "a.0 and 1 like it, b"),
        (["a", "b", "c", "d", "e.0", "e.1"], "a, b, c, and 3 more"),
    ],
)
def test_names_that_differ_in_numbers_alone_are_one(names, expected):
    assert summarised(names) == expected
