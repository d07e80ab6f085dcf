"""A training of two parts: with a frozen backbone, then with its upper stages."""

from dataclasses import replace
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor

from aligndetr.config.codec import override
from aligndetr.config.presets import get_preset
from aligndetr.config.schema import Unfreezing
from aligndetr.errors import ConfigError
from aligndetr.model.build import build_model
from aligndetr.train import caching
from aligndetr.train.budget import Budget
from aligndetr.train.state import load_state
from aligndetr.train.views import FeatureCache
from aligndetr.types import Features, ImageBatch
from systems import CPU, small

# `Lab` and `Clock` are those of conftest.py.
Lab: TypeAlias = Any
Clock: TypeAlias = Any


def two_parts(lab: Lab, at: float, *, is_cached: bool = True) -> Lab:
    lab = lab.with_backbone(freeze="all").with_data(cache_features=is_cached, cached_views=1)
    return lab.with_training(unfreeze=Unfreezing(at=at, freeze=0))


def patches(model: Any) -> Tensor:
    return model.backbone.patches.weight.detach().clone()


class Watch:
    """Notes after every forward pass of training whether the backbone has changed."""

    def __init__(self, lab: Lab) -> None:
        self.model = lab.model()
        self.before = patches(self.model)
        self.has_changed: list[bool] = []
        lab.on_forward.append(self.note)
        self.model.on_forward = lab.on_forward

    def note(self) -> None:
        if self.model.training:
            self.has_changed.append(not patches(self.model).equal(self.before))


@pytest.mark.parametrize("is_cached", [True, False])
def test_the_backbone_stays_as_it_is_for_its_share_of_the_steps(lab: Lab, is_cached: bool) -> None:
    lab = two_parts(lab, 0.5, is_cached=is_cached)
    watch = Watch(lab)
    lab.fit(Budget(steps=6), model=watch.model)
    assert watch.has_changed == [False] * 4 + [True] * 2  # the 4th step is the first to change it
    assert load_state(lab.folder / "run").position.is_unfrozen


def test_a_budget_in_epochs_unfreezes_between_two(lab: Lab) -> None:
    lab = two_parts(lab, 0.4)  # 1.2 of 3 epochs of two steps: the third is trained
    watch = Watch(lab)
    lab.fit(Budget(epochs=3), model=watch.model)
    assert watch.has_changed == [False] * 5 + [True]


def test_a_share_of_one_never_unfreezes(lab: Lab) -> None:
    watch = Watch(two_parts(lab, 1.0))
    two_parts(lab, 1.0).fit(Budget(epochs=2), model=watch.model)
    assert not patches(watch.model).ne(watch.before).any()


def test_a_budget_in_minutes_unfreezes_at_its_share_of_the_time(lab: Lab, clock: Clock) -> None:
    lab = two_parts(lab, 0.5)
    watch = Watch(lab)
    lab.on_forward.append(lambda: clock.advance(1.0))
    lab.fit(Budget(minutes=2), model=watch.model)
    position = load_state(lab.folder / "run").position
    assert position.is_unfrozen
    assert position.elapsed_seconds <= 120
    trained = watch.has_changed.index(True) / len(watch.has_changed)
    assert 0.4 < trained < 0.6
    assert watch.has_changed == sorted(watch.has_changed)


def test_gradients_that_are_added_up_are_not_lost(lab: Lab) -> None:
    lab = two_parts(lab, 0.5).with_training(accumulate=2).with_data(batch_size=2)
    watch = Watch(lab)
    lab.fit(Budget(steps=4), model=watch.model)
    # Two batches a step: two steps frozen, then two more of which the first changes it.
    assert watch.has_changed == [False] * 6 + [True] * 2


def test_cached_features_are_let_go(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FeatureCache] = []

    class Watched(FeatureCache):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr(caching, "FeatureCache", Watched)
    sizes: list[int] = []
    lab = two_parts(lab, 0.5)
    lab.on_forward.append(lambda: sizes.append(sum(map(len, made))))
    lab.fit(Budget(steps=4))
    assert sizes[0] == len(lab.train)
    assert sizes[-1] == 0


def test_it_is_said(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    two_parts(lab, 0.5).fit(Budget(steps=4))
    assert "training the upper stages of the backbone from now on" in capsys.readouterr().err


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_run_resumed_in_either_part_ends_like_one_that_never_stopped(
    lab: Lab, stop_after: int
) -> None:
    lab = two_parts(lab, 0.5).with_training(ema=0.9)
    straight, resumed = lab.model(), lab.model()
    lab.fit(Budget(epochs=4), "straight", model=straight)
    epochs = [0]

    def stop() -> None:
        epochs[0] += 1
        if epochs[0] > 5 * stop_after:  # two steps, three batches to evaluate
            raise KeyboardInterrupt

    lab.on_forward.append(stop)
    with pytest.raises(KeyboardInterrupt):
        lab.fit(Budget(epochs=4), "stopped")
    lab.on_forward.clear()
    lab.fit(None, "stopped", model=resumed)
    expected = straight.state_dict()
    for name, tensor in resumed.state_dict().items():
        assert tensor.equal(expected[name]), name


def test_no_features_are_cached_when_resuming_after_it(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = two_parts(lab, 0.5)
    lab.fit(Budget(steps=4))
    capsys.readouterr()
    lab.fit(None)
    assert "caching" not in capsys.readouterr().err


def test_a_real_backbone_is_frozen_as_a_whole_then_in_part() -> None:
    config = override(
        small("dino-r50-4scale"),
        ["backbone.freeze=all", "training.unfreeze={at: 0.5, freeze: 2}"],
    )
    model, _ = build_model(config, device=CPU)
    images = ImageBatch(torch.rand(1, 3, 64, 64), None, torch.tensor([[64, 64]]))
    model.train()
    assert not any(level.requires_grad for level in model.features(images).levels)
    assert not model.backbone.training
    model.backbone.unfreeze()
    model.train()
    assert model.backbone.training
    sum_of(model.features(images).levels).backward()
    trained = [name for name, value in model.backbone.named_parameters() if value.grad is not None]
    frozen = [name for name, value in model.backbone.named_parameters() if not value.requires_grad]
    assert trained
    assert frozen
    assert not set(trained) & set(frozen)


def renewing(lab: Lab, at: float = 0.5) -> Lab:
    """A real network whose first of two maps is that of the last stage that stays frozen."""
    config = override(
        small("dino-r50-4scale", num_classes=len(lab.train.classes)),
        ["backbone.freeze=all", f"training.unfreeze={{at: {at}, freeze: 4, keep_features: true}}"],
    )
    data = lab.with_data(cache_features=True, cached_views=2).config.data
    training = config.training.model_copy(update={"learning_rate": 1e-2, "ema": 0.9})
    config = config.model_copy(update={"data": data, "training": training})
    return replace(lab, config=config)


def built(lab: Lab) -> Any:
    torch.manual_seed(7)
    return build_model(lab.config, device=CPU)[0]


def weights_of(model: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}


@pytest.mark.parametrize("budget", [Budget(steps=6), Budget(epochs=3)])
def test_features_are_kept_where_trained_stages_can_be_renewed(
    lab: Lab, budget: Budget, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = renewing(lab)
    model = built(lab)
    before, kinds = weights_of(model), list[type]()
    model.register_forward_pre_hook(
        lambda module, inputs: kinds.append(type(inputs[0])) if module.training else None
    )
    lab.fit(budget, model=model)
    assert kinds == [Features] * 6
    trained = {name for name, value in model.backbone.named_parameters() if value.requires_grad}
    changed = {name for name, value in weights_of(model).items() if not value.equal(before[name])}
    assert changed == trained
    assert changed
    assert "training the upper stages" in capsys.readouterr().err


def test_pictures_follow_where_features_are_not_to_be_kept(lab: Lab) -> None:
    lab = renewing(lab)
    lab = replace(lab, config=override(lab.config, ["training.unfreeze.keep_features=false"]))
    model, kinds = built(lab), list[type]()
    model.register_forward_pre_hook(
        lambda module, inputs: kinds.append(type(inputs[0])) if module.training else None
    )
    lab.fit(Budget(steps=6), model=model)
    assert kinds == [Features] * 3 + [ImageBatch] * 3


def test_features_that_cannot_be_kept_are_refused(lab: Lab) -> None:
    lab = two_parts(lab, 0.5)
    lab = lab.with_training(unfreeze=Unfreezing(freeze=0, keep_features=True))
    with pytest.raises(ConfigError, match=r"unfreeze\.keep_features: expected .* set it to false"):
        lab.fit(Budget(steps=2))


def test_upper_stages_are_trained_on_features_from_the_start(lab: Lab) -> None:
    lab = replace(lab, config=override(renewing(lab).config, ["training.unfreeze=null"]))
    lab = lab.with_backbone(freeze=4)
    model = built(lab)
    before, kinds = weights_of(model), list[type]()
    model.register_forward_pre_hook(lambda _, inputs: kinds.append(type(inputs[0])))
    lab.fit(Budget(steps=2), model=model)
    assert {*kinds} == {Features}
    trained = {name for name, value in model.backbone.named_parameters() if value.requires_grad}
    changed = {name for name, value in weights_of(model).items() if not value.equal(before[name])}
    assert changed == trained


def test_old_features_give_what_images_give(lab: Lab) -> None:
    lab = renewing(lab, at=0.2).with_training(ema=None)
    model = built(lab).eval()
    images = ImageBatch(torch.rand(2, 3, 64, 96), None, torch.tensor([[64, 96]] * 2))
    with torch.no_grad():
        features = replace(model.features(images), is_kept=True)
        before = model(features).main.boxes
    lab.fit(Budget(steps=6), model=model)
    model.eval()
    with torch.no_grad():
        levels, direct = model.features(features).levels, model.features(images).levels
        boxes = model(features).main.boxes
        as_given = model(replace(features, is_kept=False)).main.boxes
    assert not torch.allclose(boxes, before, atol=1e-3)
    assert not torch.allclose(boxes, as_given, atol=1e-3)
    assert levels[0].equal(features.levels[0])
    for own, level in zip(levels, direct, strict=True):
        assert (own - level).norm() <= 1e-4 * level.norm()


@pytest.mark.parametrize("stop_after", [2, 6])
def test_a_run_with_renewed_features_resumes_exactly(lab: Lab, stop_after: int) -> None:
    lab = renewing(lab)
    straight, stopped, resumed = built(lab), built(lab), built(lab)
    lab.fit(Budget(epochs=4), "straight", model=straight)
    steps = [0]

    def stop(module: Any, _: Any) -> None:
        steps[0] += module.training
        if steps[0] > stop_after:
            raise KeyboardInterrupt

    stopped.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        lab.fit(Budget(epochs=4), "stopped", model=stopped)
    lab.fit(None, "stopped", model=resumed)
    expected = straight.state_dict()
    for name, tensor in resumed.state_dict().items():
        assert tensor.equal(expected[name]), name


def test_features_in_files_are_found_again_whatever_the_trained_weights(lab: Lab) -> None:
    folder = lab.folder / "features"
    lab = renewing(lab).with_data(cache_features=True, cached_views=2, feature_folder=str(folder))
    lab.fit(Budget(steps=8), model=built(lab))
    kept = {file.name for file in folder.iterdir()}
    for steps in (8, 10):  # two runs that stop after unfreezing, with other weights
        model = built(lab)
        seen = [0]

        def stop(module: Any, _: Any, steps: int = steps, seen: list[int] = seen) -> None:
            seen[0] += module.training
            if seen[0] > steps:
                raise KeyboardInterrupt

        model.register_forward_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            lab.fit(Budget(epochs=6), f"stopped{steps}", model=model)
        lab.fit(None, f"stopped{steps}", model=built(lab))
    others = {file.name for file in folder.iterdir()} - kept
    assert sorted(name.split("-")[0] for name in others) == ["train", "val"]  # once for both


@pytest.mark.parametrize("at", [0.5, 0.9])
def test_minutes_leave_time_for_an_evaluation_with_the_trained_stages(
    lab: Lab, clock: Clock, at: float
) -> None:
    lab = renewing(lab, at)
    model = built(lab)

    def work(module: Any, _: Any) -> None:
        is_frozen = module.backbone.is_frozen
        clock.advance(1.0 if module.training else 2.0 if is_frozen else 20.0)

    model.register_forward_pre_hook(work)
    lab.with_training(ema=None).fit(Budget(minutes=4), model=model)
    position = load_state(lab.folder / "run").position
    assert position.is_unfrozen
    assert 150 < position.elapsed_seconds <= 240


def sum_of(levels: Any) -> Tensor:
    return torch.stack([level.sum() for level in levels]).sum()


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (9, "backbone.freeze: expected at most 5, the stages of .*, found 9"),
        (5, "training.unfreeze.freeze: expected fewer than all stages, found 5"),
    ],
)
def test_stages_that_do_not_exist_or_leave_nothing_are_refused(freeze: int, message: str) -> None:
    changes = ["backbone.freeze=all", f"training.unfreeze={{freeze: {freeze}}}"]
    with pytest.raises(ConfigError, match=message):
        build_model(override(small("dino-r50-4scale"), changes), device=CPU)


@pytest.mark.parametrize("preset", ["align-dino-lite", "faster-rcnn-lite"])
def test_unfreezing_needs_a_backbone_that_is_frozen(preset: str) -> None:
    with pytest.raises(ConfigError, match=r"expected backbone.freeze=all, found 2, .* leave one"):
        override(
            get_preset(preset),
            ["training.unfreeze={at: 0.5}", "backbone.freeze=2", "data.cache_features=false"],
        )
