"""Time inference at full size: ours, transformers' network of the same sizes, and products alone.

    python benchmarks/inference.py [--size 800 1333] [--repeats 5] [--threads N] [--json]

From pixels to the scores and boxes of all queries; random weights. "Products" are the matrix
products and convolutions of our own network, in the same precision, without anything between them.
Then the throughput and the latency of the laptop's preset, which has no peer there.
"""

import argparse
from functools import partial

from tools.contestants import PEERS, make_our_inference, make_their_inference, timed_precisions
from tools.products import make_products
from tools.report import Row, against, run
from tools.turns import Outcome, take_turns

DINO, DAB, LITE = "align-dino-r50-4scale", "dab-detr-r50", "align-dino-lite"
SMALL, SQUARE = (240, 320), (320, 320)


def full_size(options: argparse.Namespace, model: str, precisions: tuple[str, ...]) -> list[Row]:
    """Return a model's rows against its peer and against its products."""
    size = tuple(options.size)
    peer = PEERS[model]
    makers = {peer: partial(make_their_inference, peer, size)}
    for precision in precisions:
        make = partial(make_our_inference, model, precision, size)
        makers |= {precision: make, f"{precision} products": partial(make_products, make)}
    found = take_turns(makers, repeats=options.repeats, threads=options.threads)
    rows: list[Row] = []
    for precision in precisions:
        ours = found[precision]
        case = f"{model} {precision}"
        rows += compared(case, f"transformers {peer}", ours, found[peer])
        products = found[f"{precision} products"]
        rows.append(against(case, "products alone", ours.ms, products.ms))
    return rows


def compared(case: str, peer: str, ours: Outcome, theirs: Outcome) -> list[Row]:
    """Return time and memory of both."""
    return [
        against(case, peer, ours.ms, theirs.ms),
        against(case, f"{peer}, peak memory", ours.peak_gib, theirs.peak_gib, "GiB"),
    ]


def laptop(options: argparse.Namespace) -> list[Row]:
    """Return throughput and latency of the laptop's preset, each measured by itself."""
    batch, one = (
        take_turns(
            {"ours": partial(make_our_inference, LITE, "auto", size, images)},
            repeats=6 * options.repeats,
            threads=options.threads,
            warm_up=5,
        )["ours"]
        for size, images in ((SMALL, 8), (SQUARE, 1))
    )
    return [
        Row(LITE, "240 x 320, batches of 8", 8 / batch.seconds, "images/s"),
        Row(LITE, "320 x 320, one image", one.ms),
    ]


def measure(options: argparse.Namespace) -> list[Row]:
    return [
        *full_size(options, DINO, timed_precisions()),
        *full_size(options, DAB, ("fp32",)),
        *laptop(options),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("H", "W"))
    run(measure, __doc__ or "", peer="peer", parser=parser)
