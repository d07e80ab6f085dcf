"""Networks that compete: ours by preset, and those of transformers at the same sizes.

All have random weights and see the same picture of noise. Each `make_*` runs in the process of its
contestant (`turns.py`) and returns the call that is timed.
"""

import os
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from aligndetr.config.presets import get_detr
from aligndetr.config.schema import Config
from aligndetr.model.build import build_model
from aligndetr.model.detector import DetectorModel
from aligndetr.precision import cpu_advantage
from aligndetr.train.memory import keep_heap
from aligndetr.train.optimizer import build_optimizer
from aligndetr.types import Features, ImageBatch, Targets
from tools.turns import Call

CPU = torch.device("cpu")
CLASSES, CLIP_NORM, LEARNING_RATE = 80, 0.1, 1e-4
EMULATED = 0.5
"""A CPU whose products are this many times as fast in bf16 as in fp32, or fewer, emulates bf16."""
PEERS = {"align-dino-r50-4scale": "DeformableDetr", "dab-detr-r50": "DabDetr"}
"""Our preset -> the class of transformers whose network has the same sizes."""

Size = tuple[int, int]
"""Height and width."""


def timed_precisions() -> tuple[str, ...]:
    """Return what networks are timed in: fp32, and bf16 unless this CPU only emulates it."""
    return ("fp32", "bf16") if cpu_advantage() > EMULATED else ("fp32",)


def ours(model: str, precision: str, **changes: object) -> DetectorModel:
    """Return the network of a preset on the CPU, changed at its top level."""
    torch.manual_seed(0)
    keep_heap()
    config = get_detr(model).model_copy(update={"precision": precision, **changes})
    network, _ = build_model(config, device=CPU, pretrained=False)
    return network


def theirs(name: str) -> nn.Module:
    """Return the detector of transformers with ResNet-50, in float32 as it comes.

    Feed-forward networks of 2,048 and 900 queries in two stages make its DeformableDetr a DINO;
    all decoder layers have losses, as in ours.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    import transformers  # heavy, and not in the process of every contestant

    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", message="You'd better set embed_dim")
    stages = (2, 3, 4) if name == "DeformableDetr" else (4,)
    backbone = transformers.TimmBackboneConfig(backbone="resnet50", out_indices=list(stages))
    sizes: dict[str, Any] = {
        "num_labels": CLASSES,
        "auxiliary_loss": True,
        "encoder_ffn_dim": 2048,
        "decoder_ffn_dim": 2048,
    }
    if name == "DeformableDetr":
        sizes |= {"two_stage": True, "two_stage_num_proposals": 900, "with_box_refine": True}
    config = getattr(transformers, f"{name}Config")(backbone_config=backbone, **sizes)
    return getattr(transformers, f"{name}ForObjectDetection")(config)


def noise(size: Size, batch: int = 1) -> Tensor:
    """Return pixels (B, 3, H, W)."""
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def objects(count: int, batch: int = 1) -> Targets:
    """Return `count` objects for each image."""
    generator = torch.Generator().manual_seed(2)
    boxes = torch.rand(batch * count, 4, generator=generator) * 0.2 + 0.2
    labels = torch.randint(CLASSES, (batch * count,), generator=generator)
    return Targets(boxes, labels, (count,) * batch)


def image_batch(size: Size, batch: int = 1) -> ImageBatch:
    """Return pictures of noise without padding."""
    return ImageBatch(noise(size, batch), None, torch.tensor([size] * batch))


def make_our_inference(model: str, precision: str, size: Size, batch: int = 1) -> Call:
    """Return a call that goes from pixels to boxes and scores, in evaluation mode."""
    network = ours(model, precision).eval()
    images = image_batch(size, batch)

    @torch.no_grad()
    def call() -> None:
        network(images)

    return call


def make_their_inference(name: str, size: Size) -> Call:
    """Return the same call of transformers."""
    network = theirs(name).eval()
    pixels = noise(size)

    @torch.no_grad()
    def call() -> None:
        network(pixel_values=pixels)

    return call


def make_our_step(
    model: str, precision: str, size: Size, count: int, batch: int = 1, **changes: object
) -> Call:
    """Return a call that takes a training step, like `aligndetr train`; its value is the loss."""
    config = get_detr(model).model_copy(update=changes)
    network = ours(model, precision, **changes).train()
    optimizer = build_optimizer(network, config.training)
    images, targets = image_batch(size, batch), objects(count, batch)
    torch.manual_seed(3)  # so that denoising draws the same in every precision

    def call() -> float:
        return training_step(network, config, optimizer, images, targets)

    return call


def make_cached_step(model: str, size: Size, count: int, batch: int) -> Call:
    """Return the call of `make_our_step` on backbone maps that are computed already."""
    config = get_detr(model)
    network = ours(model, "auto").train()
    optimizer = build_optimizer(network, config.training)
    features, targets = network.features(image_batch(size, batch)), objects(count, batch)

    def call() -> float:
        return training_step(network, config, optimizer, features, targets)

    return call


def training_step(
    network: nn.Module,
    config: Config,
    optimizer: Optimizer,
    images: ImageBatch | Features,
    targets: Targets,
) -> float:
    """Take a training step of one of our networks, plain or distributed, and return its loss."""
    losses = config.criterion(network(images, targets), targets)
    loss = torch.stack(list(losses.values())).sum()
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    return update(loss, weights, optimizer, config.training.clip_norm)


def update(
    loss: Tensor, weights: list[nn.Parameter], optimizer: Optimizer, clip_norm: float
) -> float:
    """Go backward, clip, change the weights, and return the loss."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, clip_norm)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def make_their_step(name: str, size: Size, count: int) -> Call:
    """Return the same call of transformers, with AdamW and clipping."""
    network = theirs(name).train()
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=1e-4)
    pixels, targets = noise(size), objects(count)
    labels = [{"class_labels": targets.labels, "boxes": targets.boxes}]

    def call() -> float:
        loss = network(pixel_values=pixels, labels=labels).loss
        return update(loss, weights, optimizer, CLIP_NORM)

    return call
