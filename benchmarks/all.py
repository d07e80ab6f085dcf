"""Run every benchmark and write one table: `make bench`.

    python benchmarks/all.py [--out runs/bench] [SCRIPT ...]

Writes `bench.md` and `bench.json` to the folder. Leave the machine alone meanwhile.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from tools.report import Row, machine, number, numbers

HERE = Path(__file__).parent
SCRIPTS = {
    "deformable": 5,
    "criterion": 2,
    "inference": 2,
    "training_step": 1,
    "loader": 2,
    "evaluation": 2,
    "analysis": 1,
    "scaling": 2,
}
"""Each with its repeats: so few that all take less than a quarter of an hour."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the benchmarks and write one table.")
    parser.add_argument("scripts", nargs="*", default=list(SCRIPTS), metavar="SCRIPT")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder of the table")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, object] = {"machine": machine()}
    lines = [f"{machine()}", ""]
    for name in options.scripts:
        start = time.monotonic()
        with Console(stderr=True).status(f"benchmarks/{name}.py"):
            result = measured(name)
        found[name] = result
        lines += section(name, result, time.monotonic() - start)
        (options.out / "bench.json").write_text(json.dumps(found, indent=2) + "\n")
        (options.out / "bench.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def measured(name: str) -> dict[str, object]:
    """Return what a script prints as JSON."""
    command = [sys.executable, str(HERE / f"{name}.py"), "--json", "--repeats", str(SCRIPTS[name])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def section(name: str, result: dict[str, object], seconds: float) -> list[str]:
    """Return the lines of a script's table."""
    rows = [Row(**row) for row in result["rows"]]  # pyright: ignore
    return [
        f"## `benchmarks/{name}.py` ({seconds:.0f} s)",
        "",
        f"| case | measured | unit | ours | {result['peer']} | ratio |",
        "|---|---|---|---|---|---|",
        *[
            f"| {row.case} | {row.measured} | {row.unit} | "
            f"{' | '.join(number(value) for value in numbers(row))} |"
            for row in rows
        ],
        "",
    ]


if __name__ == "__main__":
    main()
