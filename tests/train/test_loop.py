import json
import math
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from aligndetr.checkpoint import load_weights
from aligndetr.config.schema import CosineSchedule
from aligndetr.errors import CheckpointError, ConfigError
from aligndetr.model.build import build_model
from aligndetr.train import loop
from aligndetr.train.budget import Budget
from aligndetr.train.finite import DivergenceError
from aligndetr.train.state import load_state
from aligndetr.types import ImageBatch
from systems import CPU, small

# `Lab` and `Clock` are those of conftest.py.
Lab: TypeAlias = Any
Clock: TypeAlias = Any


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def lines(lab: Lab, event: str, out: str = "run") -> list[dict[str, Any]]:
    text = (lab.folder / out / "metrics.jsonl").read_text()
    return [line for line in map(json.loads, text.splitlines()) if line["event"] == event]


def test_a_run_leaves_weights_state_and_metrics(lab: Lab) -> None:
    model = lab.model()
    before = weights(model)
    metrics = lab.fit(Budget(epochs=2), model=model)
    run = lab.folder / "run"
    assert {path.name for path in run.iterdir()} == {
        "metrics.jsonl", "best.safetensors", "last.safetensors", "predictions", "state"
    }  # fmt: skip
    last = load_weights(run / "last.safetensors")
    assert_equal(last.state_dict, weights(model))
    assert (last.config, last.classes) == (lab.config, lab.val.classes)
    assert not torch.equal(before["head.weight"], last.state_dict["head.weight"])
    assert [line["step"] for line in lines(lab, "train")] == [2, 4]  # 10 images in batches of 4
    evaluations = lines(lab, "eval")
    assert [line["epoch"] for line in evaluations] == [1, 2]
    assert metrics["AP"] == max(line["AP"] for line in evaluations)
    assert (metrics["images"], load_state(run).position.epoch) == (6, 2)


def test_train_lines_have_every_term_and_their_sum(lab: Lab) -> None:
    lab.fit(Budget(epochs=1))
    (line,) = lines(lab, "train")
    terms = [line[f"main.0.{term}"] for term in ("class", "l1", "giou")]
    assert line["loss"] == pytest.approx(sum(terms))
    assert line["learning_rate"] == 1e-2


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_resumed_run_ends_bit_for_bit_like_one_that_never_stopped(
    lab: Lab, ema: float | None
) -> None:
    lab = lab.with_training(ema=ema)
    straight, stopped, resumed = lab.model(), lab.model(), lab.model()
    lab.fit(Budget(epochs=2), "straight", model=straight)

    evaluations = [0]

    def stop_in_the_second_epoch() -> None:
        evaluations[0] += 1
        if evaluations[0] == 2 + 3 + 2:  # train and evaluate epoch 1, one step more
            raise KeyboardInterrupt

    lab.on_forward.append(stop_in_the_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        lab.fit(Budget(epochs=2), "stopped", model=stopped)
    lab.on_forward.clear()
    torch.manual_seed(99)
    lab.fit(None, "stopped", model=resumed)

    assert_equal(weights(straight), weights(resumed))
    for name in ("last.safetensors", "best.safetensors"):
        one, other = (load_weights(lab.folder / out / name) for out in ("straight", "stopped"))
        assert_equal(one.state_dict, other.state_dict)
    for out in ("straight", "stopped"):
        assert [line["step"] for line in lines(lab, "train", out)] == [2, 4]
    for key in ("loss", "learning_rate"):
        one, other = (lines(lab, "train", out)[1][key] for out in ("straight", "stopped"))
        assert one == other


def test_resuming_a_finished_run_says_so_and_changes_nothing(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = lab.fit(Budget(steps=3))
    model = lab.model()
    assert lab.fit(None, model=model) == metrics
    assert "this training is finished; nothing is left to resume" in capsys.readouterr().err
    assert_equal(load_weights(lab.folder / "run" / "last.safetensors").state_dict, weights(model))


def test_resuming_needs_a_state(lab: Lab) -> None:
    with pytest.raises(CheckpointError, match="found none"):
        lab.fit(None)


def test_steps_can_end_within_an_epoch(lab: Lab) -> None:
    lab.fit(Budget(steps=3))
    assert load_state(lab.folder / "run").position.step == 3
    assert [line["step"] for line in lines(lab, "eval")] == [2, 3]


def test_accumulated_batches_make_one_step_and_the_rest_of_an_epoch_another(lab: Lab) -> None:
    lab = lab.with_training(accumulate=2).with_data(batch_size=3)  # 3 batches an epoch
    lab.fit(Budget(epochs=2))
    assert load_state(lab.folder / "run").position.step == 4


def test_two_half_batches_step_like_a_whole_one(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only equal where the losses of the halves weigh the same: count targets of the whole batch.
    monkeypatch.setattr(nn.Dropout, "forward", lambda _, tokens: tokens)
    monkeypatch.setattr(loop.Trainer, "_tick", lambda *_, **__: 7.0)
    whole, halves = lab.model(), lab.model()
    lab.with_data(batch_size=8).fit(Budget(steps=1), "whole", model=whole)
    lab.with_data(batch_size=4).with_training(accumulate=2).fit(
        Budget(steps=1), "halves", model=halves
    )
    one, other = (model.seen for model in (whole, halves))
    assert [sum(one, ())] == [sum(other[:2], ())]
    gradients = [load_state(lab.folder / out).weights["optimizer"] for out in ("whole", "halves")]
    for name in gradients[0]["state"]:
        first, second = (weights["state"][name]["exp_avg"] for weights in gradients)
        assert torch.allclose(first / first.norm(), second / second.norm(), atol=1e-4)


def test_evaluations_come_every_so_many_epochs_and_at_the_end(lab: Lab) -> None:
    lab.with_training(evaluate_every=2).fit(Budget(epochs=5))
    assert [line["epoch"] for line in lines(lab, "eval")] == [2, 4, 5]


def test_the_averaged_weights_are_what_is_evaluated_and_written(lab: Lab) -> None:
    lab = lab.with_training(ema=0.9)
    model = lab.model()
    lab.fit(Budget(epochs=1), model=model)
    saved = load_state(lab.folder / "run")
    last = load_weights(lab.folder / "run" / "last.safetensors").state_dict
    average = saved.weights["average"]
    assert_equal({f"module.{name}": tensor for name, tensor in last.items()}, {
        name: tensor for name, tensor in average.items() if name != "n_averaged"
    })  # fmt: skip
    assert not torch.equal(last["head.weight"], model.state_dict()["head.weight"])
    assert int(average["n_averaged"]) == saved.position.step == 2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_update(lab: Lab, value: float) -> None:
    model = lab.model()
    head = model.head

    def spoil() -> None:
        if load_state_step(lab) == 2:
            head.bias.data[:3] = value

    lab.on_forward.append(spoil)
    with pytest.raises(DivergenceError, match=r"training step 2: .* main\.0\.class=nan") as error:
        lab.fit(Budget(epochs=2), model=model)
    assert "main.0.l1" not in str(error.value)
    ids = str(error.value).split("image ids of the batch: ")[1].split(";")[0].split(", ")
    assert len(ids) == 4
    assert {int(image_id) for image_id in ids} <= set(lab.train.image_ids)
    last = load_weights(lab.folder / "run" / "last.safetensors").state_dict
    assert torch.equal(last["head.weight"], head.weight)
    assert all(tensor.isfinite().all() for tensor in last.values())


def load_state_step(lab: Lab) -> int:
    run = lab.folder / "run"
    return load_state(run).position.step if (run / "state").exists() else 0


def test_a_gradient_that_is_not_finite_stops_before_the_update(lab: Lab) -> None:
    model = lab.model()
    head = model.head
    head.weight.register_hook(lambda gradient: gradient * math.inf)
    before = head.weight.detach().clone()
    with pytest.raises(DivergenceError, match=r"training step 0: .* found gradient norm=inf"):
        lab.fit(Budget(epochs=1), model=model)
    assert torch.equal(head.weight, before)


def test_a_step_reads_from_the_device_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """On an accelerator: what would wait for it is the copy of the matching costs, nothing else."""
    monkeypatch.setattr(loop, "FiniteCheck", partial(without_waiting, loop.FiniteCheck))
    reads: list[str] = []
    is_counting = [False]
    for name in ("cpu", "item", "tolist", "__bool__", "__float__", "__int__", "__index__"):
        monkeypatch.setattr(Tensor, name, counted(getattr(Tensor, name), name, reads, is_counting))
    real_step = loop.Trainer._step

    def step(*arguments: Any) -> Any:
        is_counting[0] = True
        with SizesThatDependOnData() as mode:
            result = real_step(*arguments)
        is_counting[0] = False
        reads.extend(mode.found)
        return result

    monkeypatch.setattr(loop.Trainer, "_step", step)
    network, _ = build_model(small("align-dino-r50-4scale", num_classes=3), device=CPU)
    network.features(ImageBatch(torch.zeros(1, 3, 32, 32), None, torch.tensor([[32, 32]])))
    lab.fit(Budget(steps=3), model=network)
    assert reads.count("cpu") == 3
    # The check of the step before reads its own numbers, which have arrived by then.
    assert set(reads) == {"cpu", "tolist"}


def without_waiting(check: Any, optimizer: Any, *, waits: bool) -> Any:
    assert waits
    return check(optimizer, waits=False)


def counted(method: Any, name: str, reads: list[str], is_counting: list[bool]) -> Any:
    def call(self: Tensor, *arguments: Any, **options: Any) -> Any:
        if is_counting[0]:
            reads.append(name)
        return method(self, *arguments, **options)

    return call


class SizesThatDependOnData(TorchDispatchMode):
    """Notes operators that an accelerator must finish before the next one can be asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("nonzero", "masked_select", "_unique2", "unique_dim", "_local_scalar_dense"):
            self.found.append(name)
        if name in ("index", "index_put", "index_put_") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]
        ):
            self.found.append(f"{name} of a mask")
        return func(*args, **(kwargs or {}))


def test_gradients_are_clipped(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []

    def step(self: Any, *_: Any) -> None:
        parameters = [p for group in self.param_groups for p in group["params"]]
        norms.append(float(torch.stack([p.grad.norm() for p in parameters]).norm()))

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    lab.with_training(clip_norm=0.01).fit(Budget(steps=2))
    assert norms == pytest.approx([0.01, 0.01], rel=1e-3)


def test_the_rate_follows_the_share_of_the_budget(lab: Lab) -> None:
    schedule = CosineSchedule(warmup=0.5)
    lab.with_training(schedule=schedule).with_data(batch_size=10).fit(Budget(steps=4))
    rates = [line["learning_rate"] for line in lines(lab, "train")]
    assert rates == pytest.approx([0, 0.5e-2, 1e-2, 0.5e-2])


def test_a_budget_in_minutes_ends_in_time_with_an_evaluation(lab: Lab, clock: Clock) -> None:
    clock.advance(100.0)
    lab.on_forward.append(lambda: clock.advance(1.0))
    lab.with_training(schedule=CosineSchedule(warmup=0.5)).fit(Budget(minutes=2), started=90.0)
    position = load_state(lab.folder / "run").position
    last = lines(lab, "eval")[-1]
    assert 114 <= last["elapsed_seconds"] <= 120
    assert last["step"] == position.step > 90
    # 3 batches of evaluation at 1 s, and as many of the trial; see CHORE_SHARE.
    assert position.evaluation_seconds < 0.05 * 120 + 3 + 1
    rates = [line["learning_rate"] for line in lines(lab, "train")]
    assert rates.index(max(rates)) == pytest.approx(len(rates) / 2, abs=3)
    assert rates[-1] < 0.1 * max(rates)


def test_a_step_that_would_end_too_late_is_not_begun(lab: Lab, clock: Clock) -> None:
    lab.on_forward.append(lambda: clock.advance(7.0))
    lab.fit(Budget(minutes=2, reserve_seconds=5.0))
    assert clock.now <= 115


def test_a_machine_that_becomes_slow_still_ends_in_time(lab: Lab, clock: Clock) -> None:
    lab.on_forward.append(lambda: clock.advance(1.0 if clock.now < 60 else 6.0))
    lab.fit(Budget(minutes=2))
    assert 90 <= clock.now <= 120


def test_minutes_that_the_last_evaluation_needs_are_refused(lab: Lab, clock: Clock) -> None:
    lab.on_forward.append(lambda: clock.advance(10.0))
    with pytest.raises(ConfigError, match=r"--minutes 1: .* 30 s have passed and 40 s are needed"):
        lab.fit(Budget(minutes=1))


def test_a_resumed_budget_in_minutes_has_the_rest(lab: Lab, clock: Clock) -> None:
    def stop_after_80_seconds() -> None:
        clock.advance(1.0)
        if clock.now == 80:
            raise KeyboardInterrupt

    lab.on_forward.append(stop_after_80_seconds)
    with pytest.raises(KeyboardInterrupt):
        lab.fit(Budget(minutes=2))
    used = load_state(lab.folder / "run").position.elapsed_seconds
    assert 30 < used < 80
    lab.on_forward[:] = [lambda: clock.advance(1.0)]
    clock.now = 1000.0
    lab.fit(None, started=990.0)
    assert 110 - used <= clock.now - 990 <= 120 - used


def test_an_unmeasurable_ap_is_below_any_other(lab: Lab) -> None:
    assert loop._ap({"AP": None}) < loop._ap({"AP": 0.0})


@pytest.mark.parametrize(
    ("aps", "best"),
    [
        ((None, None, None), 3),  # nothing can be measured: the last weights, not the first
        ((0.0, 0.0, 0.0), 3),
        ((None, 0.0, None), 2),
        ((0.2, 0.3, 0.1), 2),
    ],
)
def test_of_equal_weights_the_later_are_the_best(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, aps: tuple[float | None, ...], best: int
) -> None:
    given = iter(aps)
    monkeypatch.setattr(loop, "score", lambda *_: {"AP": next(given), "AP50": 0.5, "AP75": 0.5})
    kept: list[int] = []
    save = loop.save_weights

    def watched(path: Path, *others: Any) -> None:
        if path.name == "best.safetensors":
            kept.append(len(lines(lab, "eval")))
        save(path, *others)

    monkeypatch.setattr(loop, "save_weights", watched)
    lab.fit(Budget(epochs=3))
    assert kept[-1] == best


def test_where_evaluations_are_rare_short_epochs_are_saved_by_the_minute(
    lab: Lab, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    save = loop.save_state

    def watched(*parts: Any, position: Any, **others: Any) -> None:
        saved.append(position.epoch)
        save(*parts, position=position, **others)

    monkeypatch.setattr(loop, "save_state", watched)
    lab = lab.with_training(evaluate_every=4)
    lab.fit(Budget(epochs=9))
    assert saved == [4, 8, 9]
    saved.clear()
    lab.on_forward.append(lambda: clock.advance(11))  # two steps an epoch, three of an evaluation
    lab.fit(Budget(epochs=9), "slow")
    assert saved == [3, 4, 7, 8, 9]
