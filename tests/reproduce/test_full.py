"""The paper's scale: commands, estimates, and a step of every arm."""

import os
import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from aligndetr.config.codec import override
from aligndetr.config.presets import get_preset
from aligndetr.reproduce.catalogue import EXPERIMENTS, find
from aligndetr.reproduce.check import one_step
from aligndetr.reproduce.command import reproduce_full
from aligndetr.reproduce.experiment import Arm
from aligndetr.reproduce.full import FullArm, full_arms, script, unique_arms


@pytest.fixture(scope="module")
def arms() -> list[FullArm]:
    return full_arms(find(["4", "5", "7"]))


def by_key(arms: list[FullArm], experiment: str, key: str) -> FullArm:
    return next(arm for arm in arms if (arm.experiment, arm.arm.key) == (experiment, key))


def test_equal_arms_are_trained_once(arms: list[FullArm]) -> None:
    first, again = by_key(arms, "4", "focal"), by_key(arms, "5", "focal")
    assert first.shares is None
    assert again.shares == "4, baseline (Focal loss)"
    assert again.run == first.run
    assert "train" not in again.command
    assert again.gpu_hours == 0


def test_both_rows_of_the_iou_branch_are_one_training(arms: list[FullArm]) -> None:
    unfused, fused = by_key(arms, "4", "iou-branch*"), by_key(arms, "4", "iou-branch")
    assert fused.run == unfused.run
    assert "'postprocess.iou_power=0'" in unfused.command.replace("'\"'\"'", "'")
    assert "'postprocess.iou_power=0.3'" in fused.command.replace("'\"'\"'", "'")


def test_the_command_says_what_the_arm_is(arms: list[FullArm]) -> None:
    arm = by_key(arms, "4", "qfl-1")
    words = shlex.split(arm.command.splitlines()[0])
    assert words[:6] == ["accelerate", "launch", "--num_processes", "8", "-m", "aligndetr"]
    sets = words[words.index("--set") + 1 :]
    expected = override(arm.arm.config(), ["data.batch_size=2"])
    assert override(get_preset(words[words.index("--model") + 1]), sets) == expected
    assert (arm.epochs, arm.batch_size) == (12, 16)


def test_hours_are_those_of_the_published_speed(arms: list[FullArm]) -> None:
    table = EXPERIMENTS["2"]
    (detr,) = full_arms([replace(table, arms=(table.arm("detr-r50"),), claims=())])
    assert 1000 < detr.gpu_hours < 4000  # 2000 are published
    dino = by_key(arms, "4", "focal")
    assert dino.gpu_hours == pytest.approx(dino.gmacs * 12 / 25)


def test_the_script_is_one_that_a_shell_can_read(arms: list[FullArm], tmp_path: Path) -> None:
    path = tmp_path / "reproduce.sh"
    path.write_text(script(arms))
    subprocess.run(["sh", "-n", str(path)], check=True)
    refused = subprocess.run(["sh", str(path)], capture_output=True, text=True, env={})
    assert refused.returncode != 0
    assert "the folder of COCO 2017" in refused.stderr


def test_the_list_is_written_beside_the_script(tmp_path: Path) -> None:
    said: list[str] = []
    reproduce_full(["7"], tmp_path, check=False, say=said.append)
    assert (tmp_path / "reproduce.json").is_file()
    assert re.search(r"reproduce\.sh: the commands", said[0])


def test_unique_arms_are_those_that_have_a_training(arms: list[FullArm]) -> None:
    trained = {id(arm.arm) for arm in arms if arm.training is not None}
    assert {id(arm) for arm in unique_arms(find(["4", "5", "7"]))} == trained


@pytest.mark.parametrize(("table", "key"), [("4", "vfl"), ("2", "detr-r50")])
def test_an_arm_takes_a_step(table: str, key: str) -> None:
    one_step(EXPERIMENTS[table].arm(key).config())


@pytest.mark.slow
@pytest.mark.parametrize(
    "arm", unique_arms([*EXPERIMENTS.values()]), ids=lambda arm: f"{arm.preset}-{arm.key}"
)
def test_every_arm_takes_a_step(arm: Arm) -> None:
    one_step(arm.config())


STUB = """#!/bin/sh
echo "$(basename "$0") $*" >> "$LOG"
case "$*" in
  *train*--out*) while [ "$1" != --out ]; do shift; done
    if [ -e "$2" ]; then exit 3; fi; mkdir -p "$2/state"
    if [ -n "${CRASH:-}" ]; then [ "$CRASH" = early ] || touch "$2/state/training.pt"; exit 1; fi ;;
  *train*) ;;
  *) echo '{"AP": 0.5}' ;;
esac
"""


def run_script(folder: Path, arms: list[FullArm], **environment: str) -> tuple[int, list[str]]:
    """Run the script with commands that only note how they were called; return code and notes."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name in ("accelerate", "aligndetr", "python"):
        (programs / name).write_text(STUB)
        (programs / name).chmod(0o755)
    (folder / "reproduce.sh").write_text(script(arms))
    log = folder / "log"
    log.write_text("")
    paths = {"PATH": f"{programs}:{os.environ['PATH']}", "LOG": str(log)}
    folders = {"DATA": "/coco", "OUT": str(folder / "paper")}
    command = ["sh", str(folder / "reproduce.sh")]
    done = subprocess.run(command, env={**paths, **folders, **environment}, check=False)
    return done.returncode, log.read_text().splitlines()


def test_the_script_runs_again_without_doing_anything_again(
    arms: list[FullArm], tmp_path: Path
) -> None:
    trained = sum(arm.training is not None for arm in arms)
    code, said = run_script(tmp_path, arms)
    assert code == 0
    assert len(said) == trained + len(arms)
    assert f"{tmp_path}/paper/table-4-focal/last.safetensors" in said[1]
    assert (tmp_path / "paper/table-5-focal.json").read_text() == '{"AP": 0.5}\n'
    assert run_script(tmp_path, arms) == (0, [])


@pytest.mark.parametrize(("crash", "expected"), [("early", "--out"), ("late", "--resume")])
def test_the_script_goes_on_where_a_training_was_stopped(
    arms: list[FullArm], tmp_path: Path, crash: str, expected: str
) -> None:
    code, said = run_script(tmp_path, arms, CRASH=crash)
    assert code != 0
    assert len(said) == 1
    code, said = run_script(tmp_path, arms)
    assert code == 0
    assert said[0].startswith("accelerate launch --num_processes 8 -m aligndetr train")
    assert f"{expected} {tmp_path}/paper/table-4-focal" in said[0]
