from collections.abc import Collection
from dataclasses import replace

import pytest

from aligndetr.autoconfig.machine import Line, Room, Speed
from aligndetr.autoconfig.rules import (
    LEAST_STEPS,
    MOST_QUERIES,
    NEEDED_PIXELS,
    SIDES,
    STEPS_NEEDED,
    STEPS_WANTED,
    Choice,
    Clock,
    Situation,
    choose,
    choose_counts,
)
from aligndetr.config.codec import override
from aligndetr.config.presets import PRESETS, get_preset
from aligndetr.config.schema import AnyConfig
from aligndetr.data.statistics import Statistics

CELLS = Statistics(205, 3, (480, 640), 2804, 28, 0.15)
LITE = get_preset("align-dino-lite")
SIDE = "data.augmentation.max_side"
SETTLING = [name for name in PRESETS if get_preset(name).training.autoconfig]


ROOM = Room(300 / 64, 1e12)


def timed(backbone: float = 1e-9, step: float = 1e-9, load: float = 0.0) -> Speed:
    """Return a speed of these times in seconds a pixel; `load` in seconds an image."""
    return Speed(Line(0, backbone), Line(0, step), load)


FAST = timed()


def chosen(
    data: Statistics = CELLS,
    config: AnyConfig = LITE,
    *,
    given: Collection[str] = ("training.epochs",),
    room: Room = ROOM,
    speed: Speed = FAST,
    minutes: float | None = None,
    val_images: int = 87,
) -> dict[str, object]:
    clock = None if minutes is None else Clock(minutes, speed)
    situation = Situation(config, data, val_images, room, clock, given)
    found: dict[str, object] = {}
    for choice in choose(situation):
        assert choice.why
        found |= choice.values
        config = override(config, choice.assignments)  # the schema takes them
    return found


@pytest.mark.parametrize("preset", SETTLING)
def test_usual_data_change_nothing(preset: str) -> None:
    assert chosen(config=get_preset(preset)) == {}
    assert chosen(config=get_preset(preset), minutes=10.0) == {}


def test_presets_that_settle_are_those_for_own_data() -> None:
    assert set(SETTLING) == {"align-dino-lite", "align-dino-small", "faster-rcnn-lite"}


def test_no_objects_change_nothing() -> None:
    empty = replace(CELLS, objects=0, most_objects=0, small_share=None)
    assert chosen(empty) == {}
    assert list(choose_counts(LITE, empty)) == []


@pytest.mark.parametrize(("objects", "queries"), [(66, None), (68, 150), (130, 200), (9999, 900)])
def test_full_images_have_more_queries(objects: int, queries: int | None) -> None:
    found = list(choose_counts(LITE, replace(CELLS, most_objects=objects)))
    assert [choice.values.get("queries.count") for choice in found] == [queries] * len(found)
    assert len(found) == (queries is not None)


def test_more_queries_than_detections_raise_those_too() -> None:
    (choice,) = choose_counts(LITE, replace(CELLS, most_objects=600))
    assert choice.values == {"queries.count": MOST_QUERIES, "postprocess.top": MOST_QUERIES}
    (choice,) = choose_counts(LITE, replace(CELLS, most_objects=600), ["queries.count"])
    assert choice.values == {"postprocess.top": MOST_QUERIES}


def test_a_region_detector_has_more_proposals_and_detections() -> None:
    (choice,) = choose_counts(get_preset("faster-rcnn-lite"), replace(CELLS, most_objects=300))
    assert choice.values == {"proposals.count": 450, "postprocess.top": 450}


@pytest.mark.parametrize("small_share", [0.01, 0.02, 0.03, 0.045])
def test_small_objects_have_larger_images(small_share: float) -> None:
    data = replace(CELLS, size=(3000, 4000), small_share=small_share)
    side = chosen(data)[SIDE]
    assert isinstance(side, int)
    situation = Situation(LITE, data, 87, ROOM)
    assert situation.object_pixels(side) >= NEEDED_PIXELS or side == SIDES[-1]
    smaller = max(size for size in SIDES if size < side)
    assert situation.object_pixels(smaller) < NEEDED_PIXELS


def test_objects_that_stay_small_are_said() -> None:
    data = replace(CELLS, size=(3000, 4000), small_share=0.008)
    (choice,) = choose(Situation(LITE, data, 87, ROOM, given=["training.epochs"]))
    assert choice.values[SIDE] == SIDES[-1]
    assert "small objects have 7 pixels, which more minutes or tiles would raise" in choice.why


def test_small_images_are_enlarged_by_no_more_than_twice() -> None:
    shapes = Statistics(2000, 3, (128, 128), 8920, 8, 12 / 128)
    found = chosen(shapes)
    assert found == {"data.augmentation.short_side": 240, SIDE: 320}  # 240 x 240


def test_portraits_are_like_landscapes() -> None:
    situation = Situation(LITE, CELLS, 87, ROOM)
    assert situation.pixels(384) == 384 * 288


def test_little_time_makes_images_smaller_until_the_steps_fit() -> None:
    slow = timed(step=1e-6)
    side = chosen(speed=slow, minutes=3.0)[SIDE]
    assert isinstance(side, int)
    assert SIDES[0] < side < 384
    situation = Situation(LITE, CELLS, 87, ROOM, Clock(3.0, slow))
    larger = min(size for size in SIDES if size > side)
    assert situation.steps(side) >= STEPS_WANTED > situation.steps(larger)
    assert SIDE not in chosen(speed=slow, minutes=60.0)


def test_small_objects_stay_visible_where_there_is_any_time() -> None:
    tiny = replace(CELLS, size=(3000, 4000), small_share=0.03)
    slow = timed(step=1.6e-6)
    side = chosen(tiny, speed=slow, minutes=3.0)[SIDE]
    assert isinstance(side, int)
    situation = Situation(LITE, tiny, 87, ROOM, Clock(3.0, slow))
    assert situation.object_pixels(side) >= NEEDED_PIXELS / 2
    assert STEPS_NEEDED <= situation.steps(side) < STEPS_WANTED


def test_no_time_at_all_has_the_smallest_images() -> None:
    assert chosen(minutes=0.01)[SIDE] == SIDES[0]


def test_images_are_no_smaller_than_brings_steps() -> None:
    step = Line(0.3, 1e-6)  # of which pixels hardly decide
    situation = Situation(
        LITE, CELLS, 87, ROOM, Clock(2.0, Speed(Line(0, 1e-9), step, 0.0)), ("training.epochs",)
    )
    most = situation.steps(SIDES[0])
    assert 0 < most < STEPS_NEEDED
    values = {
        field: value for choice in choose(situation) for field, value in choice.values.items()
    }
    side = values[SIDE]
    assert isinstance(side, int)
    assert SIDES[0] < side < 384
    assert situation.steps(side) >= 0.8 * most
    assert situation.steps(min(size for size in SIDES if size > side)) < 0.8 * most


def test_more_to_evaluate_leaves_less_to_train() -> None:
    speed = timed(step=2e-7, backbone=1e-7)
    assert SIDE not in chosen(speed=speed, minutes=6.0)
    assert SIDE in chosen(speed=speed, minutes=6.0, val_images=12_000)


def test_many_images_are_not_cached() -> None:
    many, speed = replace(CELLS, images=20_000), timed(backbone=5e-7)
    assert chosen(many, speed=speed, minutes=10.0)["data.cache_features"] is False
    assert "data.cache_features" not in chosen(many)  # time does not count
    assert "data.cache_features" not in chosen(speed=speed, minutes=10.0)
    loading = timed(load=0.05)  # seconds an image
    assert chosen(many, speed=loading, minutes=10.0)["data.cache_features"] is False
    uncached = override(LITE, ["data.cache_features=false"])
    assert "data.cache_features" not in chosen(many, uncached, speed=speed, minutes=10.0)


def test_features_without_room_are_not_cached() -> None:
    room = replace(ROOM, free_bytes=1e8)
    assert chosen(room=room)["data.cache_features"] is False
    in_files = override(LITE, ["data.feature_folder=features"])
    assert chosen(config=in_files, room=room) == {}


def test_without_a_cache_the_backbone_takes_its_time_of_every_step() -> None:
    speed = timed(backbone=1.2e-6, step=1e-8)
    uncached = override(LITE, ["data.cache_features=false"])
    assert SIDE in chosen(config=uncached, speed=speed, minutes=3.0)
    assert SIDE not in chosen(speed=speed, minutes=3.0)


def test_a_trained_backbone_takes_longer() -> None:
    trained = override(LITE, ["data.cache_features=false", "backbone.freeze=3"])
    frozen = override(LITE, ["data.cache_features=false"])
    clock = Clock(3.0, FAST)
    one, other = (
        Situation(config, CELLS, 87, ROOM, clock).steps(384) for config in (trained, frozen)
    )
    assert one < other


def test_upper_stages_that_are_trained_on_kept_features_take_their_time() -> None:
    upper = override(LITE, ["backbone.freeze=3"])
    uncached = override(upper, ["data.cache_features=false"])
    clock = Clock(3.0, timed(load=1e-3))
    kept, loaded, frozen = (
        Situation(config, CELLS, 87, ROOM, clock).steps(384) for config in (upper, uncached, LITE)
    )
    assert loaded < kept < frozen


def test_accumulated_batches_are_one_step() -> None:
    four = override(LITE, ["training.accumulate=4"])
    one, other = (
        Situation(config, CELLS, 87, ROOM, Clock(3.0, FAST)).steps(384) for config in (LITE, four)
    )
    assert one == pytest.approx(4 * other)


def test_what_is_given_stays_and_counts() -> None:
    many, speed = replace(CELLS, images=5_000), timed(backbone=3e-7, step=2e-7)
    small = override(LITE, ["data.augmentation.short_side=96", "data.augmentation.max_side=128"])
    given = ["data.augmentation.max_side", "training.epochs"]
    assert chosen(many, small, given=given, speed=speed, minutes=10.0) == {}
    assert chosen(many, speed=speed, minutes=10.0)["data.cache_features"] is False
    cached = ["data.cache_features"]
    assert "data.cache_features" not in chosen(many, given=cached, speed=speed, minutes=10.0)


def test_a_handful_of_images_has_more_epochs() -> None:
    epochs = LEAST_STEPS // 3  # 5 times as many
    values = {"training.epochs": epochs, "training.evaluate_every": epochs // 40}
    assert chosen(replace(CELLS, images=12), given=()) == values
    given = ("training.evaluate_every",)
    assert chosen(replace(CELLS, images=12), given=given) == {"training.epochs": epochs}
    assert chosen(replace(CELLS, images=12), given=(), minutes=3.0) == {}
    assert chosen(given=()) == {}  # 40 epochs of 51 steps


def test_other_augmentations_keep_their_sizes() -> None:
    large = override(get_preset("align-dino-r50-4scale"), ["training.epochs=999"])
    assert chosen(replace(CELLS, small_share=0.01), large) == {}


def test_a_choice_reads_like_the_option_that_would_make_it() -> None:
    choice = Choice({"a.b": 3, "c": False}, "so")
    assert choice.assignments == ["a.b=3", "c=false"]
    assert str(choice) == "a.b=3 c=false: so"
