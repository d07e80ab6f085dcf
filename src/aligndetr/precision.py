"""Which arithmetic a network runs in."""

import time
from functools import cache
from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]

ADVANTAGE = 1.25
"""How much faster than float32 products in bfloat16 must be on a CPU for `auto` to take them."""
ROWS, INNER, COLUMNS, TRIES = 1024, 256, 2048, 5
"""The product that is timed, of the shape of a feed-forward layer's, and how often."""


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the arithmetic of the transformer: auto is bf16 where the device is faster with it."""
    match precision:
        case "fp32":
            return torch.float32
        case "bf16":
            return torch.bfloat16
        case "auto":
            return torch.bfloat16 if _is_faster_in_bfloat16(device) else torch.float32


def settle(device: torch.device) -> Literal["fp32", "bf16"]:
    """Return the name of what `auto` means on a device now, for those who decide it once."""
    return "bf16" if resolve_precision("auto", device) == torch.bfloat16 else "fp32"


def _is_faster_in_bfloat16(device: torch.device) -> bool:
    match device.type:
        case "cuda":
            return torch.cuda.is_bf16_supported(including_emulation=False)
        case "cpu":
            # Private, but the public torch.cpu.get_capabilities is newer than torch 2.9.
            has_avx512 = torch.cpu._is_avx512_bf16_supported()  # pyright: ignore[reportPrivateUsage]
            has_amx = torch.cpu._is_amx_tile_supported()  # pyright: ignore[reportPrivateUsage]
            return (has_avx512 or has_amx) and cpu_advantage() > ADVANTAGE
        case _:
            return False


@cache
def cpu_advantage() -> float:
    """Return how many times faster a product is in bfloat16 than in float32 on this CPU.

    Having the instructions does not say: between CPUs with them it is from 0.5 to over 2. Measured
    once a process, in some 50 ms; the two take turns and the best time of each counts.
    """
    dtypes = (torch.float32, torch.bfloat16)
    pairs = [
        (torch.ones(ROWS, INNER, dtype=dtype), torch.ones(COLUMNS, INNER, dtype=dtype))
        for dtype in dtypes
    ]
    best = [float("inf")] * len(pairs)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        for _ in range(TRIES):
            for index, (rows, weight) in enumerate(pairs):
                start = time.perf_counter()
                torch.nn.functional.linear(rows, weight)
                best[index] = min(best[index], time.perf_counter() - start)
    return best[0] / best[1]
