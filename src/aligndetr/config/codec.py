"""How a configuration is read, written and changed: YAML, and `a.b=c` on the command line.

Values are taken as they stand: text never turns into a number, nor a number into a boolean.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from aligndetr.config.dialect import read_yaml, write_yaml
from aligndetr.config.kinds import Kind, Slot, defaults, kinds_in, kinds_of_field, pick, tag
from aligndetr.config.mistakes import explain, shown, unknown_field
from aligndetr.config.schema import AnyConfig, Config
from aligndetr.errors import ConfigError
from aligndetr.settings import Settings

SettingsType = TypeVar("SettingsType", bound=Settings)
ValueType = TypeVar("ValueType")


def load_config(path: Path) -> AnyConfig:
    """Return the configuration in a YAML file.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or says what the schema does not know.
    """
    return parse_config(_read_text(path), str(path))


def parse_config(text: str, where: str) -> AnyConfig:
    """Return the configuration in a YAML text, of the kind that its `type` says; a DETR by default.

    `where` begins the message of an error.
    """
    slot = {"type": tag(Config), **_read_slot(text, where)}
    return _validated(TypeAdapter[AnyConfig](AnyConfig), kinds_in(AnyConfig), slot, where)


def parse(kind: type[SettingsType], text: str, where: str) -> SettingsType:
    """Return the options of one `kind` in a YAML text."""
    return _of_kind(kind, _read_slot(text, where), where)


def dump_config(config: Settings) -> str:
    """Return the configuration as YAML, every field written, in the order of the schema.

    Reading the text gives an equal configuration, to the last bit of every number.
    """
    return write_yaml(config.model_dump(mode="json"))


def override(config: SettingsType, assignments: Sequence[str]) -> SettingsType:
    """Return the configuration with each `a.b=value` applied, the later over the earlier.

    The value is YAML. Setting `type` changes the kind of a slot: a field that both kinds have
    keeps its value where that was set just before or is not the default of the old kind; all
    others take the default of the new kind. A slot that is null has to be given whole.

    Raises:
        ConfigError: No such field, or a value that the schema refuses.
    """
    slot: Slot = config.model_dump(mode="json")
    earlier: list[tuple[str, ...]] = []
    for assignment in assignments:
        keys, value = _split(assignment)
        chosen = frozenset(path[-1] for path in earlier if path[:-1] == keys[:-1])
        slot = _assigned((type(config),), slot, _Change(keys, value, chosen), 0)
        earlier.append(keys)
    return _of_kind(type(config), slot, "--set")


def overlay(config: SettingsType, path: Path) -> SettingsType:
    """Return the configuration with what a YAML file says laid over it, field by field.

    The file need not say everything. A slot whose `type` the file changes becomes of that kind,
    by the rule of `override`.

    Raises:
        ConfigError: As `load_config`.
    """
    changes = _read_slot(_read_text(path), str(path))
    slot: Slot = config.model_dump(mode="json")
    return _of_kind(type(config), _laid_over((type(config),), slot, changes), str(path))


def fields_set(assignments: Sequence[str], path: Path | None = None) -> frozenset[str]:
    """Return the fields, like `a.b`, that assignments or a YAML file give, and the slots above."""
    given = [_split(assignment) for assignment in assignments]
    paths = [(*keys, *below) for keys, value in given for below in _leaves(value)]
    if path is not None:
        paths += _leaves(_read_slot(_read_text(path), str(path)))
    return frozenset(".".join(keys[: depth + 1]) for keys in paths for depth in range(len(keys)))


def _leaves(value: object) -> list[tuple[str, ...]]:
    """Return the keys that lead to each value within a slot; none lead to a value by itself."""
    if not isinstance(value, dict) or not value:
        return [()]
    slot = cast(Slot, value)
    return [(name, *below) for name, inner in slot.items() for below in _leaves(inner)]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: expected a YAML file, found: {error.strerror}") from None
    except UnicodeDecodeError as error:
        found = f"byte {error.start} is of another encoding"
        raise ConfigError(f"{path}: expected UTF-8 text, {found}; save it as UTF-8") from None


def _read_slot(text: str, where: str) -> Slot:
    raw = read_yaml(text, where)
    if not isinstance(raw, dict):
        found = shown(raw)
        raise ConfigError(f"{where}: expected lines such as 'field: value', found {found}")
    return cast(Slot, raw)


def _of_kind(kind: type[SettingsType], slot: Slot, where: str) -> SettingsType:
    return _validated(TypeAdapter(kind), (kind,), slot, where)


def _validated(
    adapter: TypeAdapter[ValueType], kinds: tuple[Kind, ...], slot: Slot, where: str
) -> ValueType:
    # By way of JSON, whose strict mode takes a list for a tuple and text for a path.
    try:
        return adapter.validate_json(json.dumps(slot, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(kinds, slot, error)}") from None


@dataclass(frozen=True)
class _Change:
    """One assignment: `value` for the field at `keys`.

    `chosen` are the fields of the same slot that were set before it.
    """

    keys: tuple[str, ...]
    value: object
    chosen: frozenset[str]

    def path(self, depth: int) -> str:
        """Return the path of the field at `depth`."""
        return ".".join(self.keys[: depth + 1])


def _split(assignment: str) -> tuple[tuple[str, ...], object]:
    path, equals, value = assignment.partition("=")
    keys = tuple(path.strip().split("."))
    if not equals or not all(keys):
        raise ConfigError(
            f"--set: expected FIELD=VALUE, found {assignment!r}; "
            "write it like training.learning_rate=1e-4"
        )
    return keys, read_yaml(value, f"--set {path}")


def _assigned(kinds: tuple[Kind, ...], slot: Slot, change: _Change, depth: int) -> Slot:
    """Return the slot with the change in it; `depth` counts the keys that led to the slot."""
    key = change.keys[depth]
    if depth == len(change.keys) - 1:
        kept = _kept(kinds, slot, change.value, change.chosen) if key == "type" else slot
        return {**kept, key: change.value}
    kind = pick(kinds, slot)
    if key not in kind.model_fields:
        raise ConfigError(f"--set: {change.path(depth)}: {unknown_field(key, kind)}")
    inner_kinds = kinds_of_field(kind, key)
    inner = {**defaults(kind), **slot}.get(key)
    if not inner_kinds or not isinstance(inner, dict):
        raise ConfigError(f"--set: {_not_a_slot(inner_kinds, inner, change, depth)}")
    return {**slot, key: _assigned(inner_kinds, cast(Slot, inner), change, depth + 1)}


def _laid_over(kinds: tuple[Kind, ...], slot: Slot, changes: Slot) -> Slot:
    result = dict(_kept(kinds, slot, changes["type"]) if "type" in changes else slot)
    kind = pick(kinds, {**slot, **changes})
    for name, value in changes.items():
        inner_kinds, below = kinds_of_field(kind, name), result.get(name)
        if inner_kinds and isinstance(value, dict) and isinstance(below, dict):
            result[name] = _laid_over(inner_kinds, cast(Slot, below), cast(Slot, value))
        else:
            result[name] = value
    return result


def _kept(
    kinds: tuple[Kind, ...], slot: Slot, new_type: object, chosen: frozenset[str] = frozenset()
) -> Slot:
    """Return the fields that stay when the slot becomes of another kind."""
    old, new = pick(kinds, slot), pick(kinds, {"type": new_type})
    if new is old or tag(new) != new_type:
        return slot
    usual = defaults(old)
    return {
        name: value
        for name, value in slot.items()
        if name in new.model_fields and (value != usual.get(name) or name in chosen)
    }


def _not_a_slot(kinds: tuple[Kind, ...], found: object, change: _Change, depth: int) -> str:
    path, rest = change.path(depth), change.keys[depth + 1]
    advice = f"set {path} itself"
    if kinds and found is None:
        kind = f"type: {tag(kinds[0])}, " if tag(kinds[0]) else ""
        advice = f"give it whole: {path}='{{{kind}{rest}: ...}}'"
    return f"{path}: expected a slot with the field {rest!r}, found {shown(found)}; {advice}"
