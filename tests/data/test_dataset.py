import pickle

import pytest
import torch

from aligndetr.data.coco import read_coco
from aligndetr.data.dataset import DetectionDataset, Draw
from aligndetr.data.transforms import LightAugmentation
from aligndetr.errors import DatasetError

AUGMENTATION = LightAugmentation(short_side=30, max_side=40)
MEAN = STD = (0.5, 0.5, 0.5)


@pytest.fixture
def annotations(tmp_path, content, write_coco):
    return read_coco(write_coco(tmp_path / "set.json", content), folders=[tmp_path / "images"])


@pytest.fixture
def dataset(annotations):
    return DetectionDataset(annotations, AUGMENTATION.evaluation(MEAN, STD))


@pytest.fixture
def random_dataset(annotations):
    return DetectionDataset(annotations, AUGMENTATION.training(MEAN, STD))


def test_an_image_without_objects_is_a_sample(dataset):
    sample = dataset[2]
    assert sample.boxes.shape == (0, 4)
    assert (sample.image_id, sample.size) == (90, (30, 40))


def test_a_sample_has_relative_boxes_and_its_original_size(dataset):
    assert len(dataset) == 3
    sample = dataset[0]
    assert sample.pixels.shape == (3, 30, 40)
    expected = torch.tensor([[0.125, 1 / 3, 0.25, 2 / 3], [0.875, 5 / 6, 0.25, 1 / 3]])
    assert torch.allclose(sample.boxes, expected)
    assert sample.labels.tolist() == [0, 1]
    assert (sample.image_id, sample.size) == (7, (30, 40))
    assert dataset[1].size == (30, 20)


def test_a_draw_follows_from_its_seed_alone(random_dataset):
    torch.manual_seed(1)
    first = random_dataset[Draw(0, 5)].pixels
    torch.manual_seed(2)
    assert torch.equal(random_dataset[Draw(0, 5)].pixels, first)
    assert not torch.equal(random_dataset[Draw(0, 6)].pixels, first)


def test_a_draw_leaves_the_global_random_state_alone(random_dataset):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    random_dataset[Draw(0, 5)]
    assert torch.equal(torch.rand(3), expected)


def test_an_index_draws_from_the_global_random_state(random_dataset):
    torch.manual_seed(1)
    first = random_dataset[0].pixels
    assert not torch.equal(random_dataset[0].pixels, first)


def test_a_data_set_survives_the_way_to_another_process(dataset):
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[0].pixels, dataset[0].pixels)


def test_a_missing_image_names_both_files(dataset, tmp_path):
    (tmp_path / "images/b.png").unlink()
    with pytest.raises(DatasetError, match=r"set\.json: expected the image 'b\.png' in one of"):
        dataset[0]


def test_a_damaged_image_names_both_files(dataset, tmp_path):
    (tmp_path / "images/b.png").write_bytes(b"none")
    with pytest.raises(DatasetError, match=r"set\.json: .*b\.png: expected an image, found one"):
        dataset[0]
