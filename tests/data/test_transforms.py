import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from aligndetr.boxes import cxcywh_to_xyxy
from aligndetr.data.transforms import (
    Augmentation,
    DetrAugmentation,
    LightAugmentation,
    fitted_size,
)

MEAN, STD = (0.5, 0.25, 0.0), (0.5, 0.25, 1.0)
PLAIN = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
SMALL = DetrAugmentation(
    short_sides=(24, 32, 40),
    max_side=60,
    crop_short_sides=(30, 40),
    crop_range=(16, 30),
    evaluation_short_side=40,
)


def picture(height, width, box=None):
    """A black uint8 image with a white box (xyxy, whole pixels)."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    if box is not None:
        left, top, right, bottom = box
        image[:, top:bottom, left:right] = 255
    return image


def box_around_white(pixels):
    """Where a picture is white, as xyxy in [0, 1] of it."""
    height, width = pixels.shape[1:]
    rows, columns = (pixels[0] > 0.5).nonzero().unbind(1)
    edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    return torch.tensor(edges) / torch.tensor([width, height, width, height])


@pytest.mark.parametrize("augmentation", [SMALL, LightAugmentation(short_side=24, max_side=32)])
@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_an_image_without_objects_needs_no_boxes(augmentation, mode):
    view = getattr(augmentation, mode)(MEAN, STD)(picture(30, 40))
    assert view.pixels.dtype == torch.float32
    assert view.boxes.shape == (0, 4)
    assert view.labels.shape == (0,)
    assert view.labels.dtype == torch.int64


def test_pixels_are_normalised_by_channel():
    image = torch.full((3, 8, 8), 255, dtype=torch.uint8)
    pixels = LightAugmentation(short_side=8).evaluation(MEAN, STD)(image).pixels
    assert torch.allclose(pixels[:, 0, 0], torch.tensor([1.0, 3.0, 1.0]))
    assert type(pixels) is torch.Tensor


def test_pil_uint8_and_float_images_give_the_same():
    array = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    transform = LightAugmentation(short_side=12, max_side=16).evaluation(MEAN, STD)
    tensor = torch.as_tensor(array).permute(2, 0, 1)
    expected = transform(tensor).pixels
    assert torch.equal(transform(Image.fromarray(array)).pixels, expected)
    assert torch.allclose(transform(tensor.float() / 255).pixels, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "short_side", "max_side", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1067)),
        ((640, 480), 800, 1333, (1067, 800)),
        ((427, 640), 800, 1333, (800, 1199)),
        ((300, 1000), 800, 1333, (400, 1333)),  # limited by the longer side
        ((300, 1000), 600, None, (600, 2000)),
        ((1, 1000), 100, 200, (1, 200)),  # never empty
    ],
)
def test_fitted_size_is_that_of_the_shorter_side_within_the_longer(
    size, short_side, max_side, expected
):
    assert fitted_size(size, short_side, max_side) == expected


def test_evaluation_of_the_detr_recipe_is_800_by_at_most_1333():
    transform = DetrAugmentation().evaluation(*PLAIN)
    assert transform(picture(48, 64)).pixels.shape == (3, 800, 1067)
    assert transform(picture(30, 100)).pixels.shape == (3, 400, 1333)


def test_training_of_the_detr_recipe_draws_all_its_sizes_and_crops():
    augmentation = SMALL.model_copy(update={"flip": 0.0})
    transform = augmentation.training(*PLAIN)
    torch.manual_seed(0)
    shapes = [transform(picture(30, 40)).pixels.shape[1:] for _ in range(100)]
    assert all(max(shape) == 60 or min(shape) in {24, 32, 40} for shape in shapes)
    assert all(max(shape) <= 60 for shape in shapes)
    uncropped = {(24, 32), (32, 43), (40, 53)}
    assert 0.3 < np.mean([tuple(shape) in uncropped for shape in shapes]) < 0.7


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    left=st.integers(0, 60),
    top=st.integers(0, 40),
    width=st.integers(16, 40),
    height=st.integers(16, 40),
    light=st.booleans(),
)
def test_boxes_follow_the_pixels(seed, left, top, width, height, light):
    box = [left, top, left + width, top + height]
    augmentation = (
        LightAugmentation(short_side=80, max_side=100, zoom=(0.5, 2.0), color=0, vertical_flip=0.5)
        if light
        else SMALL.model_copy(update={"crop_range": (28, 60)})
    )
    torch.manual_seed(seed)
    view = augmentation.training(*PLAIN)(
        picture(80, 100, box), torch.tensor([box], dtype=torch.float32), torch.tensor([2])
    )
    if len(view.boxes) == 0:  # cropped away, up to what rounding leaves
        assert (view.pixels > 0.5).float().mean() < 0.1
        return
    assert view.labels.tolist() == [2]
    found = cxcywh_to_xyxy(view.boxes)[0]
    assert (found >= 0).all()
    assert (found <= 1).all()
    if min((found[2:] - found[:2]) * torch.tensor(view.pixels.shape[:0:-1])) > 3:
        pixel = 1.5 / min(view.pixels.shape[1:])
        assert torch.allclose(found, box_around_white(view.pixels), atol=pixel)


def test_light_training_and_evaluation_give_one_size_for_an_aspect_ratio():
    augmentation = LightAugmentation(short_side=24, max_side=32, zoom=(0.5, 2.0))
    training = augmentation.training(MEAN, STD)
    expected = augmentation.evaluation(MEAN, STD)(picture(30, 40)).pixels.shape
    torch.manual_seed(0)
    assert expected == (3, 24, 32)
    assert {training(picture(size * 3, size * 4)).pixels.shape for size in range(5, 40)} == {
        expected
    }


def test_zooming_out_pads_with_the_mean():
    augmentation = LightAugmentation(short_side=40, max_side=40, zoom=(0.5, 0.5), color=0)
    mean = (0.4, 0.4, 0.4)
    white = torch.full((3, 40, 40), 255, dtype=torch.uint8)
    box = torch.tensor([[0.0, 0.0, 40.0, 40.0]])
    view = augmentation.training(mean, (1.0, 1.0, 1.0))(white, box, torch.tensor([0]))
    is_content = (view.pixels - 0.6).abs() < 1e-3
    is_padding = view.pixels.abs() < 1e-3
    assert (is_content | is_padding).all()
    assert is_content.sum() == 3 * 20 * 20
    assert torch.allclose(view.boxes[0, 2:], torch.tensor([0.5, 0.5]))


def test_zooming_in_crops():
    augmentation = LightAugmentation(short_side=40, max_side=40, zoom=(2.0, 2.0), color=0)
    box = torch.tensor([[0.0, 0.0, 40.0, 40.0]])
    view = augmentation.training(*PLAIN)(picture(40, 40), box, torch.tensor([0]))
    assert torch.allclose(view.boxes, torch.tensor([[0.5, 0.5, 1.0, 1.0]]))


def test_without_zoom_flips_and_colour_training_is_evaluation():
    augmentation = LightAugmentation(short_side=24, max_side=32, zoom=(1, 1), flip=0, color=0)
    image = torch.randint(0, 256, (3, 30, 40), dtype=torch.uint8)
    box, label = torch.tensor([[1.0, 2.0, 30.0, 20.0]]), torch.tensor([1])
    training = augmentation.training(MEAN, STD)(image, box, label)
    evaluation = augmentation.evaluation(MEAN, STD)(image, box, label)
    for ours, theirs in zip(training, evaluation, strict=True):
        assert torch.allclose(ours, theirs)


@pytest.mark.parametrize("augmentation", [SMALL, LightAugmentation(short_side=24, max_side=32)])
def test_the_same_seed_gives_the_same_view(augmentation):
    transform = augmentation.training(MEAN, STD)
    image = torch.randint(0, 256, (3, 30, 40), dtype=torch.uint8)
    views = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        views.append(transform(image).pixels)
    assert torch.equal(views[0], views[1])
    assert views[0].shape != views[2].shape or not torch.equal(views[0], views[2])


def test_a_pipeline_survives_the_way_to_another_process():
    transform = LightAugmentation(short_side=8).training(MEAN, STD)
    assert pickle.loads(pickle.dumps(transform))(picture(8, 8)).pixels.shape == (3, 8, 8)


def test_augmentations_are_told_apart_by_type():
    adapter = TypeAdapter[DetrAugmentation | LightAugmentation](Augmentation)
    assert adapter.validate_python({"type": "detr"}) == DetrAugmentation()
    light = adapter.validate_python({"type": "light", "zoom": [1, 1]})
    assert light == LightAugmentation(zoom=(1, 1))
    with pytest.raises(ValidationError, match="'detr', 'light'"):
        adapter.validate_python({"type": "other"})
