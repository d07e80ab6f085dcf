import errno
import json
import os
import re
import subprocess
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

from aligndetr.cli import expand_sets, main
from aligndetr.errors import ConfigError, DatasetError
from aligndetr.tables import COCO_METRICS

TRAIN = ["train", "--model", "align-dino-tiny", "--data", "cells", "--out", "runs/a"]
EVAL = ["eval", "--model", "runs/a", "--data", "cells"]
PREDICT = ["predict", "--model", "runs/a", "--source", "a.jpg", "--out", "found"]

METRICS: dict[str, object] = {
    **{name: 0.125 * (number % 8) for number, name in enumerate(COCO_METRICS)},
    "APl": None,
    "per_class": {
        "red [cell]": {"AP": 0.5, "AP50": 0.75, "AR100": 0.625},
        "platelet": {"AP": None, "AP50": None, "AR100": None},
    },
    "images": 87,
    "seconds": 12.34,
}


@dataclass
class Run:
    folder: Path
    metrics: dict[str, object]


class FakeApi(types.ModuleType):
    """Stands for aligndetr.api: writes down its calls, and chatters on stdout like a library."""

    def __init__(self) -> None:
        super().__init__("aligndetr.api")
        self.calls: list[tuple[str, dict[str, object]]] = []
        self.failure: BaseException | None = None
        self.metrics = METRICS
        self.found: list[dict[str, object]] = [
            {"file": "a.jpg", "picture": Path("found/a.png"), "detections": 3}
        ]
        api = self

        class Detector:
            def __init__(self, model: str) -> None:
                api.note("Detector", model=model)

            def evaluate(self, data, *, split, progress):
                api.note("evaluate", data=data, split=split)
                progress(87)
                return api.metrics

            def predict_folder(self, source, out, *, threshold, progress):
                api.note("predict_folder", source=source, out=out, threshold=threshold)
                progress(1)
                return api.found

        self.Detector = Detector

    def note(self, name: str, **values: object) -> None:
        sys.stdout.write("chatter\n")
        self.calls.append((name, values))
        if self.failure is not None:
            raise self.failure

    def train(self, **values: object) -> Run:
        self.note("train", **values)
        return Run(Path(str(values["out"])), self.metrics)

    def resume(self, run: Path, **values: object) -> Run:
        self.note("resume", run=run, **values)
        return Run(run, self.metrics)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    fake = FakeApi()
    monkeypatch.setitem(sys.modules, "aligndetr.api", fake)
    monkeypatch.setenv("COLUMNS", "100")
    return fake


def run_program(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aligndetr", *arguments]
    environment = {**os.environ, "COLUMNS": "100"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


# The program


def test_no_verb_shows_what_there_is(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    for verb in ("train", "eval", "predict", "models"):
        assert re.search(rf"\b{verb}\b", shown)


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"aligndetr \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        (
            "train",
            "--model --data --out --resume --epochs --steps --minutes --config --set --device "
            "--seed",
        ),
        ("eval", "--model --data --split --json"),
        ("predict", "--model --source --out --threshold --json"),
        ("convert", "--from --out --set"),
        ("models", "--model --cost --size --json"),
    ],
)
def test_the_help_of_a_verb_shows_its_options_and_no_others(verb: str, options: str):
    result = run_program(verb, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    shown = re.findall(r"^[│|]?[ *]+(--[a-z]+)", result.stdout, re.MULTILINE)
    assert shown == [*options.split(), "--help"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["trian"],
            r"error: aligndetr: No such command 'trian'.*'train'.*; see 'aligndetr --help'",
        ),
        (["train", "--modle", "x"], r"error: aligndetr train: No such option.*--model.*"),
        (["eval", "--data", "x"], r"error: aligndetr eval: Missing option '--model'.*"),
        (["train", "--epochs", "ten"], r"error: aligndetr train: .*'--epochs'.*integer.*'ten'.*"),
        (["train", "--minutes", "-1"], r"error: aligndetr train: .*'--minutes'.*0.*"),
        (["predict", "--threshold", "3"], r"error: aligndetr predict: .*'--threshold'.*'?3'?.*"),
        (["train", "--device", "tpu"], r"error: .*'--device'.*'tpu' is not one of.*'mps'; see.*"),
        (["train", "--set"], r"error: .*'--set' requires an argument.*"),
        (["models", "dino"], r"error: .*unexpected extra argument.*dino.*"),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_line(capsys, arguments, message):
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.fullmatch(message + r"\n", shown.err)


def test_a_refusal_ends_the_program_with_exit_code_2():
    result = run_program("train", "--resume", "a", "--steps", "3")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(
        "error: aligndetr train: expected --resume alone, found --steps"
    )
    assert result.stderr.count("\n") == 1


def test_output_that_nobody_reads_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "aligndetr", "--version"]
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (result.returncode, result.stderr) == (1, "")


# --set


@pytest.mark.parametrize(
    ("arguments", "expanded"),
    [
        ([], []),
        (["train", "--out", "a"], ["train", "--out", "a"]),
        (["--set", "a=1"], ["--set", "a=1"]),
        (["--set", "a=1", "b=-2", "c=3"], ["--set", "a=1", "--set", "b=-2", "--set", "c=3"]),
        (["--set", "a=1", "b=2", "--out", "c"], ["--set", "a=1", "--set", "b=2", "--out", "c"]),
        (["--set", "a=1", "--set", "b=2"], ["--set", "a=1", "--set", "b=2"]),
        (["--set=a=1", "b"], ["--set=a=1", "b"]),  # the written-out form takes one
        (["--set", "--out", "a"], ["--set", "--out", "a"]),  # typer refuses it
    ],
)
def test_several_values_after_one_set_are_told_apart(arguments, expanded):
    assert expand_sets(arguments) == expanded


# train


def test_training_passes_what_was_given_and_leaves_the_rest_to_the_library(api: FakeApi):
    before = time.monotonic()
    assert main(TRAIN) == 0
    ((name, values),) = api.calls
    started = values.pop("started")
    assert isinstance(started, float)
    assert before <= started <= time.monotonic()
    assert (name, values) == (
        "train",
        {
            "model": "align-dino-tiny",
            "data": Path("cells"),
            "out": Path("runs/a"),
            "overrides": (),
            "config": None,
            "epochs": None,
            "steps": None,
            "minutes": None,
            "seed": None,
            "device": "auto",
        },
    )


@pytest.mark.parametrize(
    ("options", "values"),
    [
        (["--epochs", "3"], {"epochs": 3}),
        (["--steps", "7"], {"steps": 7}),
        (["--minutes", "1.5"], {"minutes": 1.5}),
        (["--seed", "0"], {"seed": 0}),
        (["--device", "cpu"], {"device": "cpu"}),
        (["--config", "a.yaml"], {"config": Path("a.yaml")}),
        (["--set", "a.b=1", "c=x y", "--set", "d=2"], {"overrides": ("a.b=1", "c=x y", "d=2")}),
    ],
)
def test_each_option_of_training_reaches_the_library(api: FakeApi, options, values):
    assert main([*TRAIN, *options]) == 0
    _, passed = api.calls[0]
    assert {name: passed[name] for name in values} == values


def test_after_training_the_numbers_and_the_next_commands_are_shown(api: FakeApi, capsys):
    arguments = ["train", "--model", "m", "--data", "my cells", "--out", "runs/a b"]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert "AP50" in shown.out
    assert "0.125" in shown.out
    assert "The run is in runs/a b. Next:" in shown.out
    assert "  aligndetr eval --model 'runs/a b' --data 'my cells'\n" in shown.out
    assert (
        "  aligndetr predict --model 'runs/a b' --source IMAGE --out 'runs/a b/predictions'\n"
        in shown.out
    )
    assert shown.err == "chatter\n"


def test_a_run_without_numbers_has_no_table(api: FakeApi, capsys):
    api.metrics = {}
    assert main(TRAIN) == 0
    assert capsys.readouterr().out.startswith("The run is in runs/a.")


def test_a_run_is_resumed(api: FakeApi, capsys):
    assert main(["train", "--resume", "runs/a"]) == 0
    ((name, values),) = api.calls
    assert isinstance(values.pop("started"), float)
    assert (name, values) == ("resume", {"run": Path("runs/a")})
    assert "aligndetr eval --model runs/a --data DIR" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train"],
            "aligndetr train: expected --model, --data and --out (or --resume alone), "
            "found no --model, --data, --out; see 'aligndetr train --help'",
        ),
        (
            ["train", "--model", "a", "--out", "b"],
            "aligndetr train: expected --model, --data and --out (or --resume alone), "
            "found no --data; see 'aligndetr train --help'",
        ),
        (
            ["train", "--resume", "a", "--seed", "0", "--set", "b=1", "--device", "cpu"],
            "aligndetr train: expected --resume alone, found --seed, --set, --device too; "
            "a resumed run keeps its own settings: leave the others out",
        ),
        (
            [*TRAIN, "--steps", "3", "--epochs", "1"],
            "aligndetr train: expected at most one of --epochs, --steps, --minutes, "
            "found --epochs and --steps; leave all but one out",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(api: FakeApi, capsys, arguments, message):
    assert main(arguments) == 2
    assert capsys.readouterr() == ("", f"error: {message}\n")
    assert api.calls == []


# eval


def test_evaluation_shows_the_twelve_numbers_and_every_class(api: FakeApi, capsys):
    assert main(EVAL) == 0
    assert api.calls == [
        ("Detector", {"model": "runs/a"}),
        ("evaluate", {"data": Path("cells"), "split": "val"}),
    ]
    lines = capsys.readouterr().out.splitlines()
    words = [line.split() for line in lines]
    for name in COCO_METRICS:
        value = METRICS[name]
        expected = "-" if value is None else f"{value:.3f}"
        assert any(line[:2] == [name, expected] for line in words)
    assert ["red", "[cell]", "0.500", "0.750", "0.625"] in words
    assert ["platelet", "-", "-", "-"] in words
    assert lines[-1] == "87 images in 12.3 s"


def test_evaluation_prints_json_and_nothing_else_on_stdout(api: FakeApi, capsys):
    assert main([*EVAL, "--split", "test", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == METRICS
    assert "chatter" in shown.err
    assert api.calls[1] == ("evaluate", {"data": Path("cells"), "split": "test"})


# predict


def test_prediction_lists_the_images(api: FakeApi, capsys):
    assert main([*PREDICT, "--threshold", "0.5"]) == 0
    assert api.calls[1] == (
        "predict_folder",
        {"source": "a.jpg", "out": Path("found"), "threshold": 0.5},
    )
    shown = capsys.readouterr().out
    assert re.search(r"a\.jpg +3 ", shown)
    assert shown.endswith("Pictures and predictions.json are in found.\n")


def test_prediction_lists_only_the_first_of_many_images(api: FakeApi, capsys):
    api.found = [
        {"file": f"{number:03}.jpg", "picture": "x.png", "detections": 0} for number in range(25)
    ]
    assert main(PREDICT) == 0
    shown = capsys.readouterr().out
    assert "019.jpg" in shown
    assert "020.jpg" not in shown
    assert "and 5 images more\n" in shown


def test_prediction_prints_json_and_nothing_else_on_stdout(api: FakeApi, capsys):
    assert main([*PREDICT, "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == [
        {"file": "a.jpg", "picture": str(Path("found/a.png")), "detections": 3}
    ]
    assert api.calls[1][1]["threshold"] == 0.3
    assert "chatter" in shown.err


# models


def test_models_are_listed(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")  # a narrow terminal cuts no name or number short
    assert main(["models"]) == 0
    shown = capsys.readouterr().out
    assert "align-deformable-detr-two-stage-r50 " in shown
    assert re.search(r"align-dino-r50-4scale +50\.2 +12 +47 +279 +2304\.07527 *\n", shown)
    assert re.search(r"align-dino-tiny +- +40 +- +- +2304\.07527 *\n", shown)


def test_a_wide_terminal_also_shows_what_models_are_for(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "140")
    assert main(["models"]) == 0
    assert "2203.03605  the baseline of Align-DETR; GPUs and COCO" in capsys.readouterr().out


def test_a_pipe_gets_every_model_on_one_line(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["models", "--model", "align-dino-lite"]) == 0
    (line,) = re.findall(r"align-dino-lite .*", capsys.readouterr().out)
    assert line.rstrip().endswith("your own data, minutes on a laptop's CPU")


def test_what_a_model_costs_is_beside_what_its_paper_says(capsys):
    assert main(["models", "--cost", "--model", "dino-r50-4scale"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"dino-r50-4scale +47\.7 +47 +286\.6 +279 +800x1296 *\n", shown)
    assert "multiply-adds at 800x1333" in shown


def test_what_a_model_costs_can_be_asked_for_a_size_and_as_json(capsys):
    arguments = ["models", "--cost", "--model", "align-dino-tiny", "--size", "128x96", "--json"]
    assert main(arguments) == 0
    (model,) = json.loads(capsys.readouterr().out)
    assert model["name"] == "align-dino-tiny"
    assert model["cost"]["size_hw"] == [128, 96]
    assert model["cost"]["params_m"] == pytest.approx(4.0, abs=0.1)
    assert model["cost"]["equal_size_hw"] is None


@pytest.mark.parametrize("size", ["800", "800x", "x800", "800x-3", "8x8", "800x1333x3"])
def test_a_size_that_is_none_is_refused(capsys, size: str):
    assert main(["models", "--cost", f"--size={size}"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == (
        "error: aligndetr models: expected --size HxW, each at least 64 pixels, "
        f"found '{size}'; write it like 800x1333\n"
    )


def test_models_are_listed_as_json(capsys):
    assert main(["models", "--json"]) == 0
    models = json.loads(capsys.readouterr().out)
    by_name = {model["name"]: model for model in models}
    assert by_name["align-dino-r50-4scale"]["ap"] == 50.2
    assert by_name["dino-r50-4scale"]["gflops"] == 279
    assert set(models[0]) == {
        *("name", "title", "paper", "ap", "epochs", "params_m", "gflops", "command", "purpose"),
    }


# What goes wrong


@pytest.mark.parametrize("arguments", [TRAIN, ["train", "--resume", "a"], EVAL, PREDICT])
@pytest.mark.parametrize("kind", [ConfigError, DatasetError])
def test_a_mistake_of_the_user_is_one_line(api: FakeApi, capsys, arguments, kind):
    api.failure = kind("cells: expected images, found none; add some")
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "chatter\nerror: cells: expected images, found none; add some\n"


def test_a_preset_finds_nothing_before_it_is_trained(api: FakeApi, capsys):
    assert main(["eval", "--model", "align-dino-tiny", "--data", "cells"]) == 2
    assert "found the preset align-dino-tiny, which is not trained" in capsys.readouterr().err
    assert api.calls == []


def test_what_may_not_be_read_is_one_line(api: FakeApi, capsys):
    api.failure = PermissionError(13, "Permission denied", "runs/a")  # pyright: ignore
    assert main(EVAL) == 2
    assert "error: runs/a: expected a file or folder that may be used" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["runs/a", None])
def test_a_full_disk_is_one_line(api: FakeApi, capsys, file: str | None):
    api.failure = OSError(errno.ENOSPC, "No space left on device", file)  # pyright: ignore
    assert main(EVAL) == 2
    place = file or "the disk"
    assert f"error: {place}: expected room to write, found: No space" in capsys.readouterr().err


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_what_the_machine_forbids_is_one_line(api: FakeApi, capsys, code: int):
    api.failure = OSError(code, "no, no", "runs/a")
    assert main(EVAL) == 2
    assert "error: runs/a: expected a file or folder that may be used" in capsys.readouterr().err


@pytest.mark.parametrize("failure", [ZeroDivisionError("ours"), OSError(errno.EBADF, "ours")])
def test_a_mistake_of_ours_is_not_caught(api: FakeApi, failure: Exception):
    api.failure = failure  # pyright: ignore
    with pytest.raises(type(failure), match="ours"):
        main(EVAL)


def test_a_mistake_of_ours_ends_with_a_traceback_and_exit_code_1():
    broken = (
        "import sys; sys.modules['aligndetr.api'] = None\n"
        "from aligndetr.cli import main; sys.exit(main(['eval', '--model', 'a', '--data', 'b']))"
    )
    result = subprocess.run([sys.executable, "-c", broken], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback (most recent call last):")


def test_an_interruption_is_one_line_and_exit_code_130(api: FakeApi, capsys):
    api.failure = KeyboardInterrupt()
    assert main(TRAIN) == 130
    assert capsys.readouterr().err.split() == ["chatter", "interrupted"]
