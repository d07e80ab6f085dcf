"""Rows of results, options that all scripts have, and how both are printed."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One measured thing: ours beside the peer's, in `unit`; `ratio` says how much better ours is.

    Without a peer there is no ratio.
    """

    case: str
    measured: str
    ours: float
    unit: str = "ms"
    peer: float | None = None
    ratio: float | None = None


def against(
    case: str, measured: str, ours: float, peer: float, unit: str = "ms", *, more: bool = False
) -> Row:
    """Return a row with its ratio; `more` where more is better (images/s)."""
    ratio = ours / peer if more else peer / ours
    return Row(case, measured, ours, unit, peer, ratio)


def run(
    measure: Callable[[argparse.Namespace], Sequence[Row]],
    description: str,
    *,
    peer: str,
    repeats: int = 5,
    parser: argparse.ArgumentParser | None = None,
) -> None:
    """Read the command line, measure, and print a table or JSON.

    `peer` names the column that ours is compared with.
    """
    parser = parser or argparse.ArgumentParser()
    parser.description = description
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--repeats", type=int, default=repeats, help="timed calls of each")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with quiet_stdout():
        rows = measure(options)
    if options.json:
        print(json.dumps({"peer": peer, "rows": [asdict(row) for row in rows]}, indent=2))
    else:
        show(rows, peer)
        Console().print(machine())


@contextmanager
def quiet_stdout() -> Generator[None]:
    """Send to stderr what peers print meanwhile, those in processes of their own too."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def show(rows: Sequence[Row], peer: str) -> None:
    """Print the rows as a table."""
    table = Table("case", "measured", "unit", "ours", peer, "ratio")
    for row in rows:
        table.add_row(row.case, row.measured, row.unit, *(number(x) for x in numbers(row)))
    Console().print(table)


def numbers(row: Row) -> tuple[float | None, float | None, float | None]:
    """Return what a row has measured."""
    return row.ours, row.peer, row.ratio


def number(value: float | None) -> str:
    """Return three significant digits, nothing for None."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine() -> str:
    """Say what the numbers were measured on."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "numba"))
    return (
        f"{_processor()}, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}; "
        f"{platform.system()}, Python {platform.python_version()}, {packages}"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
