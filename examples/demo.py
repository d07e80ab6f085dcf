"""Train a small Align-DETR on synthetic pictures, evaluate it, draw and analyse what it finds.

    python examples/demo.py [--minutes 4.5 | --steps 350] [--out runs/demo]

Needs no network, no data of your own, and about five minutes on two cores.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from aligndetr.api import Detector, train
from aligndetr.data.shapes import shapes_dataset
from aligndetr.drawing import contact_sheet

MODEL = "align-dino-tiny"
PICTURES = 12


def main() -> None:
    started = time.monotonic()
    parser = argparse.ArgumentParser(description="Train, evaluate and draw, in minutes.")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=4.5, help="time for training")
    length.add_argument("--steps", type=int, help="train so many steps, however long they take")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="run folder")
    options = parser.parse_args()

    if not is_free(options.out):
        parser.error(f"--out: expected a new folder, found {options.out}; name another")
    if options.out.exists():
        shutil.rmtree(options.out)
    data = shapes_dataset()
    train(
        model=MODEL,
        data=data,
        out=options.out,
        minutes=options.minutes if options.steps is None else None,
        steps=options.steps,
        started=started,
    )
    detector = Detector(options.out)
    metrics = detector.evaluate(data)
    (options.out / "eval.json").write_text(json.dumps(metrics, indent=2) + "\n")
    draw(detector, data, options.out / "predictions")
    detector.analyze(data, out=options.out)
    report(metrics, options.out, time.monotonic() - started)


def is_free(out: Path) -> bool:
    """Whether nothing is at `out`, or what an earlier demonstration left."""
    config = out / "config.yaml"
    return not out.exists() or (
        config.is_file() and f"name: {MODEL}\n" in config.read_text(encoding="utf-8")
    )


def draw(detector: Detector, data: Path, out: Path) -> None:
    """Write the first pictures of the validation set with their boxes, and one sheet of all."""
    entries = json.loads((data / "val.json").read_text())["images"][:PICTURES]
    found = [
        detector.predict(data / "images" / entry["file_name"], threshold=0.4) for entry in entries
    ]
    out.mkdir(exist_ok=True)
    pictures = [detections.plot() for detections in found]
    for entry, picture in zip(entries, pictures, strict=True):
        picture.save(out / f"{Path(entry['file_name']).stem}.png")
    contact_sheet(pictures, columns=4).save(out / "sheet.png")


def report(metrics: dict[str, object], out: Path, seconds: float) -> None:
    numbers = "  ".join(f"{name} {metrics[name]:.3f}" for name in ("AP", "AP50", "AP75"))
    sys.stdout.write(
        f"\nafter {seconds / 60:.1f} minutes, on {metrics['images']} held-out pictures: {numbers}\n"
        f"numbers   {out / 'eval.json'}\n"
        f"pictures  {out / 'predictions' / 'sheet.png'}\n"
        f"report    {out / 'report.html'}\n"
        f"weights   {out / 'best.safetensors'}\n"
        f"next      aligndetr train --model align-dino-lite --data YOUR_DATA --out runs/mine\n"
    )


if __name__ == "__main__":
    main()
