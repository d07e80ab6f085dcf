"""Does an arm of the paper's scale work? One optimizer step of it, on small random images."""

from __future__ import annotations

import math

import torch

from aligndetr.config.schema import AnyConfig
from aligndetr.data.noise import noise_images, noise_targets
from aligndetr.losses.criterion import total_loss
from aligndetr.model.build import build_model
from aligndetr.train.optimizer import build_optimizer

SIZE_HW = (64, 96)
IMAGES = 2
OBJECTS = 3
"""Of each image."""
CPU = torch.device("cpu")


def one_step(config: AnyConfig) -> float:
    """Return the loss of the first step: whole network, random weights, two small images, CPU.

    Raises:
        AssertionError: The loss or the gradient is not finite, or no weight has changed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        plain = config.model_copy(update={"precision": "fp32"})
        network, _ = build_model(plain, device=CPU, pretrained=False)
        network.train()
        optimizer = build_optimizer(network, plain.training)
        images = noise_images(IMAGES, SIZE_HW)
        targets = noise_targets(IMAGES, OBJECTS, config.num_classes)
        terms = config.criterion(network(images, targets), targets)
    loss = total_loss(terms)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), config.training.clip_norm)
    value = float(loss.detach())
    assert math.isfinite(value), f"{config.name}: a loss of {value}"
    assert math.isfinite(float(norm)), f"{config.name}: a gradient of {float(norm)}"
    watched = max(network.parameters(), key=_gradient_size)
    before = watched.detach().clone()
    optimizer.step()
    assert not torch.equal(watched, before), f"{config.name}: nothing was learned"
    return value


def _gradient_size(parameter: torch.nn.Parameter) -> float:
    return 0.0 if parameter.grad is None else float(parameter.grad.abs().max())
