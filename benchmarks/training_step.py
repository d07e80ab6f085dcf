"""Time a training step at full size: ours, and transformers' network of the same sizes.

    python benchmarks/training_step.py [--size 800 1333] [--objects 20] [--repeats 5] [--json]

Forward, matching, losses of all layers, backward, clipping and AdamW; one picture of noise, random
weights, each contestant in a process of its own. Ours has denoising queries on top, and queries for
k positives an object. The loss in bf16 is compared with that in fp32 at equal weights and draws.
"""

import argparse
from functools import partial

from tools.contestants import PEERS, make_our_step, make_their_step
from tools.report import Row, against, run
from tools.turns import take_turns

DINO, DAB = "align-dino-r50-4scale", "dab-detr-r50"


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
    return [*steps(options, DINO, ("fp32", "bf16")), *steps(options, DAB, ("fp32",))]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("H", "W"))
    parser.add_argument("--objects", type=int, default=20, help="in the picture")
    run(measure, __doc__ or "", peer="peer", parser=parser)
