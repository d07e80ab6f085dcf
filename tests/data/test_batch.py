import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader

from aligndetr.data.batch import (
    EpochSampler,
    collate,
    evaluation_loader,
    input_sizes,
    set_epoch,
    stack_padded,
    training_loader,
)
from aligndetr.data.coco import read_coco
from aligndetr.data.dataset import DetectionDataset
from aligndetr.data.transforms import LightAugmentation, Sample
from aligndetr.errors import DatasetError
from aligndetr.types import Features, ImageBatch

MEAN = STD = (0.5, 0.5, 0.5)


def sample(height, width, num_objects=0, image_id=0):
    return Sample(
        torch.ones(3, height, width),
        torch.full((num_objects, 4), 0.5),
        torch.arange(num_objects),
        image_id,
        (height * 2, width * 2),
    )


def images_of(batch):
    assert isinstance(batch.images, ImageBatch)
    return batch.images


def dataset_of(tmp_path, write_coco, sizes, mode="training", objects=None):
    content = {
        "images": [
            {"id": 100 + row, "file_name": f"{row}.png", "width": width, "height": height}
            for row, (height, width) in enumerate(sizes)
        ],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"image_id": 100 + row, "category_id": 1, "bbox": [0, 0, 9, 9]}
            for row in (range(len(sizes)) if objects is None else objects)
        ],
    }
    annotations = read_coco(
        write_coco(tmp_path / "set.json", content), folders=[tmp_path / "images"]
    )
    augmentation = LightAugmentation(short_side=16, max_side=24)
    return DetectionDataset(annotations, getattr(augmentation, mode)(MEAN, STD))


@pytest.fixture
def dataset(tmp_path, write_coco):
    return dataset_of(tmp_path, write_coco, [(20, 20)] * 7, objects=[0, 1, 2, 4, 5])


def test_images_without_objects_make_a_batch():
    batch = collate([sample(4, 6), sample(4, 6)])
    assert batch.targets.boxes.shape == (0, 4)
    assert batch.targets.counts == (0, 0)


def test_images_of_one_size_are_not_padded():
    batch = collate([sample(4, 6, 2, image_id=8), sample(4, 6, 1, image_id=3)])
    assert images_of(batch).pixels.shape == (2, 3, 4, 6)
    assert batch.images.padding is None
    assert batch.images.sizes.tolist() == [[8, 12], [8, 12]]
    assert batch.image_ids == (8, 3)
    assert batch.targets.counts == (2, 1)
    assert batch.targets.labels.tolist() == [0, 1, 0]


def test_padding_is_at_the_right_and_the_bottom_and_leaves_boxes_alone():
    batch = collate([sample(4, 2, 1), sample(3, 5, 1)])
    images = images_of(batch)
    assert images.pixels.shape == (2, 3, 4, 5)
    assert images.padding is not None
    expected = torch.ones(2, 4, 5, dtype=torch.bool)
    expected[0, :4, :2] = False
    expected[1, :3, :5] = False
    assert torch.equal(images.padding, expected)
    assert torch.equal(images.pixels, (~expected).float()[:, None].expand(-1, 3, -1, -1))
    assert torch.equal(batch.targets.boxes, torch.full((2, 4), 0.5))


def test_batches_of_a_fixed_size_always_have_a_mask():
    for samples in ([sample(4, 6), sample(4, 6)], [sample(8, 8)], [sample(4, 2), sample(3, 5)]):
        images = collate(samples, size=(8, 8)).images
        assert isinstance(images, ImageBatch)
        assert images.pixels.shape[2:] == (8, 8)
        assert images.padding is not None
        for row, one in enumerate(samples):
            height, width = one.pixels.shape[1:]
            assert torch.equal(images.pixels[row, :, :height, :width], one.pixels)
            assert images.padding[row, :height, :width].logical_not().all()
            assert int(images.padding[row].sum()) == 64 - height * width
            assert images.pixels[row].masked_select(images.padding[row]).eq(0).all()


def test_an_image_larger_than_the_fixed_size_is_refused():
    with pytest.raises(DatasetError, match=r"data\.pad_to: expected at least \[4, 9\].*\[8, 8\]"):
        collate([sample(4, 6), sample(2, 9)], size=(8, 8))


def test_stacked_maps_hand_gradients_back_to_each():
    maps = [torch.ones(2, 3, 4, requires_grad=True), torch.ones(2, 5, 2, requires_grad=True)]
    stacked = stack_padded(maps)
    assert stacked.shape == (2, 2, 5, 4)
    stacked.sum().backward()
    for level in maps:
        assert level.grad is not None
        assert level.grad.eq(1).all()


def test_the_sizes_of_images_in_a_batch_are_those_before_padding():
    padded = collate([sample(4, 2), sample(3, 5), sample(4, 5)]).images
    assert input_sizes(padded) == [(4, 2), (3, 5), (4, 5)]
    assert input_sizes(collate([sample(4, 2), sample(4, 2)]).images) == [(4, 2), (4, 2)]
    sizes = torch.tensor([[8, 12]])
    assert input_sizes(Features((), None, sizes, (4, 6))) == [(4, 6)]
    with pytest.raises(ValueError, match="expected Features that know their input_size"):
        input_sizes(Features((), None, sizes))


def test_a_sampler_of_nothing_is_empty():
    assert list(EpochSampler(np.arange(0), seed=0)) == []


def test_a_sampler_draws_each_row_once_in_an_order_of_the_epoch():
    sampler = EpochSampler(np.array([3, 5, 8, 9, 11, 20]), seed=1)
    first = list(sampler)
    assert sorted(draw.index for draw in first) == [3, 5, 8, 9, 11, 20]
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(EpochSampler(np.array([3, 5, 8, 9, 11, 20]), seed=2)) != first


def batches(loader, epoch):
    set_epoch(loader, epoch)
    return [(batch.image_ids, batch.images.pixels) for batch in loader]


def same(ones, others):
    return [ids for ids, _ in ones] == [ids for ids, _ in others] and all(
        torch.equal(one, other) for (_, one), (_, other) in zip(ones, others, strict=True)
    )


def test_batches_follow_from_seed_and_epoch_whatever_the_workers(dataset):
    here = training_loader(dataset, batch_size=3, workers=0, seed=4)
    there = training_loader(dataset, batch_size=3, workers=2, seed=4)
    torch.manual_seed(0)
    first = batches(here, 0)
    second = batches(here, 1)
    torch.manual_seed(1)  # what else ran does not matter
    assert same(batches(there, 0), first)
    assert same(batches(there, 1), second)
    assert not same(first, second)
    resumed = training_loader(dataset, batch_size=3, workers=0, seed=4)
    assert same(batches(resumed, 1), second)
    other = training_loader(dataset, batch_size=3, workers=0, seed=5)
    assert not same(batches(other, 0), first)


def test_a_loader_leaves_the_global_random_state_alone(dataset):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    batches(training_loader(dataset, batch_size=3, workers=0, seed=4), 0)
    assert torch.equal(torch.rand(3), expected)


def test_an_incomplete_training_batch_is_dropped_unless_it_is_the_only_one(dataset):
    sizes = [
        [
            len(batch.image_ids)
            for batch in training_loader(dataset, batch_size=n, workers=0, seed=0)
        ]
        for n in (3, 7, 8)
    ]
    assert sizes == [[3, 3], [7], [7]]


def test_images_too_few_for_all_processes_are_not_dropped(dataset):
    images = len(dataset)
    loader = training_loader(dataset, batch_size=images, workers=0, seed=0, processes=2)
    assert len(loader) == 1
    shards = [prepare_data_loader(loader, num_processes=2, process_index=i) for i in range(2)]
    for shard in shards:
        (batch,) = shard
        assert len(batch.image_ids) == images
    incomplete = training_loader(dataset, batch_size=images - 1, workers=0, seed=0, processes=2)
    assert len(incomplete) == 2  # the second is filled up


def test_images_without_objects_can_be_left_out(dataset):
    loader = training_loader(dataset, batch_size=5, workers=0, seed=0, keep_empty=False)
    (batch,) = loader
    assert sorted(batch.image_ids) == [100, 101, 102, 104, 105]


def test_training_on_no_image_is_refused(tmp_path, write_coco):
    dataset = dataset_of(tmp_path, write_coco, [(20, 20)], objects=[])
    with pytest.raises(DatasetError) as caught:
        training_loader(dataset, batch_size=1, workers=0, seed=0, keep_empty=False)
    assert "set.json: expected an image with objects to train on, found none; " in str(caught.value)


def test_evaluation_brings_every_image_once_by_aspect_ratio(tmp_path, write_coco):
    sizes = [(20, 30), (30, 20), (20, 30), (30, 20), (20, 20)]
    dataset = dataset_of(tmp_path, write_coco, sizes, mode="evaluation")
    loader = evaluation_loader(dataset, batch_size=2, workers=0)
    assert [batch.image_ids for batch in loader] == [(100, 102), (104, 101), (103,)]
    assert [batch.images.padding is None for batch in loader] == [True, False, True]


def test_accelerate_gives_each_process_its_own_batches(dataset):
    loader = training_loader(dataset, batch_size=2, workers=0, seed=4)
    whole = [ids for ids, _ in batches(loader, 3)]
    shards = [prepare_data_loader(loader, num_processes=2, process_index=rank) for rank in (0, 1)]
    parts = [[ids for ids, _ in batches(shard, 3)] for shard in shards]
    assert parts == [[whole[0]], [whole[1]]]
    assert not same(batches(shards[0], 4), batches(shards[0], 3))


def frozen_objects(pixels, boxes, labels):
    return torch.full_like(pixels, gc.get_freeze_count(), dtype=torch.float32), boxes, labels


def test_collections_in_a_worker_leave_alone_what_it_shares_with_its_parent(dataset):
    """A full one would write to every object of the parent, and so copy them all."""
    watched = replace(dataset, transform=frozen_objects)
    (batch, *_) = evaluation_loader(watched, batch_size=1, workers=1)
    assert batch.images.pixels.max() > 10_000
    assert gc.get_freeze_count() == 0


def test_an_error_in_a_worker_reaches_the_user(dataset, tmp_path):
    (tmp_path / "images/3.png").write_bytes(b"none")
    loader = training_loader(dataset, batch_size=7, workers=1, seed=0)
    with pytest.raises(DatasetError, match=r"3\.png: expected an image, found one"):
        list(loader)
