"""AP after so many minutes: `align-dino-lite` beside torchvision's Faster R-CNN.

    python benchmarks/accuracy_per_minute.py [--data DIR ...] [--minutes 3 10 30]
        [--seeds 0 1 2] [--models align-dino-lite faster-rcnn-lite] [--out runs/minutes]

Every training is the command that a user would type, with default flags, in a process of its own:
`aligndetr train --model MODEL --data DIR --minutes N`. Both detectors have the same backbone with
the same weights, and take turns, so that a machine that slows down slows both. The time is that of
the whole command. Finished trainings are found again; leave the machine alone meanwhile. Writes a
table and a plot for each data set, whose bars are the spread (smallest to largest) over the seeds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from aligndetr.data.shapes import shapes_dataset
from aligndetr.report.history import read_history

METRICS = ("AP", "AP50", "AP75")
Trained = dict[str, float]
"""The metrics of a training, its `minutes` as the clock had them, and its `steps`."""


def main() -> None:
    parser = argparse.ArgumentParser(description="AP against minutes, ours and a peer.")
    parser.add_argument("--data", type=Path, nargs="*", help="folders; the synthetic set if none")
    parser.add_argument("--minutes", type=float, nargs="*", default=[3, 10, 30])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--models", nargs="*", default=["align-dino-lite", "faster-rcnn-lite"])
    parser.add_argument("--set", nargs="*", default=[], help="changes to all alike, for a study")
    parser.add_argument("--out", type=Path, default=Path("runs/minutes"))
    options = parser.parse_args()
    for data in options.data or [shapes_dataset()]:
        found: dict[tuple[str, float], list[Trained]] = {}
        for minutes in options.minutes:
            for seed in options.seeds:
                for model in options.models:
                    trained = train(model, data, minutes, seed, options)
                    found.setdefault((model, minutes), []).append(trained)
        lines = table(data.resolve().name, found)
        print("\n".join(lines))
        folder = options.out / data.resolve().name
        (folder / "table.md").write_text("\n".join(lines) + "\n")
        draw(data.resolve().name, found, folder / "minutes.png")


def train(
    model: str, data: Path, minutes: float, seed: int, options: argparse.Namespace
) -> Trained:
    """Return what a command reached, from an earlier call where there was one."""
    changes = "".join(f"-{change}" for change in options.set).replace("/", "_")
    name = f"{model}-{minutes:g}-{seed}{changes}"
    folder = options.out / data.resolve().name / name
    result = folder / "result.json"
    if result.is_file():
        return json.loads(result.read_text())
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [
        sys.executable, "-m", "aligndetr", "train", "--model", model, "--data", str(data),
        "--out", str(folder / "run"), "--minutes", f"{minutes:g}", "--seed", str(seed),
    ]  # fmt: skip
    command += ["--set", *options.set] if options.set else []
    start = time.monotonic()
    with (
        (folder / "log.txt").open("w") as log,
        Console(stderr=True).status(f"{model}, {data.name}, {minutes:g} minutes, seed {seed}"),
    ):
        subprocess.run(command, check=True, stdout=log, stderr=log)
    taken = (time.monotonic() - start) / 60
    evaluations = read_history(folder / "run").evaluations
    best = max(evaluations, key=lambda moment: moment.values["AP"])
    trained = {name: best.values[name] for name in METRICS}
    trained |= {"minutes": taken, "steps": evaluations[-1].step}
    result.write_text(json.dumps(trained, indent=2) + "\n")
    sys.stderr.write(f"{folder}: AP {trained['AP']:.3f}, {taken:.2f} minutes\n")
    return trained


def table(name: str, found: dict[tuple[str, float], list[Trained]]) -> list[str]:
    """Return the lines of a table: means, and smallest and largest AP."""
    lines = [
        f"{name}, {len(next(iter(found.values())))} seeds",
        "",
        "| model | minutes | by the clock | steps | AP | spread | AP50 | AP75 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (model, minutes), trainings in found.items():
        taken = max(trained["minutes"] for trained in trainings)
        ap, ap50, ap75 = (mean(trained[key] for trained in trainings) for key in METRICS)
        low, high = span(trainings)
        steps = mean(trained["steps"] for trained in trainings)
        lines.append(
            f"| `{model}` | {minutes:g} | {taken:.2f} | {steps:.0f} | **{ap:.3f}** "
            f"| {low:.3f} - {high:.3f} | {ap50:.3f} | {ap75:.3f} |"
        )
    return lines


def draw(name: str, found: dict[tuple[str, float], list[Trained]], file: Path) -> None:
    """Write a plot of AP against minutes."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for model in dict.fromkeys(model for model, _ in found):
        trained = {minutes: runs for (other, minutes), runs in found.items() if other == model}
        means = [mean(run["AP"] for run in runs) for runs in trained.values()]
        spans = [span(runs) for runs in trained.values()]
        errors = [
            [middle - low for middle, (low, _) in zip(means, spans, strict=True)],
            [high - middle for middle, (_, high) in zip(means, spans, strict=True)],
        ]
        axes.errorbar(list(trained), means, yerr=errors, marker="o", capsize=4, label=model)
    minutes = sorted({minutes for _, minutes in found})
    axes.set_xscale("log")
    axes.set_xticks(minutes, [f"{number:g}" for number in minutes], minor=False)
    axes.set_xlabel("minutes of the whole command")
    axes.set_ylabel("AP")
    axes.set_title(name)
    axes.grid(alpha=0.3)
    axes.legend()
    FigureCanvasAgg(figure)
    figure.savefig(file, dpi=150)


def span(trainings: list[Trained]) -> tuple[float, float]:
    values = [trained["AP"] for trained in trainings]
    return min(values), max(values)


if __name__ == "__main__":
    main()
