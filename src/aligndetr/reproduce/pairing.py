"""Paired seeds: arms of one seed start from the same weights.

A network whose arm adds a layer (the IoU branch) draws more random numbers than its preset, and
all later ones would differ. So every arm starts from the tensors of its plain preset of that seed,
wherever name and shape agree. Arms of other systems share seed, order of images and views.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from aligndetr.checkpoint import save_weights
from aligndetr.config.presets import get_preset
from aligndetr.config.schema import AnyConfig, Config
from aligndetr.data.formats import open_split
from aligndetr.model.build import build_model
from aligndetr.reproduce.small import DataSet

CPU = torch.device("cpu")


def write_start(path: Path, config: AnyConfig, data: DataSet) -> None:
    """Write the weights that a trial starts from.

    Raises:
        CheckpointError: The backbone's weights cannot be had.
    """
    state = _drawn(config)
    for name, tensor in _drawn(_plain(config)).items():
        if name in state and state[name].shape == tensor.shape:
            state[name] = tensor
    save_weights(path, state, config, open_split(data.folder, "train").classes)


def _drawn(config: AnyConfig) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        network, _ = build_model(config, device=CPU)
    return network.state_dict()


def _plain(config: AnyConfig) -> AnyConfig:
    """Return the configuration with the heads of its preset."""
    preset = get_preset(config.name)
    if not (isinstance(config, Config) and isinstance(preset, Config)):
        return config
    return config.model_copy(update={"head": preset.head})
