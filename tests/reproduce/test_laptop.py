"""Experiments at laptop scale: pairs, resuming, and a whole small one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from torch import Tensor

from aligndetr.checkpoint import load_weights
from aligndetr.config.schema import Config
from aligndetr.errors import ConfigError
from aligndetr.reproduce import laptop, trials
from aligndetr.reproduce.catalogue import EXPERIMENTS
from aligndetr.reproduce.experiment import Experiment
from aligndetr.reproduce.laptop import Plan, run
from aligndetr.reproduce.outcome import Outcome
from aligndetr.reproduce.pairing import write_start
from aligndetr.reproduce.places import Place, locked
from aligndetr.reproduce.report import markdown, write_report
from aligndetr.reproduce.small import DataSet, Trial, is_fused
from aligndetr.reproduce.trials import train_trial
from aligndetr.train.finite import DivergenceError
from aligndetr.train.loop import Trainer
from small import SMALL

PlanOf = Callable[[Experiment], Plan]


def quietly(plan: Plan) -> tuple[list[Outcome], list[str]]:
    said: list[str] = []
    return run(plan, say=said.append, report=lambda _: None), said


def start(plan: Plan, experiment: Experiment, key: str, *, seed: int = 1) -> dict[str, Tensor]:
    trial = plan.trial(experiment, experiment.arm(key), weight=1.0, seed=seed)
    path = plan.out / "start.safetensors"
    write_start(path, trial.trained_config(plan.data), plan.data)
    return load_weights(path).state_dict


def test_arms_of_one_seed_start_from_the_same_weights(plan_of: PlanOf) -> None:
    table = EXPERIMENTS["4"]
    plan = plan_of(table)
    focal = start(plan, table, "focal")
    for key in ("iou-branch", "qfl-1", "vfl", "ia-bce"):
        other = start(plan, table, key)
        assert focal.keys() <= other.keys()
        assert all(torch.equal(other[name], tensor) for name, tensor in focal.items())
        extra = other.keys() - focal.keys()
        assert bool(extra) == (key == "iou-branch")
    different = start(plan, table, "focal", seed=2)
    assert any(not torch.equal(different[name], tensor) for name, tensor in focal.items())


def test_systems_of_other_networks_start_from_their_own(plan_of: PlanOf) -> None:
    table = EXPERIMENTS["7"]
    changes = tuple(change for change in SMALL if not change.startswith("denoising"))
    plan = replace(plan_of(table), overrides=changes)
    one, other = (start(plan, table, key) for key in ("h-detr", "h-detr-ia-bce"))
    assert one.keys() == other.keys()
    assert all(torch.equal(other[name], tensor) for name, tensor in one.items())


def test_arms_of_one_seed_see_the_same_batches_and_draws(
    plan_of: PlanOf, two_arms: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, ...]] = []
    step = Trainer._step

    def watched(self: Trainer, batch: Any, num_targets: float) -> Any:
        state = torch.random.get_rng_state()  # what denoising draws from
        boxes = batch.targets.boxes.clone()
        seen.append((batch.image_ids, boxes, batch.images.levels[0].clone(), state))
        return step(self, batch, num_targets)

    monkeypatch.setattr(Trainer, "_step", watched)
    plan = replace(plan_of(two_arms), steps=3)
    quietly(plan)
    assert len(seen) == 6
    for one, other in zip(seen[:3], seen[3:], strict=True):
        assert one[0] == other[0]
        assert all(torch.equal(a, b) for a, b in zip(one[1:], other[1:], strict=True))
    assert not torch.equal(seen[0][3], seen[1][3])


@pytest.mark.slow
def test_a_small_experiment_from_end_to_end(plan_of: PlanOf, two_arms: Experiment) -> None:
    plan = replace(plan_of(two_arms), seeds=2, weights=(1.0, 2.0))
    outcomes, said = quietly(plan)
    assert len(said) == 2 * 2 + 2 * 2  # two trainings: two weights, two seeds
    assert said[-1].startswith("[8/8]")
    (outcome,) = outcomes
    assert [arm.arm.key for arm in outcome.arms] == ["focal", "iou-branch*", "iou-branch"]
    assert all(set(arm.by_seed) == {1, 2} for arm in outcome.arms)
    assert outcome.arms[1].places == outcome.arms[2].places
    folder = write_report(outcome, plan.out)
    table = json.loads((folder / "table.json").read_text())
    assert table["arms"][2]["ours"]["AP"]["to_baseline"]["seeds"] == 2
    assert "| w/ IoU branch |" in (folder / "table.md").read_text()
    assert (folder / "picture.png").stat().st_size > 1000

    again, silence = quietly(plan)  # all is found
    assert silence == []
    assert again[0].as_json() == outcome.as_json()


def test_an_arm_s_weight_is_chosen_by_its_own_detections(
    plan_of: PlanOf, two_arms: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(config: Config, *_: object) -> dict[str, float]:
        scores.append(config.postprocess.iou_power)
        return {"AP": 1.0 if config.postprocess.iou_power else next(unfused)}

    scores: list[float] = []
    unfused = iter([0.5, 2.0])
    plan = replace(plan_of(two_arms), weights=(1.0, 2.0))
    trained: list[str] = []
    train_trial = laptop.train_trial

    def watched(trial: Trial, *rest: Any) -> Any:
        trained.append(trial.name(plan.data))
        return train_trial(trial, *rest)

    monkeypatch.setattr(laptop, "train_trial", watched)
    unfused_arm, fused_arm = two_arms.arms[1:]
    tuning = [t for arm in (unfused_arm, fused_arm) for t in plan.tuning(two_arms, arm)]
    queue_run = laptop._Queue(plan, 4, lambda _: None).run
    queue_run(laptop._unique(plan, tuning), [t for t in tuning if is_fused(t.config)])
    assert len(trained) == 2  # of both arms
    kept = [plan.place(trial).weights.is_file() for trial in tuning]
    assert kept == [True] * 4
    monkeypatch.setattr(trials, "measure_trial", measured)
    assert laptop._chosen(plan, two_arms, unfused_arm) == 2.0
    assert laptop._chosen(plan, two_arms, fused_arm) == 1.0
    assert scores == [0.0, 0.0, 0.3, 0.3]


def test_what_is_finished_serves_other_tables(plan_of: PlanOf) -> None:
    table, figure = EXPERIMENTS["8"], EXPERIMENTS["figB"]
    first = plan_of(replace(table, arms=(table.arm("k-3"),), baseline="k-3", claims=()))
    assert len(quietly(first)[1]) == 1
    (outcome,), said = quietly(replace(first, experiments=(figure,)))
    assert said == []
    assert (write_report(outcome, first.out) / "picture.png").is_file()


def test_an_interrupted_training_goes_on_and_ends_alike(
    plan_of: PlanOf, two_arms: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(plan_of(two_arms), steps=5)  # two of them an epoch
    trial = plan.trial(two_arms, two_arms.arm("focal"), weight=1.0, seed=1)
    whole = plan.place(trial)
    train_trial(trial, plan.data, whole)

    cut = Place(plan.out / "cut")
    step, steps = Trainer._step, iter(range(100))

    def failing(self: Trainer, batch: Any, num_targets: float) -> Any:
        if next(steps) == 3:  # in the second epoch
            raise KeyboardInterrupt
        return step(self, batch, num_targets)

    with locked(cut.folder):
        monkeypatch.setattr(Trainer, "_step", failing)
        with pytest.raises(KeyboardInterrupt):
            train_trial(trial, plan.data, cut)
        monkeypatch.setattr(Trainer, "_step", step)
        assert cut.trained() is None
        train_trial(trial, plan.data, cut)
    one, other = (load_weights(place.weights).state_dict for place in (whole, cut))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not (cut.run / "state").exists()


def test_a_training_without_a_state_starts_anew(plan_of: PlanOf, two_arms: Experiment) -> None:
    plan = plan_of(two_arms)
    trial = plan.trial(two_arms, two_arms.arm("focal"), weight=1.0, seed=1)
    place = plan.place(trial)
    place.run.mkdir(parents=True)
    (place.run / "config.yaml").write_text("left by a run that was killed")
    assert train_trial(trial, plan.data, place).steps == 2


def test_a_training_that_diverges_has_no_numbers(
    plan_of: PlanOf, two_arms: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverging(**_: object) -> None:
        raise DivergenceError("step 3: infinite")

    monkeypatch.setattr(trials, "train", diverging)
    (outcome,), said = quietly(plan_of(two_arms))
    assert "AP -," in said[0]
    assert outcome.arms[0].by_seed == {}
    assert outcome.judged(two_arms.claims[0]) == "not measured"
    assert "| baseline (Focal loss) | 1 | 49.0 | +0.0 | - | - |" in markdown(outcome)


@pytest.mark.parametrize("left_behind", ["", "999999999", str(os.getppid()), "no number"])
def test_a_folder_is_for_one_process_whatever_its_lock_file_says(
    tmp_path: Path, left_behind: str
) -> None:
    (tmp_path / "lock").write_text(left_behind)  # by a process that was killed, at whatever moment
    with locked(tmp_path) as first, locked(tmp_path) as second:
        assert (first, second) == (True, False)
    with locked(tmp_path) as third:
        assert third


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import sys, time; from filelock import FileLock; lock = FileLock(sys.argv[1]); "
        "lock.acquire(); print(flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "\n"
        with locked(tmp_path) as is_ours:
            assert not is_ours
        other.kill()
        other.wait()
    with locked(tmp_path) as is_ours:
        assert is_ours


def test_what_another_process_is_at_is_waited_for_and_told_once(
    plan_of: PlanOf, two_arms: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(replace(two_arms, arms=two_arms.arms[:1], claims=()))
    folder = plan.place(plan.trial(two_arms, two_arms.arm("focal"), weight=1.0, seed=1)).folder
    folder.mkdir(parents=True)
    other = FileLock(folder / "lock")
    other.acquire()
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            other.release()

    monkeypatch.setattr(laptop.time, "sleep", wait)
    (outcome,), said = quietly(plan)
    assert waits == [laptop.WAIT_SECONDS] * 3
    assert said[0] == f"waiting for another process, which is at {folder.name}"
    assert said[1].startswith("[1/1]")
    assert len(said) == 2
    assert set(outcome.arms[0].by_seed) == {1}


def test_minutes_become_the_same_steps_for_all(
    plan_of: PlanOf, two_arms: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(laptop, "TIMING_STEPS", 2)
    plan = plan_of(two_arms)
    said: list[str] = []
    steps = laptop.steps_in(0.5, plan, said.append)
    assert steps >= 1
    assert said[0] == "timing the baseline"
    assert said[1].startswith("[1/1] focal-s0-")
    assert laptop.steps_in(0.5, plan, said.append) == steps
    assert len(said) == 2
    assert laptop.steps_in(1.0, plan, said.append) == pytest.approx(2 * steps, abs=1)


def test_the_steps_of_some_minutes_are_those_of_the_timed_baseline(
    plan_of: PlanOf, two_arms: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(laptop, "TIMING_STEPS", 2)
    plan = plan_of(two_arms)
    laptop.steps_in(0.5, plan, lambda _: None)
    (metrics,) = plan.out.glob("trials/*/run/metrics.jsonl")
    events = [json.loads(line) for line in metrics.read_text().splitlines()]
    slow = [event | {"images_per_second": 1.0} for event in events if event["event"] == "train"]
    metrics.write_text("\n".join(json.dumps(event) for event in slow))
    assert laptop.steps_in(2.0, plan, lambda _: None) == 30  # 2 * 60 images by 4
    other = replace(plan, overrides=(*plan.overrides, "encoder.layers=0"))
    laptop.steps_in(2.0, other, lambda _: None)
    assert len(list(plan.out.glob("steps-*-2.json"))) == 2  # each of its own baseline


def test_the_timing_of_another_process_is_waited_for(
    plan_of: PlanOf, two_arms: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(laptop, "TIMING_STEPS", 2)
    plan = plan_of(two_arms)
    timing = replace(plan, steps=2)
    trial = timing.trial(two_arms, two_arms.arm("focal"), weight=None, seed=0)
    folder = plan.place(trial).folder
    folder.mkdir(parents=True)
    other = FileLock(folder / "lock")
    other.acquire()
    monkeypatch.setattr(laptop.time, "sleep", lambda _: other.release())
    said: list[str] = []
    assert laptop.steps_in(0.5, plan, said.append) >= 1
    assert said[1] == f"waiting for another process, which is at {folder.name}"


def test_minutes_of_a_baseline_that_diverges_are_refused(
    plan_of: PlanOf, two_arms: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverging(**_: object) -> None:
        raise DivergenceError("step 3: infinite")

    monkeypatch.setattr(trials, "train", diverging)
    with pytest.raises(ConfigError, match=r"--minutes-an-arm: .* diverges .*; give --steps"):
        laptop.steps_in(0.5, plan_of(two_arms), lambda _: None)


@pytest.mark.slow
def test_a_curve_has_a_point_an_evaluation(plan_of: PlanOf, data: DataSet) -> None:
    figure = EXPERIMENTS["figA"]
    figure = replace(figure, arms=(figure.arm("dino"), figure.arm("dino-24")), claims=())
    plan = replace(plan_of(figure), steps=4)
    (outcome,), _ = quietly(plan)
    assert [steps for steps, _ in outcome.arms[0].places[1].curve()] == [2, 4]
    assert [steps for steps, _ in outcome.arms[1].places[1].curve()] == [2, 4, 6, 8]
    assert (write_report(outcome, plan.out) / "picture.png").is_file()


def test_what_auto_means_is_decided_once_for_all_arms(
    plan_of: PlanOf, two_arms: Experiment
) -> None:
    changes = tuple(change for change in SMALL if not change.startswith("precision"))
    plan = replace(plan_of(two_arms), arithmetic="bf16", overrides=changes)
    assert {plan.config(arm).precision for arm in two_arms.arms} == {"bf16"}
