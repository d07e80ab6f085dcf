"""Data and runs that several rooms' tests share: small, synthetic, made once a session."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from aligndetr.data.shapes import shapes_dataset
from small import SMALL

settings.register_profile("untimed", deadline=None)  # a busy machine must not fail a test
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors are tiny: threads only wait for each other, on a busy machine for seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training and four validation pictures with shapes."""
    return shapes_dataset(tmp_path_factory.mktemp("shapes") / "data", train=8, val=4, size=64)


@pytest.fixture(scope="session")
def small_run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of four steps."""
    from aligndetr.runs import train

    out = tmp_path_factory.mktemp("runs") / "small"
    train(model="align-dino-tiny", data=shapes, out=out, steps=4, overrides=SMALL, device="cpu")
    return out
