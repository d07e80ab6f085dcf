import json
import os
import platform
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor

from aligndetr.data.dataset import Draw
from aligndetr.errors import ConfigError
from aligndetr.train import caching
from aligndetr.train.budget import Budget
from aligndetr.train.caching import Caching
from aligndetr.train.feature_files import (
    VIEWS_PER_FILE,
    BatchFiles,
    BatchWriter,
    ViewFiles,
    ViewWriter,
    feature_key,
    is_complete,
)
from aligndetr.train.views import CachedView
from aligndetr.types import Batch, Features, Targets

# `Lab` is that of conftest.py.
Lab: TypeAlias = Any


def view(number: int, *, objects: int = 1) -> CachedView:
    levels = (torch.rand(2, 4, 6).bfloat16(), torch.rand(3, 2, number % 3 + 1))
    boxes, labels = torch.rand(objects, 4), torch.full((objects,), number)
    return CachedView(levels, (16, 24), boxes, labels, 1000 + number, torch.tensor([160, 240]))


def assert_same(found: CachedView, expected: CachedView) -> None:
    assert (found.input_size, found.image_id) == (expected.input_size, expected.image_id)
    for name in ("boxes", "labels", "size"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert all(torch.equal(a, b) for a, b in zip(found.levels, expected.levels, strict=True))


def test_no_views_are_an_empty_set(tmp_path: Path) -> None:
    assert len(ViewWriter(tmp_path / "views").finish(is_complete=True)) == 0


def test_views_come_back_as_they_were(tmp_path: Path) -> None:
    writer = ViewWriter(tmp_path / "deep" / "views")
    views = [view(number, objects=number % 3) for number in range(VIEWS_PER_FILE + 6)]
    for number, one in enumerate(views):
        writer.add(number % 7, one)
    assert not is_complete(tmp_path / "deep" / "views")
    files = writer.finish(is_complete=True)
    assert len(files) == 7
    for number, one in enumerate(views):
        assert_same(files[Draw(number % 7, number // 7)], one)
    assert_same(ViewFiles(tmp_path / "deep" / "views")[Draw(3, 1)], views[10])


def test_what_an_interrupted_run_left_does_not_count(tmp_path: Path) -> None:
    interrupted = ViewWriter(tmp_path / "views")
    for number in range(VIEWS_PER_FILE):
        interrupted.add(0, view(number))
    writer = ViewWriter(tmp_path / "views")
    expected = view(3)
    writer.add(5, expected)
    assert_same(writer.finish(is_complete=True)[Draw(5, 0)], expected)
    assert [path.name for path in tmp_path.iterdir()] == ["views"]


def test_what_a_dead_process_left_is_removed_and_a_living_one_s_is_not(tmp_path: Path) -> None:
    host = re.sub(r"\W", "_", platform.node())
    dead = tmp_path / f"old.{host}.999999999.partial"
    alive = tmp_path / f"other.{host}.{os.getppid()}.partial"
    elsewhere = tmp_path / "old.another.999999999.partial"  # on another machine it may live
    for folder in (dead, alive, elsewhere):
        folder.mkdir()
    ViewWriter(tmp_path / "views").finish(is_complete=True)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted(["views", alive.name, elsewhere.name])


def test_views_short_of_their_number_are_of_use_to_this_run_alone(tmp_path: Path) -> None:
    writer = ViewWriter(tmp_path / "views")
    expected = view(3)
    writer.add(5, expected)
    assert_same(writer.finish(is_complete=False)[Draw(5, 0)], expected)
    assert not is_complete(tmp_path / "views")


def test_other_processes_read_what_the_main_one_wrote_complete_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = ViewWriter(tmp_path / "views")
    expected = view(3)
    writer.add(5, expected)
    folder = writer.finish(is_complete=False).folder
    state = SimpleNamespace(is_main_process=False)
    monkeypatch.setattr(caching, "PartialState", lambda: state)
    monkeypatch.setattr(caching, "broadcast_object_list", lambda _: [folder])
    nothing: Any = None
    views = Caching(nothing, nothing, nothing, nothing, None)._shared_files(tmp_path, nothing)
    assert_same(views[Draw(5, 0)], expected)


def test_two_runs_that_write_the_same_end_with_one_of_them(tmp_path: Path) -> None:
    first = ViewWriter(tmp_path / "views")
    first.add(0, view(1))
    other = tmp_path / "views.another.1.partial"
    shutil.copytree(next(tmp_path.glob("*.partial")), other)
    (other / "index.json").write_text("[]")
    other.rename(tmp_path / "views")  # another process was faster
    assert len(first.finish(is_complete=True)) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["views"]


@pytest.mark.parametrize("is_padded", [False, True])
def test_batches_come_back_in_their_order(tmp_path: Path, is_padded: bool) -> None:
    padding = torch.rand(2, 16, 24) > 0.5 if is_padded else None
    writer = BatchWriter(tmp_path / "batches")
    expected: list[Batch] = []
    for number in range(3):
        levels = (torch.rand(2, 3, 4, 6), torch.rand(2, 3, 2, 3).bfloat16())
        sizes = torch.tensor([[160, 240], [100, 150 + number]])
        features = Features(levels, padding, sizes, None if number else (16, 24))
        targets = Targets(torch.rand(3, 4), torch.arange(3), (1, 2))
        expected.append(Batch(features, targets, (number, 100 + number)))
        writer.add(expected[-1])
    files = writer.finish()
    assert len(files) == 3
    for _ in range(2):  # it can be gone through again
        for found, batch in zip(files, expected, strict=True):
            assert found.image_ids == batch.image_ids
            assert found.targets.counts == batch.targets.counts
            assert torch.equal(found.targets.boxes, batch.targets.boxes)
            assert isinstance(found.images, Features)
            assert isinstance(batch.images, Features)
            assert found.images.input_size == batch.images.input_size
            assert torch.equal(found.images.sizes, batch.images.sizes)
            tensors: list[tuple[Tensor | None, Tensor | None]] = [
                *zip(found.images.levels, batch.images.levels, strict=True),
                (found.images.padding, batch.images.padding),
            ]
            for one, other in tensors:
                assert (one is None and other is None) or torch.equal(one, other)  # pyright: ignore


def on_files(lab: Lab) -> Lab:
    lab = lab.with_data(
        cache_features=True, cached_views=2, feature_folder=str(lab.folder / "features")
    )
    return lab.with_backbone(freeze="all")


def runs_of_backbone(lab: Lab, out: str, budget: Budget | None = None) -> tuple[int, Any]:
    model = lab.model()
    runs: list[int] = []
    model.backbone.register_forward_hook(lambda *_: runs.append(1))
    lab.fit(budget or Budget(epochs=2), out, model=model)
    return len(runs), model


def test_a_run_on_files_is_the_run_on_memory_and_the_next_one_finds_them(lab: Lab) -> None:
    in_memory = lab.with_data(cache_features=True, cached_views=2).with_backbone(freeze="all")
    _, expected = runs_of_backbone(in_memory, "memory")
    for out, runs in (("first", 2 * 10 / 2 + 6 / 2), ("second", 0)):
        found, model = runs_of_backbone(on_files(lab), out)
        assert found == runs
        for name, tensor in expected.state_dict().items():
            assert torch.equal(tensor, model.state_dict()[name])


def test_runs_of_several_seeds_find_views_that_have_a_seed_of_their_own(lab: Lab) -> None:
    alike = on_files(lab).with_data(cache_seed=5)
    orders: list[list[tuple[int, ...]]] = []
    for seed, runs in ((1, 2 * 10 / 2 + 6 / 2), (2, 0)):
        found, model = runs_of_backbone(alike.with_training(seed=seed), f"seed-{seed}")
        assert found == runs
        orders.append(model.seen)
    assert orders[0] != orders[1]  # each still has its own order


def key(
    lab: Lab,
    *,
    training: bool = True,
    precision: torch.dtype = torch.float32,
    **weights: Tensor,
) -> str:
    tensors = weights or {"weight": torch.ones(3)}
    return feature_key(tensors, precision, lab.config, lab.train, training=training)


def renumbered(lab: Lab) -> Lab:
    images = replace(lab.train.images, ids=lab.train.images.ids + 1000)
    return replace(lab, train=replace(lab.train, images=images))


def test_the_key_is_that_of_what_decides_on_the_features(lab: Lab, tmp_path: Path) -> None:
    same = key(lab)
    assert key(lab.with_training(learning_rate=1.0, epochs=9)) == same
    assert key(lab.with_data(batch_size=1, feature_folder="elsewhere")) == same
    augmentation = lab.config.data.augmentation.model_copy(update={"flip": 0.1})
    others = [
        key(lab, weight=torch.zeros(3)),
        key(lab, other=torch.ones(3)),
        key(lab.with_training(seed=1)),
        key(lab.with_data(cached_views=7)),
        key(lab.with_data(augmentation=augmentation)),
        key(lab, training=False),
        key(lab, precision=torch.bfloat16),
        key(renumbered(lab)),
        key(replace(lab, config=lab.config.model_copy(update={"type": "regions"}))),
    ]
    assert len({same, *others}) == 1 + len(others)
    assert key(lab.with_data(cache_seed=0)) == same  # the lab's own seed
    assert key(lab.with_data(cache_seed=0).with_training(seed=1)) == same
    evaluation = key(lab, training=False)
    assert key(lab.with_training(seed=1), training=False) == evaluation


def test_another_picture_under_the_same_name_has_another_key(lab: Lab, tmp_path: Path) -> None:
    before = key(lab)
    path = lab.train.path(0)
    copy = tmp_path / "copy"
    shutil.copy2(path, copy)
    try:
        os.utime(path, ns=(1, 1))
        assert key(lab) != before
    finally:
        shutil.copy2(copy, path)
    assert key(lab) == before


def test_a_disk_that_is_too_small_is_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ConfigError, match=r"expected at most .* free space of .*features"):
        on_files(lab).fit(Budget(epochs=1))
    features = lab.folder / "features"
    assert not any(is_complete(folder) for folder in features.iterdir())


def test_the_index_says_how_many_views_there_are(lab: Lab) -> None:
    runs_of_backbone(on_files(lab), "run")
    (folder,) = (lab.folder / "features").glob("train-*")
    assert len(json.loads((folder / "index.json").read_text())) == 20
    (folder,) = (lab.folder / "features").glob("val-*")
    assert len(BatchFiles(folder)) == 3
