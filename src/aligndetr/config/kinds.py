"""What may stand in a slot of the configuration: a record, or one of several told by `type`."""

from typing import cast, get_args

from pydantic import BaseModel

Kind = type[BaseModel]
"""A record of options."""
Slot = dict[str, object]
"""The options of a slot as YAML gives them, before validation."""


def kinds_in(annotation: object) -> tuple[Kind, ...]:
    """Return the records that an annotation allows, also inside unions and tuples."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    return tuple(kind for part in get_args(annotation) for kind in kinds_in(part))


def kinds_of_field(kind: Kind, name: str) -> tuple[Kind, ...]:
    """Return the records that a field may hold; none where it holds plain values."""
    field = kind.model_fields.get(name)
    return kinds_in(field.annotation) if field else ()


def pick(kinds: tuple[Kind, ...], slot: Slot) -> Kind:
    """Return the kind that the slot's `type` names; the first where it names none."""
    return next((kind for kind in kinds if tag(kind) == slot.get("type")), kinds[0])


def tag(kind: Kind) -> object:
    """Return the `type` of a kind, None where it has no siblings to be told from."""
    return kind.model_fields["type"].default if "type" in kind.model_fields else None


def defaults(kind: Kind) -> Slot:
    """Return the fields of a kind that have a default, with it."""
    return cast(Slot, kind.model_construct().model_dump(mode="json", warnings=False))
