import json
from pathlib import Path

import pytest

from aligndetr.errors import DatasetError
from aligndetr.evaluate.evaluator import results_from_coco
from aligndetr.evaluate.files import read_results

ENTRY = {"image_id": 4, "category_id": 90, "bbox": [1, 2, 3, 4.5], "score": 0.1}


def written(folder: Path, content: object) -> Path:
    path = folder / "a.json"
    path.write_text(json.dumps(content))
    return path


def test_an_empty_list_is_no_results(tmp_path: Path):
    assert read_results(written(tmp_path, [])).shape == (0, 7)


def test_entries_become_rows_exactly(tmp_path: Path):
    entries = [ENTRY, {**ENTRY, "score": 0.1 + 0.2, "image_id": 2**53 - 1}]
    results = read_results(written(tmp_path, entries))
    assert results.tolist() == results_from_coco(entries, "").tolist()
    assert results[1, 5] == 0.1 + 0.2
    results[0, 0] = 5  # may be written to


def test_further_fields_do_not_matter(tmp_path: Path):
    entry = {**ENTRY, "segmentation": {"size": [4, 5], "counts": "ab"}, "name": "cat"}
    assert read_results(written(tmp_path, [entry])).tolist() == [[4, 1, 2, 3, 4.5, 0.1, 90]]


@pytest.mark.parametrize(
    "change",
    [
        {"bbox": [1, 2, 3]},
        {"bbox": None},
        {"bbox": "1234"},
        {"score": "high"},
        {"score": "0.5"},
        {"image_id": None},
    ],
)
def test_an_entry_that_is_no_detection_is_an_error(tmp_path: Path, change: dict[str, object]):
    path = written(tmp_path, [ENTRY, ENTRY, {**ENTRY, **change}])
    with pytest.raises(DatasetError, match=r"a\.json: entry 2: expected a COCO detection .* found"):
        read_results(path)


def test_a_byte_order_mark_does_not_matter(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([ENTRY]), encoding="utf-8-sig")
    assert len(read_results(path)) == 1


def test_lists_that_are_too_deep_are_an_error(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text("[" * 100_000)
    with pytest.raises(DatasetError, match=r"a\.json: expected a JSON file"):
        read_results(path)


def test_what_is_not_a_number_is_an_error(tmp_path: Path):
    path = written(tmp_path, [ENTRY, {**ENTRY, "score": float("nan")}])
    with pytest.raises(DatasetError, match=r"a\.json: entry 1: expected finite numbers, found \[4"):
        read_results(path)


@pytest.mark.parametrize(("content", "entry"), [([[1, 2]], 0), ([ENTRY, "images"], 1), ([7], 0)])
def test_what_is_no_entry_is_an_error(tmp_path: Path, content: list[object], entry: int):
    with pytest.raises(DatasetError, match=rf"entry {entry}: expected a COCO detection"):
        read_results(written(tmp_path, content))


@pytest.mark.parametrize("content", [{"images": []}, ENTRY, 3])
def test_a_file_that_is_no_list_is_an_error(tmp_path: Path, content: object):
    with pytest.raises(DatasetError, match=r"a\.json: expected a list of COCO detections"):
        read_results(written(tmp_path, content))


def test_a_file_that_is_no_json_or_not_there_is_an_error(tmp_path: Path):
    (tmp_path / "b.json").write_text("[{")
    for name in ("b.json", "c.json"):
        with pytest.raises(DatasetError, match=rf"{name}: expected a JSON file of COCO detections"):
            read_results(tmp_path / name)
