"""Run by test_processes.py in each of two processes: some steps of two images each."""

import importlib.util
import sys
from pathlib import Path

import torch
from torch import nn

from aligndetr.config.schema import Config
from aligndetr.data.formats import open_split
from aligndetr.train.budget import Budget


def main(folder: Path, config: str, steps: int) -> None:
    spec = importlib.util.spec_from_file_location("lab", Path(__file__).with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    conftest = importlib.util.module_from_spec(spec)
    sys.modules["lab"] = conftest
    spec.loader.exec_module(conftest)
    nn.Dropout.forward = lambda self, input: input
    data = folder / "shapes"
    lab = conftest.Lab(
        folder,
        open_split(data, "train"),
        open_split(data, "val"),
        Config.model_validate_json(config),
    )
    lab.fit(Budget(steps=steps), "two")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
