"""Networks of timm whose norms do something."""

import timm
import torch
from torch import nn


def timm_network(name: str, levels: tuple[int, ...]) -> nn.Module:
    """Return one that gives some levels' maps, for inference, its batch norms away from 1 and 0."""
    torch.manual_seed(0)
    model = timm.create_model(name, features_only=True, out_indices=levels)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.get_buffer("running_mean"), -0.5, 0.5)
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 2.0)
    return model.eval()
