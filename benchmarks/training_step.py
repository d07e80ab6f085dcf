"""One full training step of a preset on the CPU: seconds, and the peak of the process's memory.

    python benchmarks/training_step.py [--model PRESET] [--steps 3] [--precision fp32]

Random weights and pictures of noise; forward, matching and losses, backward, clip, AdamW.
"""

import argparse
import resource
import statistics
import time
from itertools import pairwise

import torch

from aligndetr.config.presets import get_preset
from aligndetr.config.schema import Config
from aligndetr.model.build import build_model
from aligndetr.train.memory import keep_heap
from aligndetr.train.optimizer import build_optimizer
from aligndetr.types import ImageBatch, Targets

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="align-dino-r50-4scale")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), help="height width")
    parser.add_argument("--objects", type=int, default=20)
    parser.add_argument("--steps", type=int, default=3, help="the first one is left out")
    options = parser.parse_args()
    keep_heap()
    torch.manual_seed(0)
    config = get_preset(options.model).model_copy(update={"precision": options.precision})
    moments = train(config, tuple(options.size), options.objects, options.steps)
    seconds = [end - start for start, end in pairwise(moments)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{options.model} {options.precision} {options.size[0]}x{options.size[1]}, "
        f"{torch.get_num_threads()} threads: first step {seconds[0]:.1f} s, "
        f"then {statistics.median(seconds[1:] or seconds):.1f} s; peak RSS {peak:.2f} GiB"
    )


def train(config: Config, size: tuple[int, int], objects: int, steps: int) -> list[float]:
    """Return the moments before the first step and after each."""
    model, _ = build_model(config, device=CPU, pretrained=False)
    model.train()
    optimizer = build_optimizer(model, config.training)
    images = ImageBatch(torch.randn(1, 3, *size), None, torch.tensor([size]))
    boxes = torch.rand(objects, 4) * 0.2 + 0.2
    targets = Targets(boxes, torch.randint(config.num_classes, (objects,)), (objects,))
    moments = [time.perf_counter()]
    for _ in range(steps):
        losses = config.criterion(model(images, targets), targets)
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.training.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        moments.append(time.perf_counter())
    return moments


if __name__ == "__main__":
    main()
