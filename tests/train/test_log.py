import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from aligndetr.train.log import EVERY_STEPS, RunLog
from aligndetr.train.state import Position


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def batches(log: RunLog, count: int, *, step: int = 0) -> None:
    for index in range(count):
        terms = {"main.0.class": torch.tensor(float(index)), "main.0.l1": torch.tensor(1.0)}
        position = Position(step=step + index + 1)
        log.batch(position, terms, images=2, learning_rate=0.5, share=0.25)


def test_nothing_is_written_before_the_first_batch(tmp_path: Path) -> None:
    with RunLog(tmp_path, is_main=True) as log:
        log.flush(Position())
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_line_averages_the_batches_since_the_last(tmp_path: Path, clock: Any) -> None:
    with RunLog(tmp_path, is_main=True) as log:
        clock.advance(4.0)
        batches(log, EVERY_STEPS)
        batches(log, 1, step=EVERY_STEPS)
        log.flush(Position(step=EVERY_STEPS + 1))
    first, second = lines(tmp_path)
    mean = (EVERY_STEPS - 1) / 2
    assert first == {
        "event": "train",
        "step": EVERY_STEPS,
        "epoch": 0,
        "elapsed_seconds": 0.0,
        "learning_rate": 0.5,
        "images_per_second": 2 * EVERY_STEPS / 4,
        "loss": mean + 1,
        "main.0.class": mean,
        "main.0.l1": 1.0,
    }
    assert (second["step"], second["loss"]) == (EVERY_STEPS + 1, 1.0)


def test_a_term_that_some_batches_lack_is_averaged_over_the_others(tmp_path: Path) -> None:
    with RunLog(tmp_path, is_main=True) as log:
        for terms in ({"a": torch.tensor(1.0)}, {"a": torch.tensor(3.0), "b": torch.tensor(4.0)}):
            log.batch(Position(), terms, images=1, learning_rate=1.0, share=0.0)
        log.flush(Position())
    (line,) = lines(tmp_path)
    assert (line["a"], line["b"], line["loss"]) == (2.0, 4.0, 4.0)


def test_slow_batches_are_written_by_time(tmp_path: Path, clock: Any) -> None:
    with RunLog(tmp_path, is_main=True) as log:
        clock.advance(11.0)
        batches(log, 1)
    assert len(lines(tmp_path)) == 1


def test_plain_lines_come_every_ten_seconds_where_there_is_no_terminal(
    tmp_path: Path, clock: Any
) -> None:
    stream = io.StringIO()
    with RunLog(tmp_path, is_main=True, console=Console(file=stream)) as log:
        batches(log, EVERY_STEPS)
        assert stream.getvalue() == ""
        clock.advance(10.0)
        batches(log, EVERY_STEPS)
    assert stream.getvalue() == " 25%  epoch 1  loss 1.000  lr 5.0e-01  0.2 images/s\n"


def test_a_terminal_has_a_bar_and_chores_their_own(tmp_path: Path) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120)
    with RunLog(tmp_path, is_main=True, console=console) as log:
        batches(log, EVERY_STEPS)
        with log.chore("evaluating", 10) as report:
            report(5)
            log._bar.refresh()
    assert "evaluating" in stream.getvalue()
    assert "loss 10.5" in stream.getvalue()
    assert "epoch 1" in stream.getvalue()


@pytest.mark.parametrize(("ap", "shown"), [(0.5123, "AP 51.2"), (None, "AP -")])
def test_evaluations_are_shown_in_percent(tmp_path: Path, ap: float | None, shown: str) -> None:
    stream = io.StringIO()
    with RunLog(tmp_path, is_main=True, console=Console(file=stream)) as log:
        metrics = {"AP": ap, "AP50": 0.8, "AP75": None}
        log.evaluation(Position(epoch=1, step=5), metrics, is_best=True)
    assert stream.getvalue() == f"epoch 1  step 5  {shown}  AP50 80.0  AP75 -  (best so far)\n"
    assert lines(tmp_path)[0]["AP"] == ap


def test_other_processes_are_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(tmp_path, is_main=False) as log:
        batches(log, EVERY_STEPS)
        log.say("hello")
    assert not (tmp_path / "metrics.jsonl").exists()
    assert capsys.readouterr().err == ""


def test_resuming_forgets_what_was_written_after_the_saved_step(tmp_path: Path) -> None:
    with RunLog(tmp_path, is_main=True) as log:
        log.continue_from(Position(step=EVERY_STEPS))
        batches(log, 2 * EVERY_STEPS)
        log.continue_from(Position(step=EVERY_STEPS))
    assert [line["step"] for line in lines(tmp_path)] == [EVERY_STEPS]


def test_resuming_forgets_a_line_that_was_cut_short(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    with RunLog(tmp_path, is_main=True) as log:
        batches(log, EVERY_STEPS)
        whole = metrics.read_text()
        metrics.write_text(whole + '{"event": "train", "st')
        log.continue_from(Position(step=EVERY_STEPS))
        assert metrics.read_text() == whole
        metrics.write_text(whole.rstrip("\n"))
        log.continue_from(Position(step=EVERY_STEPS))
    assert metrics.read_text() == whole
