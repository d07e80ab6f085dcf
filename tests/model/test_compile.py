"""torch.compile, and layers that are recomputed in the backward pass."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aligndetr.config.schema import Config
from aligndetr.model.build import build_model
from aligndetr.model.detector import DetectorModel
from aligndetr.types import DetectorOutput, ImageBatch, Targets
from systems import CLASSES, CPU, SYSTEMS, network, small

QUICK = ("dino-r50-4scale",)


def picture() -> ImageBatch:
    torch.manual_seed(1)
    return ImageBatch(torch.randn(1, 3, 64, 96), None, torch.tensor([[64, 96]]))


def objects() -> Targets:
    torch.manual_seed(2)
    return Targets(torch.rand(3, 4) * 0.3 + 0.2, torch.randint(CLASSES, (3,)), (3,))


def assert_equal(found: DetectorOutput, expected: DetectorOutput) -> None:
    for mine, own in zip(found.layers, expected.layers, strict=True):
        torch.testing.assert_close(mine.logits, own.logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(mine.boxes, own.boxes, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "system",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SYSTEMS],
)
def test_the_whole_model_is_one_graph(system: str) -> None:
    torch.compiler.reset()
    model = network(system).eval()
    compiled: Any = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        expected = model(picture())
        assert_equal(compiled(picture()), expected)
    model.train()
    torch.manual_seed(0)
    expected = model(picture(), objects())
    torch.manual_seed(0)
    assert_equal(compiled(picture(), objects()), expected)
    model.eval()


def built(**changes: Any) -> tuple[Config, DetectorModel]:
    torch.manual_seed(0)
    config = small("align-dino-r50-4scale", **changes)
    return config, build_model(config, device=CPU)[0].train()


def loss_and_gradients(config: Config, model: DetectorModel) -> list[Tensor]:
    torch.manual_seed(0)
    losses = config.criterion(model(picture(), objects()), objects())
    loss = torch.stack(list(losses.values())).sum()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    return [loss, *(gradient for gradient in gradients if gradient is not None)]


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks at it in a Memory
def test_every_layer_and_the_backbone_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()
    compiled: list[str] = []
    real = nn.Module.compile

    def compile_eagerly(module: nn.Module) -> None:
        compiled.append(type(module).__name__)
        real(module, backend="eager", fullgraph=True)

    monkeypatch.setattr(nn.Module, "compile", compile_eagerly)
    expected = loss_and_gradients(*built())
    assert compiled == []
    config, model = built(compile=True)
    assert compiled == ["Backbone", "DeformableEncoderLayer", "DecoderLayer", "DecoderLayer"]
    torch.testing.assert_close(loss_and_gradients(config, model), expected, atol=1e-5, rtol=1e-4)
    assert model.state_dict().keys() == built()[1].state_dict().keys()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_to_machine_code_it_computes_the_same() -> None:
    torch.compiler.reset()
    expected = loss_and_gradients(*built())
    found = loss_and_gradients(*built(compile=True))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


class Kept:
    """Counts the bytes that autograd keeps for the backward pass, each tensor once."""

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self.sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    def bytes_of(self, model: DetectorModel) -> int:
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        with torch.no_grad():
            features = model.features(picture())
        with torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor):
            output = model(features, objects())
        total = sum(size for at, size in self.sizes.items() if at not in weights)
        del output
        return total


def test_recomputed_layers_give_the_same_and_keep_less() -> None:
    plain, recomputed = (
        built(training=small("dino-r50-4scale").training.model_copy(update={"recompute": choice}))
        for choice in (False, True)
    )
    torch.testing.assert_close(loss_and_gradients(*recomputed), loss_and_gradients(*plain))
    assert Kept().bytes_of(recomputed[1]) < 0.5 * Kept().bytes_of(plain[1])
    assert plain[1].state_dict().keys() == recomputed[1].state_dict().keys()
