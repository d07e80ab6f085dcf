"""Which device a model runs on."""

import os

import torch

from aligndetr.errors import ConfigError


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
