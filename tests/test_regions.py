"""A region detector from end to end: trained, resumed, fine-tuned, evaluated and used."""

import json
from pathlib import Path

import pytest
import torch

from aligndetr import Detector
from aligndetr.checkpoint import load_weights
from aligndetr.config.codec import load_config
from aligndetr.config.schema import RegionConfig
from aligndetr.data.shapes import shapes_dataset
from aligndetr.runs import resume, train
from small import SMALL_REGIONS


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of one epoch of two steps, on cached features."""
    out = tmp_path_factory.mktemp("runs") / "regions"
    train(
        model="faster-rcnn-lite", data=shapes, out=out, epochs=1, overrides=SMALL_REGIONS,
        device="cpu",
    )  # fmt: skip
    return out


def test_a_run_says_what_it_is_and_what_it_lost(run: Path) -> None:
    config = load_config(run / "config.yaml")
    assert isinstance(config, RegionConfig)
    assert (config.num_classes, config.data.cache_features) == (3, True)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {name: value for line in lines for name, value in line.items() if "s." in name}
    assert losses.keys() == {
        "proposals.objectness", "proposals.box", "regions.class", "regions.box"
    }  # fmt: skip
    assert all(value > 0 for value in losses.values())
    assert "AP" in lines[-1]


def test_an_interrupted_run_continues_to_the_same_weights(shapes: Path, tmp_path: Path) -> None:
    """Also the samples that the losses are taken on are the same."""
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    changes = (*SMALL_REGIONS, "training.schedule={type: step, milestones: []}")
    train(model="faster-rcnn-lite", data=shapes, out=whole, epochs=2, overrides=changes)
    train(model="faster-rcnn-lite", data=shapes, out=halved, epochs=1, overrides=changes)
    state = halved / "state" / "training.pt"
    saved = torch.load(state, weights_only=True)
    # As if the run of two epochs had been stopped after the first.
    saved["budget"]["epochs"], saved["position"]["is_finished"] = 2, False
    torch.save(saved, state)
    resume(halved)
    one, other = load_weights(whole / "last.safetensors"), load_weights(halved / "last.safetensors")
    assert all(torch.equal(one.state_dict[key], other.state_dict[key]) for key in one.state_dict)


def test_fine_tuning_rebuilds_the_heads_for_other_classes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shapes_dataset(tmp_path / "data", train=4, val=2, size=64)
    for split in ("train.json", "val.json"):
        content = json.loads((data / split).read_text())
        content["categories"].append({"id": 99, "name": "star"})
        (data / split).write_text(json.dumps(content))
    train(
        model=str(run), data=data, out=tmp_path / "run", steps=1,
        overrides=("training.learning_rate=1e-12",),
    )  # fmt: skip
    assert "rebuilt 4 tensors of heads for circle" in capsys.readouterr().err
    old, new = (
        load_weights(path / "best.safetensors").state_dict for path in (run, tmp_path / "run")
    )
    assert new["heads.box_predictor.cls_score.weight"].shape == (5, 16)
    name = "heads.box_head.0.fc7.weight"
    torch.testing.assert_close(new[name], old[name], atol=1e-6, rtol=0)


def test_a_run_is_evaluated_and_finds_in_pixels(run: Path, shapes: Path) -> None:
    detector = Detector(run, device="cpu")
    metrics = detector.evaluate(shapes)
    assert metrics["images"] == 4
    picture = min((shapes / "images").iterdir())
    found = detector.predict(picture, threshold=0.0)
    assert len(found) > 0
    assert found.boxes.max() > 1
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_training_on_images_works_too(shapes: Path, tmp_path: Path) -> None:
    changes = (*SMALL_REGIONS, "backbone.freeze=3", "data.cache_features=false")
    run = train(
        model="faster-rcnn-lite", data=shapes, out=tmp_path / "run", steps=1, overrides=changes,
        device="cpu",
    )  # fmt: skip
    assert "AP" in run.metrics
