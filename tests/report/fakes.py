"""Made-up analyses in JSON form that look like real ones: of few classes, of many, and of none."""

import json
import math
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

TOPS = ("1", "2", "3", "4", "5")
BLOOD = ("Platelets", "RBC", "WBC")
SIZE = (640, 480)


def fake_analysis(
    classes: tuple[str, ...] = BLOOD, *, seed: int = 0, title: str = "runs/align", worst: int = 24
) -> dict[str, Any]:
    """An analysis with every key of the schema."""
    dice = random.Random(seed)
    shift = dice.uniform(-0.04, 0.04)
    recall = _tops(0.452 + shift)
    within = {"0": recall, "0.02": _tops(0.56 + shift), "0.05": _tops(0.67 + shift)}
    ap = {"AP": 0.413 + shift, "AP50": 0.671 + shift, "AP75": 0.446 + shift}
    oracle = {"AP": 0.481 + shift, "AP50": 0.724 + shift, "AP75": 0.533 + shift}
    cost = oracle["AP"] - ap["AP"]
    return {
        "title": title,
        "data": "blood cells",
        "split": "val",
        "images": 87,
        "objects": 1137,
        "crowd": 2,
        "predictions": 8700,
        "br_recall": recall,
        "br_recall_within": within,
        "best_iou_share": _tops(0.88),
        "pearson": 0.41 + shift,
        "spearman": 0.44 + shift,
        "matched_pairs": 1104,
        "mean_iou_br": 0.842,
        "mean_iou_hc": 0.703,
        "intervals": {
            "br_recall": _around_all(recall),
            "br_recall_within": {key: _around_all(value) for key, value in within.items()},
            "best_iou_share": _around_all(_tops(0.88)),
            "pearson": _around(0.41 + shift),
            "spearman": _around(0.44 + shift),
            "mean_iou_br": _around(0.842, 0.01),
            "mean_iou_hc": _around(0.703, 0.01),
            "AP": _around(ap["AP"]),
            "AP50": _around(ap["AP50"]),
            "AP75": _around(ap["AP75"]),
            "oracle_AP": _around(oracle["AP"]),
            "ap_cost": _around(cost, 0.007),
        },
        "histogram": {
            "edges": [n / 20 for n in range(21)],
            "best_regressed": [_bell(n / 20, 0.88, 0.09, 500) for n in range(20)],
            "highest_confidence": [_bell(n / 20, 0.76, 0.2, 300) for n in range(20)],
        },
        "density": _density(dice),
        "ap": ap,
        "oracle_ap": oracle,
        "ap_cost": cost,
        "by_class": [_slice(name, dice) for name in classes],
        "by_size": [_slice(name, dice) for name in ("small", "medium", "large")],
        "errors": {
            "classification": 0.031,
            "localisation": 0.062,
            "both": 0.008,
            "duplicate": 0.004,
            "background": 0.027,
            "missed": 0.049,
            "false_positive": 0.113,
            "false_negative": 0.087,
        },
        "error_counts": {
            "classification": 120,
            "localisation": 410,
            "both": 55,
            "duplicate": 31,
            "background": 640,
            "missed": 88,
        },
        "curves": [_curve(name, dice) for name in classes],
        "confusion": _confusion(classes, dice),
        "calibration": _calibration(),
        "worst": [_worst(n, classes, dice) for n in range(worst)],
    }


def coco_like(seed: int = 0, title: str = "runs/coco") -> dict[str, Any]:
    """An analysis with as many classes as COCO."""
    names = ("person", "hair drier", "tennis racket", "fire hydrant", "dog")
    return fake_analysis(
        tuple(f"{names[n % 5]} {n}" if n >= 5 else names[n] for n in range(80)),
        seed=seed,
        title=title,
    )


def compared() -> tuple[dict[str, Any], dict[str, Any]]:
    """Two analyses, the first with the intervals of the differences."""
    other = fake_analysis(seed=5, title="runs/focal")
    analysis = fake_analysis(seed=1)
    differences = {
        name: _around(analysis[name] - other[name], 0.03)
        for name in ("pearson", "ap_cost", "mean_iou_br", "mean_iou_hc")
    }
    differences["br_recall"] = _around(analysis["br_recall"]["1"] - other["br_recall"]["1"], 0.05)
    differences["AP"] = _around(analysis["ap"]["AP"] - other["ap"]["AP"], 0.02)
    return {**analysis, "differences": differences}, other


def without_numbers(content: Any) -> Any:
    """The same analysis with every number and text null: nothing could be measured."""
    if isinstance(content, dict):
        return {key: without_numbers(value) for key, value in content.items()}
    return None


def fake_pictures(analysis: dict[str, Any]) -> dict[int, Image.Image]:
    """Return the pictures that the gallery of an analysis shows, by id: blobs at its objects."""
    pictures: dict[int, Image.Image] = {}
    for one in analysis["worst"]:
        dice = random.Random(one["image_id"])
        picture = Image.effect_noise((SIZE[0] // 8, SIZE[1] // 8), 60).convert("RGB")
        picture = picture.resize(SIZE, Image.Resampling.BICUBIC)
        pen = ImageDraw.Draw(picture)
        for _ in range(14):
            x, y, r = dice.randrange(SIZE[0]), dice.randrange(SIZE[1]), dice.randrange(15, 60)
            colour = (dice.randrange(120, 255), dice.randrange(60, 140), dice.randrange(80, 180))
            pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        left, top, width, height = one["object"]
        pen.ellipse((left, top, left + width, top + height), fill=(214, 90, 120))
        pictures[one["image_id"]] = picture
    return pictures


def write_run(run: Path, *, epochs: int = 12, steps: int = 40) -> Path:
    """Write the log of a training with six layers, denoising and proposals."""
    (run / "predictions").mkdir(parents=True)
    dice = random.Random(0)
    lines: list[dict[str, Any]] = []
    for step in range(20, epochs * steps + 1, 20):
        fall = math.exp(-2 * step / (epochs * steps))
        terms = {
            f"{group}.{layer}.{kind}": weight
            * fall
            * (1.2 - 0.06 * layer)
            * dice.uniform(0.95, 1.05)
            for group in ("main", "denoising")
            for kind, weight in (("class", 0.8), ("l1", 0.5), ("giou", 1.1))
            for layer in range(6)
        }
        terms |= {
            f"proposals.{kind}": fall * dice.uniform(1.1, 1.2) for kind in ("class", "l1", "giou")
        }
        about = {"step": step, "epoch": step // steps, "elapsed_seconds": step / 2}
        lines.append(
            {
                "event": "train",
                **about,
                "learning_rate": 8e-4 * (1 + math.cos(math.pi * step / (epochs * steps))) / 2,
                "images_per_second": 19.0,
                "loss": sum(terms.values()),
                **terms,
            }
        )
        if step % steps == 0:
            share = 1 - fall
            metrics = {"AP": 0.5 * share, "AP50": 0.8 * share, "AP75": 0.52 * share, "APl": None}
            aligned = {"br_recall_1": 0.2 + 0.3 * share, "pearson": 0.1 + 0.4 * share}
            lines.append({"event": "eval", **about, **metrics, **aligned, "per_class": {}})
    text = "\n".join(json.dumps(line) for line in lines)
    (run / "metrics.jsonl").write_text(text + "\n", encoding="utf-8")
    for step in (40, 240, 480):
        Image.effect_noise((320, 240), 40).convert("RGB").save(run / f"predictions/step-{step}.jpg")
    return run


def _tops(first: float) -> dict[str, float]:
    return {top: 1 - (1 - first) * 0.86**n for n, top in enumerate(TOPS)}


def _around(value: float, half: float = 0.02) -> list[float]:
    return [value - half, value + half]


def _around_all(values: dict[str, float]) -> dict[str, list[float]]:
    return {key: _around(value) for key, value in values.items()}


def _bell(x: float, mean: float, width: float, height: float) -> int:
    return round(height * math.exp(-(((x - mean) / width) ** 2)))


def _density(dice: random.Random) -> dict[str, Any]:
    counts = [[0] * 50 for _ in range(50)]
    for _ in range(1104):
        iou = min(0.999, max(0.0, dice.gauss(0.8, 0.12)))
        confidence = min(0.999, max(0.0, dice.gauss(0.1 + 0.6 * iou, 0.15)))
        counts[int(50 * confidence)][int(50 * iou)] += 1
    return {"edges": [n / 50 for n in range(51)], "counts": counts}


def _slice(name: str, dice: random.Random) -> dict[str, Any]:
    ap, cost, recall = dice.uniform(0.2, 0.6), dice.uniform(0.02, 0.12), dice.uniform(0.3, 0.6)
    pearson = dice.uniform(0.2, 0.6)
    return {
        "name": name,
        "objects": dice.randrange(20, 900),
        "br_recall": _tops(recall),
        "pearson": pearson,
        "mean_iou_br": dice.uniform(0.78, 0.88),
        "mean_iou_hc": dice.uniform(0.62, 0.76),
        "AP": ap,
        "AP50": min(1.0, 1.6 * ap),
        "AP75": 1.05 * ap,
        "oracle_AP": ap + cost,
        "ap_cost": cost,
        "intervals": {
            "br_recall": _around(recall, 0.04),
            "pearson": _around(pearson, 0.06),
            "AP": _around(ap, 0.03),
            "ap_cost": _around(cost, 0.01),
        },
    }


def _curve(name: str, dice: random.Random) -> dict[str, Any]:
    end, power = dice.uniform(0.6, 0.98), dice.uniform(2, 6)
    recall = [n / 100 for n in range(101)]

    def precision(scale: float) -> list[float]:
        limit = end * scale
        return [max(0.0, 1 - (r / limit) ** power) if r < limit else 0.0 for r in recall]

    return {
        "name": name,
        "recall": recall,
        "precision": {"0.5": precision(1), "0.75": precision(0.8)},
    }


def _confusion(classes: tuple[str, ...], dice: random.Random) -> dict[str, Any]:
    size = len(classes)
    counts = [
        [
            dice.randrange(200, 900) if row == column else dice.choice([0, 0, 0, 3, 20])
            for column in range(size)
        ]
        + [dice.randrange(10, 120)]
        for row in range(size)
    ]
    counts.append([dice.randrange(5, 90) for _ in range(size)] + [0])
    return {"classes": [*classes, "background"], "threshold": 0.3, "iou": 0.5, "counts": counts}


def _calibration() -> dict[str, Any]:
    sure = [0.05 + n / 10 for n in range(10)]
    return {
        "edges": [n / 10 for n in range(11)],
        "confidence": [*sure[:9], None],
        "precision": [*(min(1.0, 1.25 * s**1.3) for s in sure[:9]), None],
        "mean_iou": [*(0.3 + 0.55 * s for s in sure[:9]), None],
        "counts": [5200, 1400, 610, 400, 300, 260, 240, 190, 100, 0],
        "ece": 0.072,
    }


def _worst(number: int, classes: tuple[str, ...], dice: random.Random) -> dict[str, Any]:
    width, height = dice.uniform(30, 160), dice.uniform(30, 160)
    left, top = dice.uniform(0, SIZE[0] - width), dice.uniform(0, SIZE[1] - height)
    bad = [left + 0.35 * width, top - 0.2 * height, 0.9 * width, 0.8 * height]
    good = [left + 1.5, top - 1.0, width * 1.02, height * 0.98]
    name = classes[number % len(classes)]
    found = classes[(number + 1) % len(classes)] if number % 5 == 0 else name
    return {
        "image_id": number,
        "file_name": f"BloodImage_{number:05d}.jpg",
        "object": [left, top, width, height],
        "object_class": name,
        "confident": {
            "bbox": bad,
            "score": 0.93 - number / 60,
            "iou": 0.38,
            "class": found,
            "rank": 1,
        },
        "best": {"bbox": good, "score": 0.11, "iou": 0.94, "class": name, "rank": 31 + number},
    }
