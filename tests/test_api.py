import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aligndetr import Detector
from aligndetr.errors import ConfigError, DatasetError
from small import SMALL


@pytest.fixture(scope="module")
def detector(small_run: Path) -> Detector:
    return Detector(small_run, device="cpu")


def picture(shapes: Path) -> Path:
    return sorted((shapes / "images").iterdir())[0]


def test_a_preset_takes_the_number_of_classes():
    detector = Detector("align-dino-tiny", num_classes=3, pretrained=False, device="cpu")
    assert detector.classes.names == ("0", "1", "2")
    assert len(detector.predict(np.zeros((50, 70, 3), np.uint8), threshold=0.0)) > 0


def test_a_run_knows_its_classes_and_refuses_another_number(small_run: Path):
    assert Detector(small_run, device="cpu").classes.names == ("circle", "square", "triangle")
    with pytest.raises(ValueError, match="has 3 classes, not num_classes=5"):
        Detector(small_run, num_classes=5, device="cpu")


def test_all_kinds_of_pictures_give_the_same_detections(detector: Detector, shapes: Path):
    path = picture(shapes)
    image = Image.open(path).convert("RGB")
    array = np.array(image)
    tensor = torch.from_numpy(array).permute(2, 0, 1) / 255
    found = [
        detector.predict(source, threshold=0.0)
        for source in (path, str(path), path.read_bytes(), image, array, tensor)
    ]
    for other in found[1:5]:
        torch.testing.assert_close(other.scores, found[0].scores)
        torch.testing.assert_close(other.boxes, found[0].boxes)
    # A float picture is resized without rounding to 8 bits.
    torch.testing.assert_close(found[5].scores, found[0].scores, atol=0.02, rtol=0)


def test_a_list_and_a_folder_give_lists(detector: Detector, shapes: Path):
    assert len(detector.predict([picture(shapes)] * 2)) == 2
    assert len(detector.predict(shapes / "images")) == 12


def test_the_threshold_leaves_out_lower_scores(detector: Detector, shapes: Path):
    every = detector.predict(picture(shapes), threshold=0.0)
    middle = float(every.scores.median())
    some = detector.predict(picture(shapes), threshold=middle)
    assert 0 < len(some) < len(every)
    assert float(some.scores.min()) >= middle


def test_resize_false_keeps_the_size(detector: Detector):
    seen: list[tuple[int, ...]] = []
    hook = detector.model.register_forward_pre_hook(
        lambda _, inputs: seen.append(tuple(inputs[0].pixels.shape[2:]))
    )
    image = np.zeros((96, 64, 3), np.uint8)
    detector.predict(image, resize=False)
    detector.predict(image)
    hook.remove()
    assert seen == [(96, 64), (128, 85)]


def test_a_picture_that_is_not_there_is_one_clear_line(detector: Detector):
    with pytest.raises(DatasetError, match=r"nowhere\.png: expected an image"):
        detector.predict("nowhere.png")


def test_evaluation_has_all_numbers_and_does_not_depend_on_the_batch(small_run: Path, shapes: Path):
    detector = Detector(small_run, device="cpu", precision="fp32")
    metrics = detector.evaluate(shapes)
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "per_class", "images"):
        assert name in metrics
    assert metrics["images"] == 4
    data = detector.config.data.model_copy(update={"eval_batch_size": 1})
    detector.config = detector.config.model_copy(update={"data": data})
    again = detector.evaluate(shapes)
    assert again["AP"] == pytest.approx(metrics["AP"], abs=1e-9)


def test_evaluating_on_unknown_classes_is_refused(shapes: Path):
    detector = Detector("align-dino-tiny", num_classes=3, pretrained=False, device="cpu")
    with pytest.raises(DatasetError, match="expected classes that align-dino-tiny knows"):
        detector.evaluate(shapes)


def test_classes_are_told_by_name_not_by_id(small_run: Path, shapes: Path, tmp_path: Path):
    detector = Detector(small_run, device="cpu")
    content = json.loads((shapes / "val.json").read_text())
    renumber = {entry["id"]: 100 - entry["id"] for entry in content["categories"]}
    for entry in content["categories"]:
        entry["id"] = renumber[entry["id"]]
    for entry in content["annotations"]:
        entry["category_id"] = renumber[entry["category_id"]]
    (tmp_path / "val.json").write_text(json.dumps(content))
    (tmp_path / "images").symlink_to(shapes / "images")
    assert detector.evaluate(tmp_path)["AP"] == detector.evaluate(shapes)["AP"]


def test_a_folder_is_predicted_into_pictures_and_coco_results(
    detector: Detector, shapes: Path, tmp_path: Path
):
    done: list[int] = []
    summary = detector.predict_folder(
        shapes / "images", tmp_path / "out", threshold=0.0, progress=done.append
    )
    assert len(summary) == len(done) == 12
    assert all(Path(str(entry["picture"])).is_file() for entry in summary)
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert sum(int(str(entry["detections"])) for entry in summary) == len(results)
    assert {result["category_id"] for result in results} <= set(detector.classes.ids)


def test_training_a_detector_makes_it_the_trained_one(shapes: Path, tmp_path: Path):
    detector = Detector("align-dino-tiny", pretrained=False, device="cpu", precision="fp32")
    run = detector.train(shapes, out=tmp_path / "run", steps=1, overrides=SMALL)
    assert detector.classes.names == ("circle", "square", "triangle")
    assert detector.origin == str(run.folder)
    assert "AP" in run.metrics
    assert not detector.config.backbone.pretrained
    assert detector.config.precision == "fp32"


def test_an_absent_device_is_one_clear_line():
    absent = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(ConfigError, match=f"--device: expected .* found '{absent}'"):
        Detector("align-dino-tiny", pretrained=False, device=absent)
