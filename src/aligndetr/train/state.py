"""What a training is made of besides its data: averaged weights, position, and all that resumes it.

`state/training.pt` holds tensors, numbers and text only, and is read with `weights_only=True`:
reading it never runs code. It is replaced in one move, so a crash leaves the one before.
"""

from __future__ import annotations

import io
import pickle
import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from aligndetr.checkpoint import write_bytes
from aligndetr.errors import CheckpointError
from aligndetr.train.budget import Budget

STATE_FILE = Path("state") / "training.pt"
"""Where a run folder keeps what resumes it."""


@dataclass(frozen=True)
class Position:
    """How far a training has come: finished epochs, optimizer steps and seconds of its command.

    `evaluation_seconds` and `saving_seconds` of these went there; `evaluated_step` is the step
    of the last evaluation, -1 before the first; `best` the metrics of the best one;
    `is_unfrozen` says that the backbone is trained by now, `is_finished` that no step is to follow.
    """

    epoch: int = 0
    step: int = 0
    elapsed_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    saving_seconds: float = 0.0
    evaluated_step: int = -1
    best: Mapping[str, object] | None = None
    is_unfrozen: bool = False
    is_finished: bool = False


@dataclass(frozen=True)
class Trained:
    """The objects that training changes: `network`, its `optimizer`, its `average` if any."""

    network: nn.Module
    optimizer: Optimizer
    average: AveragedModel | None

    @property
    def evaluated(self) -> nn.Module:
        """The weights that are evaluated and kept: the averaged ones where there are some."""
        return self.network if self.average is None else self.average.module


@dataclass(frozen=True)
class Saved:
    """The content of `state/training.pt`.

    `weights` are the state dicts of network, optimizer and average; `random` the generator
    states of each process, by rank.
    """

    position: Position
    budget: Budget
    weights: Mapping[str, Any]
    random: tuple[Mapping[str, Any], ...]

    def require_processes(self, count: int) -> None:
        """Check that as many processes continue as began: each has its share of every batch.

        Raises:
            CheckpointError: They are more or fewer.
        """
        if count != len(self.random):
            raise CheckpointError(
                f"--resume: expected the number of processes that began this run, "
                f"{len(self.random)}, found {count}; start it with 'accelerate launch "
                f"--num_processes {len(self.random)}', or fine-tune from it with --model"
            )

    def restore(self, trained: Trained, rank: int) -> None:
        """Load the weights into `trained`, and set this process's random generators."""
        trained.network.load_state_dict(self.weights["network"])
        trained.optimizer.load_state_dict(self.weights["optimizer"])
        if trained.average is not None:
            trained.average.load_state_dict(self.weights["average"])
        set_random_state(self.random[rank])


class Average(AveragedModel):
    """A copy of a network that follows it: average <- d average + (1 - d) network.

    d rises with the number of updates n as min(decay, (1 + n) / (10 + n)), so that short
    trainings do not keep their random start. Buffers are averaged too. Unlike torch's own, an
    update does not wait for a GPU, and every tensor that it changes counts as changed.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network, use_buffers=True)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Follow the network, after a step of its optimizer; the first time, be equal to it."""
        count = int(self.n_averaged)  # it stays on the CPU
        decay = min(self.decay, (1 + count) / (10 + count)) if count else 0.0
        follow = get_ema_multi_avg_fn(decay)
        mine, others = list(_tensors(self.module)), list(_tensors(model))
        if count == 0:
            for average, other in zip(mine, others, strict=True):
                average.copy_(other)
        else:
            for dtype in {tensor.dtype for tensor in mine}:
                chosen = [index for index, tensor in enumerate(mine) if tensor.dtype == dtype]
                averages: Any = [mine[index] for index in chosen]
                current: Any = [others[index].detach() for index in chosen]
                follow(averages, current, count)
        torch.autograd.graph.increment_version(mine)
        self.n_averaged += 1


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from network.buffers()


def save_state(
    out: Path,
    trained: Trained,
    *,
    position: Position,
    budget: Budget,
    random: list[Mapping[str, Any]],
) -> None:
    """Write `state/training.pt` of the run folder `out`, replacing the one before.

    Raises:
        CheckpointError: The folder cannot be written to.
    """
    average = trained.average
    content = {
        "position": asdict(position),
        "budget": asdict(budget),
        "weights": {
            "network": trained.network.state_dict(),
            "optimizer": trained.optimizer.state_dict(),
            "average": None if average is None else average.state_dict(),
        },
        "random": random,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(out / STATE_FILE, buffer.getvalue())


def load_state(out: Path) -> Saved:
    """Return what `save_state` wrote, on the CPU.

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    path = out / STATE_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{path}: expected the state of a training, found none; a training can be resumed "
            "after its first epoch: start it again without --resume"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return Saved(
            Position(**content["position"]),
            Budget(**content["budget"]),
            content["weights"],
            tuple(content["random"]),
        )
    except (EOFError, KeyError, OSError, RuntimeError, TypeError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path}: expected the state of a training, found a file that cannot be read; "
            f"fine-tune from {out / 'last.safetensors'} instead"
        ) from error


def random_state() -> dict[str, Any]:
    """Return the states of this process's random generators: python's and torch's."""
    version, numbers, gauss = random.getstate()
    states: dict[str, Any] = {"python": [version, list(numbers), gauss]}
    states["torch"] = torch.get_rng_state()
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_state(states: Mapping[str, Any]) -> None:
    """Continue the random numbers where `random_state` noted them."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    torch.set_rng_state(states["torch"])
    cuda: Tensor | None = states.get("cuda")
    if cuda is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda)
