from dataclasses import replace

import pytest

from aligndetr.autoconfig.rules import (
    MOST_QUERIES,
    NEEDED_SIDE,
    SIDES,
    STEPS_WANTED,
    USUAL_SIDE,
    Choice,
    Clock,
    choose,
)
from aligndetr.autoconfig.speed import Speed
from aligndetr.config.codec import override
from aligndetr.config.presets import get_preset
from aligndetr.config.schema import AnyConfig
from aligndetr.data.statistics import Statistics

CELLS = Statistics(205, 3, (480, 640), 2804, 28, 81.0)
FAST = Speed(backbone=1e-8, step=1e-9)
LITE = get_preset("align-dino-lite")


def chosen(
    data: Statistics, clock: Clock | None = None, config: AnyConfig = LITE
) -> dict[str, object]:
    found: dict[str, object] = {}
    for choice in choose(config, data, clock):
        assert choice.why
        found |= choice.values
        config = override(config, choice.assignments)  # the schema takes them
    return found


def test_usual_data_change_nothing() -> None:
    assert chosen(CELLS) == {}
    assert chosen(CELLS, Clock(10.0, FAST)) == {}


def test_no_objects_change_nothing() -> None:
    assert chosen(replace(CELLS, objects=0, most_objects=0, small_side=None)) == {}


@pytest.mark.parametrize(("objects", "queries"), [(66, None), (68, 150), (130, 200), (9999, 900)])
def test_full_images_have_more_queries(objects: int, queries: int | None) -> None:
    found = chosen(replace(CELLS, most_objects=objects)).get("queries.count")
    assert found == queries
    assert (
        found is None
        or int(str(found)) in range(int(1.5 * objects), MOST_QUERIES + 1)
        or (found == MOST_QUERIES)
    )


def test_a_region_detector_has_no_queries() -> None:
    crowded = replace(CELLS, most_objects=500)
    assert "queries.count" not in chosen(crowded, config=get_preset("faster-rcnn-lite"))


@pytest.mark.parametrize("small_side", [5.0, 12.0, 20.0, 26.0])
def test_small_objects_have_larger_images(small_side: float) -> None:
    side = chosen(replace(CELLS, small_side=small_side))["data.augmentation.max_side"]
    assert isinstance(side, int)
    pixels = small_side * side / 640
    assert pixels >= NEEDED_SIDE or side == SIDES[-1]
    smaller = max(size for size in SIDES if size < side)
    assert small_side * smaller / 640 < NEEDED_SIDE


def test_small_images_are_enlarged_by_no_more_than_twice() -> None:
    shapes = Statistics(2000, 3, (128, 128), 8920, 8, 12.0)
    sides = {"data.augmentation.short_side": 240, "data.augmentation.max_side": 320}
    assert chosen(shapes) == sides  # 240 x 240: square images do not reach the longer side


def test_the_shorter_side_counts_for_square_images() -> None:
    square = Statistics(400, 1, (1024, 1024), 19876, 60, 22.0)
    assert chosen(square)["data.augmentation.max_side"] == 1024


def test_little_time_makes_images_smaller_until_the_steps_fit() -> None:
    slow = Speed(backbone=1e-9, step=5e-7)
    clock = Clock(3.0, slow)
    side = chosen(CELLS, clock)["data.augmentation.max_side"]
    assert isinstance(side, int)
    assert SIDES[0] < side < USUAL_SIDE
    images = STEPS_WANTED * LITE.data.batch_size
    assert images * slow.step * side * side * 0.75 <= clock.step_seconds
    assert "data.augmentation.max_side" not in chosen(CELLS, Clock(60.0, slow))


def test_no_time_at_all_has_the_smallest_images() -> None:
    found = chosen(CELLS, Clock(0.01, FAST))
    assert found["data.augmentation.max_side"] == SIDES[0]


def test_many_images_are_not_cached() -> None:
    clock = Clock(10.0, Speed(backbone=5e-7, step=1e-9))
    assert chosen(replace(CELLS, images=20_000), clock)["data.cache_features"] is False
    assert "data.cache_features" not in chosen(CELLS, clock)
    uncached = override(LITE, ["data.cache_features=false"])
    assert "data.cache_features" not in chosen(replace(CELLS, images=20_000), clock, uncached)


def test_without_a_cache_the_backbone_takes_its_time_of_every_step() -> None:
    clock = Clock(3.0, Speed(backbone=4e-7, step=1e-8))
    uncached = override(LITE, ["data.cache_features=false"])
    assert "data.augmentation.max_side" in chosen(CELLS, clock, uncached)
    assert "data.augmentation.max_side" not in chosen(CELLS, clock)


def test_other_augmentations_keep_their_sizes() -> None:
    large = get_preset("align-dino-r50-4scale")
    assert chosen(replace(CELLS, small_side=5.0), config=large) == {}


def test_a_choice_reads_like_the_option_that_would_make_it() -> None:
    choice = Choice({"a.b": 3, "c": False}, "so")
    assert choice.assignments == ["a.b=3", "c=false"]
    assert str(choice) == "a.b=3 c=false: so"
