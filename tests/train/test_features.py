import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, TypeAlias, cast

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from aligndetr.data.batch import (
    EpochSampler,
    collate,
    evaluation_loader,
    set_epoch,
    training_loader,
)
from aligndetr.data.dataset import Draw
from aligndetr.data.transforms import Sample
from aligndetr.errors import ConfigError
from aligndetr.train import features
from aligndetr.train.budget import Budget
from aligndetr.train.features import (
    Compute,
    Deadline,
    Room,
    cache_evaluation,
    cache_training,
    check_cacheable,
    loader_of,
)
from aligndetr.train.state import load_state
from aligndetr.train.views import SHARE, CachedView, FeatureCache, ViewKeeper, collate_views
from aligndetr.types import Batch, Features, ImageBatch

# `Lab` is that of conftest.py.
Lab: TypeAlias = Any
CPU = torch.device("cpu")


def pooled(images: ImageBatch) -> Features:
    """Levels of stride 4 and 8 with the mean of their patch, rounded up at the edges."""
    levels = tuple(
        torch.nn.functional.avg_pool2d(
            images.pixels, stride, ceil_mode=True, count_include_pad=False
        )
        for stride in (4, 8)
    )
    return Features(levels, images.padding, images.sizes)


def view(height: int, width: int, *, image_id: int = 0, objects: int = 1) -> CachedView:
    levels = tuple(
        torch.rand(2, -(-height // stride), -(-width // stride)) + 1 for stride in (4, 8)
    )
    boxes, labels = torch.rand(objects, 4), torch.zeros(objects, dtype=torch.int64)
    size = torch.tensor([10 * height, 10 * width])
    return CachedView(levels, (height, width), boxes, labels, image_id, size)


def cached(
    lab: Lab,
    dataset: Any,
    *,
    seed: int = 0,
    deadline: Deadline | None = None,
    told: list[str] | None = None,
    keeper: ViewKeeper | None = None,
    compute: Compute = pooled,
) -> DataLoader[Any]:
    loader = training_loader(dataset, batch_size=4, workers=0, seed=seed)
    features = cache_training(
        compute,
        loader,
        lab.config.data,
        keeper or FeatureCache(),
        strides=(4, 8),
        device=CPU,
        deadline=deadline,
        report=len_only,
        say=([] if told is None else told).append,
    )
    return loader_of(features, loader)


def len_only(images: int) -> None:
    assert images > 0


def test_views_of_one_shape_are_stacked_without_padding() -> None:
    views = [view(16, 24, image_id=3), view(16, 24, image_id=5, objects=0)]
    batch = collate_views(views)
    assert isinstance(batch.images, Features)
    assert (batch.images.padding, batch.images.input_size) == (None, (16, 24))
    assert torch.equal(batch.images.levels[1], torch.stack([v.levels[1] for v in views]))
    assert (batch.targets.counts, batch.image_ids) == ((1, 0), (3, 5))
    assert batch.images.sizes.tolist() == [[160, 240], [160, 240]]


def test_views_of_several_shapes_are_padded_like_images() -> None:
    views = [view(16, 9), view(12, 24)]
    images = [Sample(torch.rand(3, *v.input_size), v.boxes, v.labels, 0, (1, 1)) for v in views]
    features, pixels = collate_views(views).images, collate(images).images
    assert isinstance(features, Features)
    assert isinstance(pixels, ImageBatch)
    assert features.input_size == (16, 24)
    assert [level.shape for level in features.levels] == [(2, 2, 4, 6), (2, 2, 2, 3)]
    assert features.padding is not None
    assert pixels.padding is not None
    assert torch.equal(features.padding, pixels.padding)
    assert torch.equal(features.levels[0][0, :, :4, :3], views[0].levels[0])
    assert features.levels[0][0, :, :, 3:].eq(0).all()
    assert features.levels[0][1, :, 3:].eq(0).all()


def test_a_draw_takes_the_view_that_its_seed_says() -> None:
    views = {4: [view(8, 8, image_id=n) for n in range(3)], 9: [view(8, 8, image_id=5)]}
    cache = FeatureCache(views)
    assert len(cache) == 2
    assert [cache[Draw(4, seed)].image_id for seed in range(4)] == [0, 1, 2, 0]
    assert cache[Draw(9, 7)].image_id == 5


@pytest.mark.parametrize("workers", [0, 1])
def test_the_views_are_those_of_the_first_epochs(lab: Lab, workers: int) -> None:
    lab = lab.with_data(cached_views=2, workers=workers)
    dataset = lab.dataset(lab.train, is_training=True)
    cache = cached(lab, dataset).dataset
    sampler = EpochSampler(np.arange(len(dataset)), seed=0)
    assert len(cast(FeatureCache, cache)) == len(dataset)
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        for draw in sampler:
            kept, sample = cache[Draw(draw.index, epoch)], dataset[draw]
            assert (kept.image_id, kept.input_size) == (sample.image_id, (32, 32))
            assert torch.equal(kept.boxes, sample.boxes)
            expected = pooled(cast(ImageBatch, collate([sample]).images)).levels
            assert all(torch.equal(a, b[0]) for a, b in zip(kept.levels, expected, strict=True))


def test_after_the_deadline_one_view_of_each_image_does(lab: Lab) -> None:
    dataset = lab.dataset(lab.train, is_training=True)
    late = cached(lab, dataset, deadline=Deadline(0.0, math.inf)).dataset
    for index in range(len(dataset)):
        assert late[Draw(index, 0)] is late[Draw(index, 1)]
    early = cached(lab, dataset, deadline=Deadline(math.inf, math.inf)).dataset
    assert early[Draw(0, 0)] is not early[Draw(0, 1)]


def test_epochs_come_in_the_order_of_the_images(lab: Lab) -> None:
    dataset = lab.dataset(lab.train, is_training=True)
    images = training_loader(dataset, batch_size=4, workers=0, seed=3)
    features = cached(lab, dataset, seed=3)
    for epoch in (0, 5):
        orders: list[list[tuple[int, ...]]] = []
        for loader in (images, features):
            set_epoch(loader, epoch)
            orders.append([cast(Batch, batch).image_ids for batch in loader])
        assert orders[0] == orders[1]
        assert [len(image_ids) for image_ids in orders[0]] == [4, 4]


class Fixed:
    """Images of several sizes whose pixels, boxes and labels are known."""

    def __init__(self, annotations: Any, samples: list[Sample]) -> None:
        self.annotations = annotations
        self.samples = samples

    def __getitem__(self, draw: Draw) -> Sample:
        return self.samples[draw.index]


def test_padding_is_cut_off_what_is_kept(lab: Lab) -> None:
    sizes = [(16, 16 + 2 * number) for number in range(len(lab.train))]
    samples = [
        Sample(
            torch.rand(3, *size),
            torch.rand(number % 3, 4),
            torch.full((number % 3,), number),
            lab.train.image_ids[number],
            size,
        )
        for number, size in enumerate(sizes)
    ]
    cache = cached(lab.with_data(eval_batch_size=4), Fixed(lab.train, samples)).dataset
    for number, sample in enumerate(samples):
        kept = cache[Draw(number, 0)]
        alone = pooled(cast(ImageBatch, collate([sample]).images))
        assert kept.input_size == sizes[number]
        assert torch.equal(kept.labels, sample.labels)
        assert torch.equal(kept.boxes, sample.boxes)
        for level, expected in zip(kept.levels, alone.levels, strict=True):
            assert level.shape == expected[0].shape
            whole = level.shape[2] - 1  # the last column may have seen padding
            assert torch.allclose(level[..., :whole], expected[0][..., :whole])


def test_evaluation_batches_keep_their_order_and_targets(lab: Lab) -> None:
    dataset = lab.dataset(lab.val, is_training=False)
    loader: Any = evaluation_loader(dataset, batch_size=4, workers=0)
    batches: list[Batch] = list(loader)
    kept = cache_evaluation(pooled, loader, device=CPU, report=len_only)
    assert [batch.image_ids for batch in kept] == [batch.image_ids for batch in batches]
    assert isinstance(kept[0].images, Features)
    expected = pooled(cast(ImageBatch, batches[0].images))
    assert torch.equal(kept[0].images.levels[0], expected.levels[0])


def test_nothing_in_the_cache_wants_a_gradient(lab: Lab) -> None:
    weight = torch.ones(1, requires_grad=True)

    def compute(images: ImageBatch) -> Features:
        return Features((images.pixels * weight,), images.padding, images.sizes)

    dataset = lab.dataset(lab.val, is_training=False)
    loader = evaluation_loader(dataset, batch_size=6, workers=0)
    (batch,) = cache_evaluation(compute, loader, device=CPU, report=len_only)
    assert isinstance(batch.images, Features)
    level: Tensor = batch.images.levels[0]
    assert not level.requires_grad
    assert not level.is_inference()


def test_a_cache_that_is_too_large_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = SimpleNamespace(available=10**9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    levels = [torch.zeros(200_000), torch.zeros(100_000, dtype=torch.bfloat16)]  # 1 MB
    room = Room(FeatureCache(), 400)
    room.take(levels)
    assert room.views == 1
    with pytest.raises(ConfigError, match=r"expected at most 0\.4 GB \(40% of the free") as error:
        Room(FeatureCache(), 650).take(levels)
    assert "but one view of each image takes 0.7 GB; use smaller images" in str(error.value)
    assert "data.feature_folder=DIR" in str(error.value)


def test_as_many_views_are_kept_as_fit_and_that_is_said(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = lab.with_data(cached_views=5)
    dataset = lab.dataset(lab.train, is_training=True)
    told: list[str] = []
    everything = cached(lab, dataset, told=told)
    assert told == []
    (first, *_) = cast(FeatureCache, everything.dataset)._images.values()
    size = sum(level.numel() * level.element_size() for level in first[0].levels)
    memory = SimpleNamespace(available=int(2.6 * size * len(dataset) / SHARE))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)

    loader = cached(lab, dataset, told=told)
    assert all(
        2 <= len(views) <= 3 for views in cast(FeatureCache, loader.dataset)._images.values()
    )
    assert told[0].startswith("2 of 5 views of each image fit 40% of the free memory")


def test_room_is_that_of_all_maps_not_of_the_first_and_smallest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**9))
    room = Room(FeatureCache(), 4)  # 400 MB
    room.take([torch.zeros(5_000_000)])  # 20 MB
    for _ in range(3):
        room.take([torch.zeros(10_000_000)])  # 40 MB
    assert room.views == 2  # 140 MB each; by the first, 5
    room = Room(FeatureCache(), 4)
    room.take([torch.zeros(5_000_000)])
    with pytest.raises(ConfigError, match=r"takes 0\.7 GB"):  # 4 times the mean of 20 and 320 MB
        room.take([torch.zeros(80_000_000)])


def test_large_images_that_come_first_do_not_fill_the_room_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**9))
    room = Room(FeatureCache(), 4)  # 400 MB
    for size in (32_000_000, 32_000_000, 18_000_000):  # of these, four would take 437 MB
        room.take([torch.zeros(size)])
    room.take([torch.zeros(17_000_000)])
    assert room.views == 1
    room = Room(FeatureCache(), 3)
    for size in (32_000_000, 32_000_000):
        room.take([torch.zeros(size)])
    with pytest.raises(ConfigError, match=r"at most 0\.4 GB"):
        room.take([torch.zeros(40_000_000)])


def test_a_first_view_of_all_images_that_takes_too_long_is_refused_early(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(features, "time", SimpleNamespace(monotonic=lambda: now))
    deadline = Deadline.of(90, 60.0, views_share=0.25, is_resumed=False)
    assert (deadline.views, deadline.end) == (105, 150)
    deadline.require_time(begun=100, before=1, done=2, wanted=1000)  # no time to judge by
    now = 106.0
    deadline.require_time(begun=100, before=4, done=16, wanted=100)  # 42 more seconds
    with pytest.raises(ConfigError, match=r"--minutes: expected time .* 100 images") as error:
        deadline.require_time(begun=100, before=4, done=15, wanted=100)
    assert "last 85 need 46 seconds, found 44 seconds; give more minutes" in str(error.value)


def test_a_resumed_training_waits_for_its_features() -> None:
    deadline = Deadline.of(90, 60.0, views_share=0.25, is_resumed=True)
    assert (deadline.views, deadline.end) == (105, math.inf)


def test_the_start_of_the_loader_is_not_taken_for_the_speed_of_the_backbone(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, seconds = 0.0, iter([100.0, 6.0])  # of the first batch, and of the others

    def slowly(images: ImageBatch) -> Features:
        nonlocal now
        now += next(seconds, 6.0)
        return pooled(images)

    monkeypatch.setattr(features, "time", SimpleNamespace(monotonic=lambda: now))
    dataset = lab.dataset(lab.train, is_training=True)
    batches = math.ceil(len(dataset) / lab.config.data.eval_batch_size)
    assert batches > 2
    enough = Deadline(0.0, 100 + 6.0 * (batches - 1))
    cached(lab, dataset, deadline=enough, compute=slowly)
    now, seconds = 0.0, iter([100.0, 6.0])
    with pytest.raises(ConfigError, match="--minutes"):
        cached(lab, dataset, deadline=replace(enough, end=enough.end - 1), compute=slowly)


def test_a_trained_backbone_is_not_cached(lab: Lab) -> None:
    message = r"expected backbone\.freeze=all, found 1, which leaves .*; set backbone"
    with pytest.raises(ConfigError, match=message):
        check_cacheable(lab.config, lab.model())
    with pytest.raises(ConfigError, match=r"data\.cache_features"):
        lab.with_data(cache_features=True).fit(Budget(epochs=1))


def test_training_on_a_cache_never_runs_the_backbone_again(lab: Lab) -> None:
    lab = lab.with_data(cache_features=True, cached_views=2).with_backbone(freeze="all")
    model = lab.model()
    runs: list[int] = []
    model.backbone.register_forward_hook(lambda *_: runs.append(1))
    lab.fit(Budget(epochs=3), model=model)
    assert len(runs) == 2 * 10 / 2 + 6 / 2  # views in batches of 2, and validation images
    assert load_state(lab.folder / "run").position.step == 6


def test_a_run_on_a_cache_resumes_exactly(lab: Lab) -> None:
    lab = lab.with_data(cache_features=True, cached_views=2).with_backbone(freeze="all")
    straight, resumed = lab.model(), lab.model()
    lab.fit(Budget(epochs=2), "straight", model=straight)

    def stop_when_an_epoch_is_saved() -> None:
        if (lab.folder / "stopped" / "state").exists():
            raise KeyboardInterrupt

    lab.on_forward.append(stop_when_an_epoch_is_saved)
    with pytest.raises(KeyboardInterrupt):
        lab.fit(Budget(epochs=2), "stopped")
    lab.on_forward.clear()
    with torch.no_grad():  # all weights come from the state, those of the backbone in time
        for parameter in resumed.parameters():
            parameter.zero_()
    lab.fit(None, "stopped", model=resumed)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name])
