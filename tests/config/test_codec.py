import math
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from aligndetr.config.codec import dump_config, load_config, overlay, override, parse, parse_config
from aligndetr.config.presets import PRESETS, get_detr
from aligndetr.config.schema import CosineSchedule, StepSchedule
from aligndetr.errors import ConfigError
from aligndetr.settings import Settings


class Step(Settings):
    type: Literal["step"] = "step"
    milestones: tuple[float, ...] = (0.5,)
    warmup: float = 0.0
    rate: float = 1.0


class Cosine(Settings):
    type: Literal["cosine"] = "cosine"
    floor: float = 0.1
    warmup: float = 0.05
    rate: float = 2.0


Schedule = Annotated[Step | Cosine, Field(discriminator="type")]


class Noise(Settings):
    type: Literal["contrastive"] = "contrastive"
    queries: PositiveInt = 100


class Plain(Settings):
    size: PositiveInt = 3


class Inner(Settings):
    schedule: Schedule = Step()
    needed: int


class Example(Settings):
    """One field of every sort that the schema has."""

    name: str
    count: PositiveInt = 1
    rate: PositiveFloat = 1e-4
    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    triple: tuple[float, float, float] = (0.1, 0.2, 0.3)
    strides: tuple[PositiveInt, ...] = (8, 16)
    freeze: Annotated[int, Field(ge=0)] | Literal["all"] = 1
    stride: Literal[8, 16] | None = None
    wanted: bool = True
    weights: Path | None = None
    schedule: Schedule = Step()
    schedules: tuple[Schedule, ...] = ()
    noise: Noise | None = Noise()
    plain: Plain | None = None
    inner: Inner = Inner(needed=1)

    @model_validator(mode="after")
    def _seven_is_refused(self) -> "Example":
        if self.count == 7:
            raise ValueError("expected a count that is not 7")
        return self


EXAMPLE = Example(name="a")


def parsed(text: str) -> Example:
    return parse(Example, text, "a.yaml")


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(Example, text, "a.yaml")
    return str(caught.value)


def set_refusal(*assignments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        override(EXAMPLE, assignments)
    return str(caught.value)


# Reading


def test_fields_that_are_not_given_take_their_defaults():
    assert parsed("name: a") == EXAMPLE


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("1e-4", 1e-4),  # text in YAML 1.1
        ("1E5", 1e5),
        ("1.5e3", 1500.0),
        ("+2.5", 2.5),
        (".5", 0.5),
        ("3.", 3.0),
        ("3", 3.0),  # an integer is a number too
    ],
)
def test_numbers_are_read_as_numbers(written: str, number: float):
    assert parsed(f"name: a\nrate: {written}").rate == number


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "y", "1:30", "2024-01-01", "010", "<<"])
def test_words_that_yaml_1_1_takes_for_something_else_are_text(word: str):
    assert parsed(f"name: {word}").name == word


def test_every_sort_of_field_is_read():
    text = """
    name: a
    ema: 0.999
    triple: [1, 2, 3.5]
    strides: [32]
    freeze: all
    stride: 16
    wanted: false
    weights: folder/file.pth
    schedule: {type: cosine, floor: 0.2}
    schedules: [{type: step}, {type: cosine}]
    noise: null
    plain: {}
    """
    assert parsed(text) == Example(
        name="a",
        ema=0.999,
        triple=(1.0, 2.0, 3.5),
        strides=(32,),
        freeze="all",
        stride=16,
        wanted=False,
        weights=Path("folder/file.pth"),
        schedule=Cosine(floor=0.2),
        schedules=(Step(), Cosine()),
        noise=None,
        plain=Plain(),
    )


# Refusals of a file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.yaml: expected lines such as 'field: value', found null"),
        ("[1, 2]", "a.yaml: expected lines such as 'field: value', found [1, 2]"),
        ("count: 1", "a.yaml: name: expected a value, found none; add it"),
        ("name: 3", "a.yaml: name: expected text, found 3"),
        ("name: a\ncount: ten", "a.yaml: count: expected an integer, found 'ten'"),
        ("name: a\ncount: '10'", "a.yaml: count: expected an integer, found '10'"),
        ("name: a\ncount: true", "a.yaml: count: expected an integer, found true"),
        ("name: a\ncount: 2.5", "a.yaml: count: expected an integer, found 2.5"),
        ("name: a\ncount: 0", "a.yaml: count: expected a value greater than 0, found 0"),
        ("name: a\nrate: fast", "a.yaml: rate: expected a number, found 'fast'"),
        ("name: a\nrate: 1e999", "a.yaml: rate: expected a finite number, found Infinity"),
        ("name: a\nshare: 2", "a.yaml: share: expected a value less than or equal to 1, found 2"),
        ("name: a\nwanted: yes", "a.yaml: wanted: expected true or false, found 'yes'"),
        ("name: a\nstrides: 8", "a.yaml: strides: expected a list, found 8"),
        ("name: a\nstrides: [8, 0]", "a.yaml: strides.1: expected a value greater than 0, found 0"),
        ("name: a\ntriple: [1, 2]", "a.yaml: triple.2: expected a value, found none; add it"),
        ("name: a\nstride: 9", "a.yaml: stride: expected 8 or 16, found 9"),
        (
            "name: a\nfreeze: al",
            "a.yaml: freeze: expected an integer or 'all', found 'al'; did you mean 'all'?",
        ),
        (
            "name: a\nnoise: 3",
            "a.yaml: noise: expected fields such as {name: value}, found 3",
        ),
        (
            "name: a\nschedle: {type: step}",
            "a.yaml: schedle: expected a field of Example, found 'schedle'; "
            "did you mean 'schedule'?",
        ),
        (
            "name: a\nplain: {zzz: 1}",
            "a.yaml: plain.zzz: expected a field of Plain, found 'zzz'; choose from size",
        ),
        (
            "name: a\nschedule: {type: cosin}",
            "a.yaml: schedule.type: expected 'step' or 'cosine', found 'cosin'; "
            "did you mean 'cosine'?",
        ),
        (
            "name: a\nschedule: {floor: 0.1}",
            "a.yaml: schedule.type: expected 'step' or 'cosine', found null",
        ),
        (
            "name: a\nschedule: {type: cosine, flor: 0.1}",
            "a.yaml: schedule.flor: expected a field of Cosine, found 'flor'; "
            "did you mean 'floor'?",
        ),
        (
            "name: a\nschedules: [{type: step}, {type: cosine, floor: low}]",
            "a.yaml: schedules.1.floor: expected a number, found 'low'",
        ),
        (
            "name: a\ninner: {needed: 1, schedule: {type: step, rate: x}}",
            "a.yaml: inner.schedule.rate: expected a number, found 'x'",
        ),
        ("name: a\ncount: 7", "a.yaml: expected a count that is not 7"),
    ],
)
def test_a_refusal_says_where_what_was_expected_and_what_was_found(text: str, message: str):
    assert refusal(text) == message


def test_a_refusal_counts_the_other_mistakes():
    assert refusal("name: a\ncount: x\nrate: y\nfreeze: z").endswith("found 'x' (and 2 more)")


def test_a_long_wrong_value_is_shortened():
    message = refusal(f"name: a\ncount: {'x' * 200}")
    assert message == f"a.yaml: count: expected an integer, found '{'x' * 56}..."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name: a\ncount: [1, 2\nrate: 1",
            "a.yaml, line 3, column 5: expected YAML, expected ',' or ']', but got ':'",
        ),
        ("name: a\nname: b", "a.yaml, line 1, column 1: expected YAML, found 'name' twice"),
        (
            "name: a\ninner:\n  needed: 1\n  needed: 2",
            "a.yaml, line 3, column 3: expected YAML, found 'needed' twice",
        ),
        (
            "name: a\ncount: \x01",
            "a.yaml, line 2, column 8: expected YAML, found the character '\\x01'",
        ),
        (
            "name: !!python/object:os.system {}",
            "a.yaml, line 1, column 7: expected YAML, could not determine a constructor for the "
            "tag 'tag:yaml.org,2002:python/object:os.system'",
        ),
    ],
)
def test_what_is_not_yaml_is_refused_with_its_line_and_column(text: str, message: str):
    assert refusal(text) == message


# Writing


def test_every_field_is_written_in_the_order_of_the_schema():
    written = yaml.safe_load(dump_config(EXAMPLE))
    assert list(written) == list(Example.model_fields)
    assert written["schedule"] == {"type": "step", "milestones": [0.5], "warmup": 0.0, "rate": 1.0}


def test_lists_stand_on_one_line():
    assert "strides: [8, 16]\n" in dump_config(EXAMPLE)


def test_an_anchor_inside_itself_is_refused():
    with pytest.raises(
        ConfigError, match=r"here: expected plain YAML, found an anchor \(&\) inside"
    ):
        parse_config("&a\nbackbone: *a\n", "here")


def test_a_list_written_twice_has_no_anchor():
    shared = (0.25, 0.5)
    text = dump_config(EXAMPLE.model_copy(update={"schedules": (Step(milestones=shared),) * 2}))
    assert "&" not in text


@given(
    name=st.one_of(
        st.text(st.characters(codec="utf-8", exclude_categories=["C"])),
        st.sampled_from(["1e-4", "yes", "null", "~", "", "1:30", "010", "true", "-", "a: b", "é"]),
    ),
    rate=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    triple=st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 3),
    freeze=st.one_of(st.just("all"), st.integers(0, 10)),
    weights=st.sampled_from([None, Path("a/b c.pth"), Path("1e5")]),
    schedule=st.sampled_from([Step(), Cosine(), Step(milestones=())]),
    noise=st.sampled_from([None, Noise(), Noise(queries=3)]),
)
def test_what_is_written_is_read_back_to_the_last_bit(
    name, rate, triple, freeze, weights, schedule, noise
):
    config = Example(
        name=name,
        rate=rate,
        triple=triple,
        freeze=freeze,
        weights=weights,
        schedule=schedule,
        noise=noise,
    )
    again = parsed(dump_config(config))
    assert again == config
    assert [math.copysign(1, x) for x in again.triple] == [math.copysign(1, x) for x in triple]
    assert yaml.safe_load(dump_config(config)) == config.model_dump(mode="json")


# Overriding


def test_no_assignment_changes_nothing():
    assert override(EXAMPLE, []) == EXAMPLE


@pytest.mark.parametrize(
    ("assignments", "changes"),
    [
        (["count=3"], {"count": 3}),
        (["rate=1e-5"], {"rate": 1e-5}),
        (["name=no"], {"name": "no"}),
        (["name=a=b"], {"name": "a=b"}),  # the first = counts
        (["freeze=all", "wanted=false"], {"freeze": "all", "wanted": False}),
        (["count=3", "count=4"], {"count": 4}),  # the later wins
        (["strides=[8, 16, 32]"], {"strides": (8, 16, 32)}),
        (["noise=null"], {"noise": None}),
        (["noise="], {"noise": None}),  # nothing is YAML for null
        (["noise.queries=5"], {"noise": Noise(queries=5)}),
        (["plain={}"], {"plain": Plain()}),
        (["plain={}", "plain.size=4"], {"plain": Plain(size=4)}),
        (["inner.schedule.rate=3"], {"inner": Inner(needed=1, schedule=Step(rate=3.0))}),
    ],
)
def test_an_assignment_changes_its_field_alone(assignments, changes):
    assert override(EXAMPLE, assignments) == EXAMPLE.model_copy(update=changes)


@pytest.mark.parametrize(
    ("assignments", "schedule"),
    [
        (["schedule={type: cosine}"], Cosine()),
        (["schedule.type=cosine"], Cosine()),  # milestones go; defaults become those of cosine
        (["schedule.type=step"], Step()),  # the same kind: nothing happens
        (["schedule.type=cosine", "schedule.floor=0.3"], Cosine(floor=0.3)),
        (["schedule.floor=0.3", "schedule.type=cosine"], Cosine(floor=0.3)),  # in any order
        (["schedule.rate=5", "schedule.type=cosine"], Cosine(rate=5.0)),  # both kinds have it
        (["schedule.rate=1", "schedule.type=cosine"], Cosine(rate=1.0)),  # set, though a default
        (["schedule.type=cosine", "schedule.type=step"], Step()),
    ],
)
def test_setting_the_type_changes_the_kind_of_a_slot(assignments, schedule):
    assert override(EXAMPLE, assignments).schedule == schedule


def test_a_kind_keeps_what_the_configuration_had_chosen_in_a_shared_field():
    config = EXAMPLE.model_copy(update={"schedule": Step(rate=9.0, warmup=0.0)})
    assert override(config, ["schedule.type=cosine"]).schedule == Cosine(rate=9.0, warmup=0.05)


def test_a_slot_inside_one_that_was_just_given_starts_from_its_defaults():
    config = override(EXAMPLE, ["inner={needed: 2}", "inner.schedule.type=cosine"])
    assert config.inner == Inner(needed=2, schedule=Cosine())


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "count",
            "--set: expected FIELD=VALUE, found 'count'; write it like training.learning_rate=1e-4",
        ),
        (
            ".count=3",
            "--set: expected FIELD=VALUE, found '.count=3'; "
            "write it like training.learning_rate=1e-4",
        ),
        ("count=ten", "--set: count: expected an integer, found 'ten'"),
        (
            "cont=3",
            "--set: cont: expected a field of Example, found 'cont'; did you mean 'count'?",
        ),
        (
            "iner.schedule.rate=3",
            "--set: iner: expected a field of Example, found 'iner'; did you mean 'inner'?",
        ),
        (
            "inner.schedle.rate=3",
            "--set: inner.schedle: expected a field of Inner, found 'schedle'; "
            "did you mean 'schedule'?",
        ),
        (
            "schedule.floor=0.1",
            "--set: schedule.floor: expected a field of Step, found 'floor'; "
            "choose from type, milestones, warmup, rate",
        ),
        (
            "schedule.type=cosin",
            "--set: schedule.type: expected 'step' or 'cosine', found 'cosin'; "
            "did you mean 'cosine'?",
        ),
        (
            "plain.size=4",
            "--set: plain: expected a slot with the field 'size', found null; "
            "give it whole: plain='{size: ...}'",
        ),
        (
            "count.x=4",
            "--set: count: expected a slot with the field 'x', found 1; set count itself",
        ),
        (
            "schedules.0=4",
            "--set: schedules: expected a slot with the field '0', found []; set schedules itself",
        ),
        (
            "strides=[8",
            "--set strides, line 1, column 3: expected YAML, "
            "expected ',' or ']', but got '<stream end>'",
        ),
    ],
)
def test_a_refused_assignment_says_why(assignment: str, message: str):
    assert set_refusal(assignment) == message


def test_a_field_of_a_slot_that_is_null_is_refused_with_the_way_to_set_it():
    assert set_refusal("noise=null", "noise.queries=5") == (
        "--set: noise: expected a slot with the field 'queries', found null; "
        "give it whole: noise='{type: contrastive, queries: ...}'"
    )


# Laying a file over a configuration


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("{}", {}),
        ("count: 3\nfreeze: all", {"count": 3, "freeze": "all"}),
        ("noise: {queries: 5}", {"noise": Noise(queries=5)}),
        ("noise: null", {"noise": None}),
        ("plain: {size: 4}", {"plain": Plain(size=4)}),
        ("strides: [8]", {"strides": (8,)}),
        ("inner: {schedule: {rate: 3}}", {"inner": Inner(needed=1, schedule=Step(rate=3.0))}),
        ("schedule: {rate: 3}", {"schedule": Step(rate=3.0)}),
        ("schedule: {type: step, rate: 3}", {"schedule": Step(rate=3.0)}),
        ("schedule: {type: cosine, floor: 0.3}", {"schedule": Cosine(floor=0.3)}),
        ("schedules: [{type: cosine}]", {"schedules": (Cosine(),)}),
    ],
)
def test_a_file_laid_over_changes_what_it_says_alone(tmp_path: Path, text: str, changes):
    path = tmp_path / "part.yaml"
    path.write_text(text)
    assert overlay(EXAMPLE, path) == EXAMPLE.model_copy(update=changes)


def test_a_file_of_a_whole_configuration_replaces_it(tmp_path: Path):
    other = Example(name="b", schedule=Cosine(rate=1.0), noise=None, triple=(1.0, 2.0, 3.0))
    path = tmp_path / "whole.yaml"
    path.write_text(dump_config(other))
    assert overlay(EXAMPLE, path) == other


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected lines such as 'field: value', found null"),
        ("schedule: {type: cosin}", "schedule.type: expected 'step' or 'cosine', found 'cosin'"),
        ("noise: {querys: 3}", "noise.querys: expected a field of Noise, found 'querys'"),
        ("schedules: {type: cosine}", 'schedules: expected a list, found {"type": "cosine"}'),
    ],
)
def test_a_file_laid_over_is_refused_like_a_whole_one(tmp_path: Path, text: str, message: str):
    path = tmp_path / "part.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        overlay(EXAMPLE, path)
    assert str(caught.value).startswith(f"{path}: {message}")


# The schema itself


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_read_back_as_it_was_written(name: str):
    config = PRESETS[name].make()
    text = dump_config(config)
    assert parse_config(text, "config.yaml") == config
    assert list(yaml.safe_load(text)) == list(type(config).model_fields)


def test_a_configuration_is_loaded_from_its_file(tmp_path: Path):
    config = PRESETS["align-dino-tiny"].make()
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path) == config


def test_a_file_that_is_missing_or_not_text_is_refused(tmp_path: Path):
    path = tmp_path / "config.yaml"
    with pytest.raises(ConfigError, match=r"config\.yaml: expected a YAML file, found: No such"):
        load_config(path)
    path.write_bytes(b"name: \xff")
    with pytest.raises(ConfigError, match=r"expected UTF-8 text, byte 6 is of another encoding"):
        load_config(path)


def test_the_options_of_a_preset_can_be_overridden():
    config = override(
        get_detr("align-dino-tiny"),
        [
            "backbone.freeze=all",
            "data.cache_features=true",
            "denoising=null",
            "training.schedule={type: step}",
            "criterion.classification.type=focal",
        ],
    )
    assert config.backbone.freeze == "all"
    assert config.data.cache_features
    assert config.denoising is None
    assert config.training.schedule == StepSchedule()
    assert config.criterion.classification.type == "focal"


def test_the_schedule_of_a_preset_changes_its_kind():
    config = override(PRESETS["dino-r50-4scale"].make(), ["training.schedule.type=cosine"])
    assert config.training.schedule == CosineSchedule()
