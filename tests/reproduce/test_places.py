"""The files of a trial: what is written is read again, anything else is refused."""

from pathlib import Path

import pytest

from aligndetr.errors import CheckpointError
from aligndetr.reproduce.catalogue import EXPERIMENTS
from aligndetr.reproduce.places import Place, Trained
from aligndetr.reproduce.small import DataSet, small_config


def test_a_folder_without_files_says_nothing(tmp_path: Path, data: DataSet) -> None:
    place = Place(tmp_path / "none")
    config = small_config(EXPERIMENTS["4"].arm("focal"), data)
    assert place.trained() is None
    assert place.measured(config) is None
    assert place.curve() == []
    assert place.images_per_second() is None


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = Trained(ap=0.5, problem=None, steps=3, seed=1, class_weight=None, seconds=1.5)
    place = Place(tmp_path)
    place.write_trained(record)
    assert place.trained() == record


@pytest.mark.parametrize("text", ["", "{}", '{"AP": 0.5}'])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "trained.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"trained\.json: expected what this .*; delete it"):
        Place(tmp_path).trained()
