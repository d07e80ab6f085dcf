import pytest
import torch
from torch import Tensor

from aligndetr.types import Batch, Features, ImageBatch, Targets

SIZES = torch.tensor([[8, 8]])
PADDING = torch.zeros(1, 8, 8, dtype=torch.bool)
TARGETS = Targets(torch.rand(1, 4), torch.tensor([0]), (1,))


@pytest.mark.parametrize(
    "images",
    [
        ImageBatch(torch.rand(1, 3, 8, 8), PADDING, SIZES),
        Features((torch.rand(1, 2, 4, 4), torch.rand(1, 2, 2, 2)), PADDING, SIZES, (8, 8)),
    ],
)
@pytest.mark.parametrize(("device", "waits"), [("cpu", True), ("meta", False)])
def test_what_comes_to_the_cpu_is_waited_for_since_it_may_be_read_at_once(
    images: ImageBatch | Features, device: str, waits: bool, monkeypatch: pytest.MonkeyPatch
):
    asked: list[bool] = []
    move = Tensor.to

    def watched(self: Tensor, *where: object, non_blocking: bool = False) -> Tensor:
        asked.append(non_blocking)
        return move(self, *where, non_blocking=non_blocking)  # pyright: ignore

    monkeypatch.setattr(Tensor, "to", watched)
    batch = Batch(images, TARGETS, (3,)).to(torch.device(device))
    assert len(asked) in (5, 6)
    assert set(asked) == {not waits}
    assert batch.targets.boxes.device.type == batch.images.sizes.device.type == device
    assert batch.images.padding is not None
