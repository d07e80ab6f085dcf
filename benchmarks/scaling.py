"""How time and memory grow: with image size, queries, objects, batch, threads and processes.

    python benchmarks/scaling.py [--repeats 3] [--json]

Training steps of `align-dino-lite`, whose frozen backbone runs too. For every quantity the fitted
order of growth: p in time ~ quantity^p, where 1 is linear. Two processes (gloo, one thread each)
are compared with one process of one thread.
"""

import argparse
import socket
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing import get_context
from multiprocessing.queues import Queue
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from aligndetr.config.presets import get_detr
from aligndetr.train.optimizer import build_optimizer
from tools.contestants import image_batch, make_our_step, objects, ours, training_step
from tools.report import Row, against, run
from tools.turns import Outcome, take_turns

MODEL = "align-dino-lite"
SIZE, OBJECTS, BATCH = (256, 256), 20, 2
AREAS = (256, 384, 512, 768)
STEPS = 12


def growth(
    quantity: str, sizes: Sequence[int], makers: Sequence[Any], options: argparse.Namespace
) -> list[Row]:
    """Return time and memory of the largest and the fitted orders."""
    found = take_turns(
        {str(size): make for size, make in zip(sizes, makers, strict=True)},
        repeats=options.repeats,
        threads=options.threads,
        warm_up=1,
    )
    outcomes: list[Outcome] = [found[str(size)] for size in sizes]
    label = f"{quantity} {sizes[0]} to {sizes[-1]}"
    seconds = order(sizes, [outcome.seconds for outcome in outcomes])
    memory = order(sizes, [outcome.peak_gib for outcome in outcomes])
    return [
        Row(label, "milliseconds at the most", outcomes[-1].ms),
        Row(label, "order of time", seconds, "p"),
        Row(label, "GiB at the most", outcomes[-1].peak_gib, "GiB"),
        Row(label, "order of memory", memory, "p"),
    ]


def order(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Return p of the power law that fits best."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def queries_of(count: int) -> Any:
    return get_detr(MODEL).queries.model_copy(update={"count": count})


def quantities(options: argparse.Namespace) -> list[Row]:
    def step(size: tuple[int, int] = SIZE, count: int = OBJECTS, batch: int = BATCH, **rest: Any):
        return partial(make_our_step, MODEL, "auto", size, count, batch, **rest)

    pixels = [side * side for side in AREAS]
    return [
        *growth("pixels", pixels, [step((side, side)) for side in AREAS], options),
        *growth(
            "queries",
            (100, 300, 900),
            [step(queries=queries_of(count)) for count in (100, 300, 900)],
            options,
        ),
        *growth("objects", (10, 30, 90), [step(count=count) for count in (10, 30, 90)], options),
        *growth("batch", (1, 2, 4, 8), [step(batch=batch) for batch in (1, 2, 4, 8)], options),
    ]


def threads(options: argparse.Namespace) -> list[Row]:
    """Return the speed of two threads beside that of one."""
    make = partial(make_our_step, MODEL, "auto", SIZE, OBJECTS, 8)
    alone, both = (
        take_turns({"ours": make}, repeats=options.repeats, threads=count, warm_up=2)["ours"]
        for count in (1, 2)
    )
    return [against("threads 1 to 2", "a step of 8 images", both.ms, alone.ms)]


def processes(options: argparse.Namespace) -> list[Row]:
    """Return the images/s of two processes beside those of one, with a thread each."""
    alone, both = (max(speeds(count) for _ in range(options.repeats)) for count in (1, 2))
    return [against("processes 1 to 2", "training", both, alone, "images/s", more=True)]


def speeds(count: int) -> float:
    """Return the images/s of so many processes together."""
    context = get_context("spawn")
    queue = context.Queue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = [context.Process(target=work, args=(r, count, port, queue)) for r in range(count)]
    for worker in workers:
        worker.start()
    speed = queue.get()
    for worker in workers:
        worker.join()
    return speed


def work(rank: int, count: int, port: int, queue: "Queue[float]") -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count
    )
    config = get_detr(MODEL)
    network = ours(MODEL, "auto").train()
    parallel = DistributedDataParallel(network, find_unused_parameters=True)
    optimizer = build_optimizer(network, config.training)
    images, targets = image_batch(SIZE, 8), objects(OBJECTS, 8)
    start = 0.0
    for step in range(STEPS + 2):
        if step == 2:
            torch.distributed.barrier()
            start = time.perf_counter()
        training_step(parallel, config, optimizer, images, targets)
    torch.distributed.barrier()
    if rank == 0:
        queue.put(STEPS * 8 * count / (time.perf_counter() - start))
    torch.distributed.destroy_process_group()


def measure(options: argparse.Namespace) -> list[Row]:
    return [*quantities(options), *threads(options), *processes(options)]


if __name__ == "__main__":
    run(measure, __doc__ or "", peer="peer", repeats=3)
