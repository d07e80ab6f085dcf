"""Which device a model runs on."""

import os
from datetime import timedelta

import torch
from torch import Tensor

from aligndetr.errors import ConfigError

LONGEST_CHORE = timedelta(hours=12)
"""For so long processes wait for one that is at work alone, as when it caches features in files."""


def resolve_device(name: str) -> torch.device:
    """Return the device that "auto", "cpu", "cuda" or "mps" stands for.

    auto takes the accelerator that torch finds, else the CPU. In a distributed run each process
    takes the accelerator of its local rank.

    Raises:
        ConfigError: There is no such device here.
    """
    available = torch.accelerator.current_accelerator(check_available=True)
    if name == "cpu" or (name == "auto" and available is None):
        return torch.device("cpu")
    if available is None or name not in ("auto", available.type):
        found = "only the CPU" if available is None else f"{available.type} and the CPU"
        raise ConfigError(
            f"--device: expected a device of this machine, found {name!r}; use {found}"
        )
    if available.type == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return available


def local_processes() -> int:
    """Return how many processes of a distributed run share this machine and its memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Return whether this process tells what a distributed run found; alone, it is."""
    return int(os.environ.get("RANK", "0")) == 0


def from_host(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a small tensor of the CPU on a device, which does not make a GPU's queue wait."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
