import json

import pytest
from PIL import Image

from aligndetr.errors import CheckpointError
from aligndetr.report.history import History, read_history


def write(run, *lines):
    run.mkdir(exist_ok=True)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (run / "metrics.jsonl").write_text("\n".join(texts), encoding="utf-8")
    return run


def train(step, epoch=0, **values):
    return {"event": "train", "step": step, "epoch": epoch, **values}


def evaluation(step, epoch, ap):
    return {"event": "eval", "step": step, "epoch": epoch, "AP": ap, "per_class": {}, "APl": None}


def test_an_empty_log_is_an_empty_history(tmp_path):
    assert read_history(write(tmp_path)) == History()
    assert History().steps_per_epoch is None


def test_a_run_without_a_log_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"metrics.jsonl: expected the log of a training"):
        read_history(tmp_path)


def test_lines_are_read_by_event(tmp_path):
    history = read_history(write(tmp_path, train(2, loss=3.0), evaluation(2, 1, 0.5)))
    assert [(m.step, m.values["loss"]) for m in history.train] == [(2, 3.0)]
    assert [(m.epoch, m.values["AP"]) for m in history.evaluations] == [(1, 0.5)]
    assert "APl" not in history.evaluations[0].values


def test_a_last_line_cut_short_and_foreign_lines_are_left_out(tmp_path):
    lines = (train(2), '{"event": "train", "st', "[]", '{"event": "note", "step": 3}', "NaN", "{}")
    assert [m.step for m in read_history(write(tmp_path, *lines)).train] == [2]


def test_a_cut_character_does_not_matter(tmp_path):
    run = write(tmp_path, train(2))
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'\n{"event": "\xc3')
    assert len(read_history(run).train) == 1


def test_steps_that_were_repeated_count_as_the_continuation_has_them(tmp_path):
    first = (train(2, loss=3.0), evaluation(2, 1, 0.1), train(4, loss=2.0), evaluation(4, 2, 0.2))
    again = (train(3, loss=2.5), train(4, loss=1.0), evaluation(4, 2, 0.3))
    history = read_history(write(tmp_path, *first, *again))
    assert [(m.step, m.values["loss"]) for m in history.train] == [(2, 3.0), (3, 2.5), (4, 1.0)]
    assert [(m.step, m.values["AP"]) for m in history.evaluations] == [(2, 0.1), (4, 0.3)]


def test_steps_of_an_epoch_are_those_of_whole_epochs(tmp_path):
    run = write(tmp_path, train(5), train(10, 1), train(13, 1), train(20, 2), train(25, 2))
    assert read_history(run).steps_per_epoch == 10


def test_terms_are_what_is_no_time_rate_or_sum(tmp_path):
    line = train(1, loss=1.0, learning_rate=0.1, images_per_second=2.0, elapsed_seconds=1)
    history = read_history(write(tmp_path, line | {"main.0.class": 1.0, "proposals.l1": 2.0}))
    assert history.terms == ("main.0.class", "proposals.l1")


def test_pictures_are_sorted_by_step(tmp_path):
    run = write(tmp_path)
    (run / "predictions").mkdir()
    for name in ("step-100", "step-20", "step-x", "other"):
        Image.new("RGB", (4, 4)).save(run / "predictions" / f"{name}.jpg")
    assert [picture.step for picture in read_history(run).pictures] == [20, 100]
