"""Train every system of the family, plain and aligned, for the same number of steps.

    python benchmarks/training/family.py [--steps 300] [--seed 0] [--out runs/family] [SYSTEM ...]

All are shrunk to the size of `align-dino-tiny` (`config.laptop.shrunk`) and see the same synthetic
pictures. It takes hours on two cores, resumes where it was stopped, and prints a table; AP of one
seed after so few steps says that a system learns, not which is better.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from aligndetr.api import Detector, train
from aligndetr.config.codec import dump_config
from aligndetr.config.laptop import shrunk
from aligndetr.config.presets import get_detr
from aligndetr.data.shapes import shapes_dataset

SYSTEMS = (
    "detr-r50",
    "conditional-detr-r50",
    "smca-r50",
    "anchor-detr-r50",
    "dab-detr-r50",
    "dn-detr-r50",
    "deformable-detr-r50",
    "dab-deformable-detr-r50",
    "dn-deformable-detr-r50",
    "dino-r50-4scale",
    "h-deformable-detr-r50",
    "group-detr-r50",
)
METRICS = ("AP", "AP50", "AP75")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the whole family for a few steps.")
    parser.add_argument("systems", nargs="*", default=SYSTEMS, metavar="SYSTEM")
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps of each")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
    parser.add_argument("--out", type=Path, default=Path("runs/family"), help="folder of the runs")
    options = parser.parse_args()
    data = shapes_dataset()
    rows: list[str] = []
    for system in options.systems:
        plain, aligned = (measure(name, data, options) for name in (system, f"align-{system}"))
        rows.append(f"| `{system}` | {cells(plain)} | {cells(aligned)} |")
        print(rows[-1], flush=True)
    print("\n| system | AP / AP50 / AP75 | aligned: AP / AP50 / AP75 |\n|---|---|---|")
    print("\n".join(rows))


def measure(name: str, data: Path, options: argparse.Namespace) -> dict[str, object]:
    """Return the metrics of a trained system, from an earlier call where there was one."""
    out = options.out / f"{name}-{options.steps}-{options.seed}"
    result = out / "eval.json"
    if result.exists():
        return json.loads(result.read_text())
    config = shrunk(get_detr(name))
    out.mkdir(parents=True, exist_ok=True)
    overlay = out.with_suffix(".yaml")
    overlay.write_text(dump_config(config))
    start = time.monotonic()
    train(
        model=name, data=data, out=out / "run", config=overlay, steps=options.steps,
        seed=options.seed, overrides=["data.cached_views=1"],
    )  # fmt: skip
    metrics = Detector(out / "run").evaluate(data)
    metrics["train_seconds"] = time.monotonic() - start
    result.write_text(json.dumps(metrics, indent=2) + "\n")
    sys.stderr.write(f"{name}: AP {metrics['AP']:.3f}, {metrics['train_seconds']:.0f} s\n")
    return metrics


def cells(metrics: dict[str, object]) -> str:
    return " / ".join(f"{100 * metrics[name]:.1f}" for name in METRICS)  # pyright: ignore


if __name__ == "__main__":
    main()
