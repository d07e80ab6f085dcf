"""Time a training step at full size: ours, and transformers' network of the same sizes.

    python benchmarks/training_step.py [--size 800 1333] [--objects 20] [--repeats 5] [--json]

Forward, matching, losses of all layers, backward, clipping and AdamW; one picture of noise, random
weights, each contestant in a process of its own. Ours has denoising queries on top, and queries for
k positives an object. The loss in bf16 is compared with that in fp32 at equal weights and draws.
Then the throughput of the laptop's preset, which has no peer there.
"""

import argparse
from functools import partial

from aligndetr.config.presets import get_detr
from tools.contestants import (
    PEERS,
    make_cached_step,
    make_our_step,
    make_their_step,
    timed_precisions,
)
from tools.report import Row, against, run
from tools.turns import take_turns

DINO, DAB, LITE = "align-dino-r50-4scale", "dab-detr-r50", "align-dino-lite"
SMALL, BATCH, OBJECTS = (240, 320), 8, 12


def steps(options: argparse.Namespace, model: str, precisions: tuple[str, ...]) -> list[Row]:
    """Return a model's rows against its peer."""
    size = tuple(options.size)
    peer = PEERS[model]
    makers = {peer: partial(make_their_step, peer, size, options.objects)}
    for precision in precisions:
        makers[precision] = partial(make_our_step, model, precision, size, options.objects)
    found = take_turns(makers, repeats=options.repeats, threads=options.threads)
    theirs, rows = found[peer], []
    for precision in precisions:
        ours, case = found[precision], f"{model} {precision}"
        rows += [
            against(case, f"transformers {peer}", ours.ms, theirs.ms),
            against(case, f"{peer}, peak memory", ours.peak_gib, theirs.peak_gib, "GiB"),
        ]
    if "bf16" in precisions:
        losses = found["bf16"].value, found["fp32"].value
        rows.append(against(f"{model} bf16", "loss in fp32", *losses, ""))
    return rows


def measure(options: argparse.Namespace) -> list[Row]:
    return [
        *steps(options, DINO, timed_precisions()),
        *steps(options, DAB, ("fp32",)),
        *laptop(options),
    ]


def laptop(options: argparse.Namespace) -> list[Row]:
    """Return the throughput of the laptop's preset, each measured by itself."""
    trained = get_detr(LITE).backbone.model_copy(update={"freeze": 3})
    steps = {
        "cached features": partial(make_cached_step, LITE, SMALL, OBJECTS, BATCH),
        "frozen backbone": partial(make_our_step, LITE, "auto", SMALL, OBJECTS, BATCH),
        "three stages frozen": partial(
            make_our_step, LITE, "auto", SMALL, OBJECTS, BATCH, backbone=trained
        ),
    }
    rows: list[Row] = []
    for name, make in steps.items():
        found = take_turns(
            {"ours": make}, repeats=4 * options.repeats, threads=options.threads, warm_up=4
        )["ours"]
        case = f"{LITE}, {BATCH} images of 240 x 320"
        rows.append(Row(case, name, BATCH / found.seconds, "images/s"))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("H", "W"))
    parser.add_argument("--objects", type=int, default=20, help="in the picture")
    run(measure, __doc__ or "", peer="peer", parser=parser)
