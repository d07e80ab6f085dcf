"""Our format: weights as safetensors that carry their configuration and classes.

A run folder holds `config.yaml` and `classes.json` (to be read by people and other tools),
`best.safetensors` and `last.safetensors` (each complete in itself), `metrics.jsonl` and `state/`
(for resuming). Reading a checkpoint never runs code. Files appear whole or not at all.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from pydantic import BaseModel, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from aligndetr.config.codec import dump_config, parse_config
from aligndetr.config.schema import AnyConfig
from aligndetr.errors import CheckpointError, ConfigError
from aligndetr.settings import Settings
from aligndetr.types import Classes

FORMAT_VERSION = 1
METADATA_KEY = "aligndetr"
"""One entry of the file's metadata holds all of ours, so that equal content gives equal bytes."""

CONFIG_FILE = "config.yaml"
CLASSES_FILE = "classes.json"
BEST_WEIGHTS = "best.safetensors"
LAST_WEIGHTS = "last.safetensors"
METRICS_FILE = "metrics.jsonl"
STATE_FOLDER = "state"
SHEETS = "predictions/step-{}.jpg"
"""Pictures of what was found while a run was trained; the step, of six digits or more."""

NAMES_SHOWN = 3
"""How many names of tensors an error message lists."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights and all that is needed to build and use their model; `path` is the file."""

    config: AnyConfig
    classes: Classes
    state_dict: dict[str, Tensor]
    path: Path


class _Class(Settings):
    """One class as files have it."""

    id: int
    name: str


class _Version(BaseModel):
    """The field that every version of the header has."""

    version: int


class _Header(Settings):
    """What a weights file says of itself; `aliases` are names of tensors stored under another."""

    version: int
    config: str
    classes: tuple[_Class, ...]
    aliases: dict[str, str]


def save_weights(
    path: Path, state_dict: Mapping[str, Tensor], config: AnyConfig, classes: Classes
) -> None:
    """Write a checkpoint file; tensors that several names share are stored once.

    Raises:
        CheckpointError: the file cannot be written; one that was there is untouched.
    """
    stored, aliases = _split_aliases(state_dict)
    header = _Header(
        version=FORMAT_VERSION,
        config=dump_config(config),
        classes=_to_entries(classes),
        aliases=aliases,
    )
    metadata = {METADATA_KEY: header.model_dump_json()}
    write_bytes(path, safetensors.torch.save(stored, metadata))


def load_weights(path: Path) -> Checkpoint:
    """Return the content of a checkpoint file, tensors on the CPU.

    Raises:
        CheckpointError: it is not there, not ours, damaged, or of a later version.
    """
    metadata, tensors = _read_safetensors(path)
    header = _read_header(path, metadata)
    try:
        config = parse_config(header.config, f"{path}: configuration")
    except ConfigError as error:
        raise CheckpointError(
            f"{error}; the file was written by another version of aligndetr: use that one"
        ) from error
    aliases = {name: tensors[kept] for name, kept in header.aliases.items()}
    return Checkpoint(config, _from_entries(header.classes), tensors | aliases, path)


def open_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint in a file, or the best (else the last) one of a run folder.

    Raises:
        CheckpointError: there is none, or it cannot be used.
    """
    if not path.is_dir():
        return load_weights(path)
    for name in (BEST_WEIGHTS, LAST_WEIGHTS):
        if (path / name).is_file():
            return load_weights(path / name)
    entries = sorted(entry.name for entry in path.iterdir())
    shown = ", ".join(entries[:NAMES_SHOWN]) + (", ..." if len(entries) > NAMES_SHOWN else "")
    raise CheckpointError(
        f"{path}: expected a run folder with {BEST_WEIGHTS} or {LAST_WEIGHTS}, found "
        f"{shown or 'an empty folder'}; give the --out folder of a training that saved weights"
    )


def load_state(model: nn.Module, state_dict: Mapping[str, Tensor], where: str) -> None:
    """Load weights into a model, all of them and nothing else.

    Raises:
        CheckpointError: names or shapes differ; says which. The model is then unchanged.
    """
    expected = model.state_dict()
    problems = {
        "missing": sorted(expected.keys() - state_dict.keys()),
        "unexpected": sorted(state_dict.keys() - expected.keys()),
        "of another shape": [
            f"{name} {_shape(state_dict[name])} instead of {_shape(tensor)}"
            for name, tensor in expected.items()
            if name in state_dict and state_dict[name].shape != tensor.shape
        ],
    }
    found = [f"{kind}: {_shorten(names)}" for kind, names in problems.items() if names]
    if found:
        raise CheckpointError(
            f"{where}: expected the {len(expected)} tensors of this model, found {len(state_dict)} "
            f"({'; '.join(found)}); build the model from the checkpoint's own configuration"
        )
    model.load_state_dict(state_dict)


def write_classes(path: Path, classes: Classes) -> None:
    """Write the classes as a list of `{"id": .., "name": ..}` in the order of the labels."""
    write_json(path, [entry.model_dump() for entry in _to_entries(classes)])


def read_classes(path: Path) -> Classes:
    """Return the classes that `write_classes` wrote.

    Raises:
        CheckpointError: the file is not there or says something else.
    """
    try:
        entries = TypeAdapter(tuple[_Class, ...]).validate_json(path.read_bytes())
    except OSError as error:
        raise CheckpointError(
            f"{path}: expected a list of classes, found {error.strerror}; mend the path"
        ) from error
    except ValidationError as error:
        raise CheckpointError(
            f'{path}: expected a list of {{"id": .., "name": ..}}, found {_reason(error)}; '
            "correct the file"
        ) from error
    return _from_entries(entries)


def write_json(path: Path, content: object) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    write_text(path, to_json(content, indent=2) + "\n")


def to_json(content: object, *, indent: int | None = None) -> str:
    """Return JSON for people; escaped where a file's name is no text, so that it can be written."""
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(content, indent=indent)
    return text


def make_folder(path: Path, what: str) -> None:
    """Make a folder to write to, unless it is there; `what` names it to the user.

    Raises:
        ConfigError: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{what}: expected a folder to write to, found {path}: {error.strerror}; "
            "give another one"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds all of it or what it held before, even after a crash.

    Raises:
        CheckpointError: the folder cannot be written to.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise CheckpointError(
            f"{path}: expected a place to write to, found: {error.strerror}; "
            "free it or choose another"
        ) from error
    finally:
        if partial.parent.is_dir():
            partial.unlink(missing_ok=True)


def _split_aliases(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors of their own memory, and for the other names whose tensor they share."""
    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    owners: dict[tuple[object, ...], str] = {}
    for name, tensor in state_dict.items():
        place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        owner = owners.setdefault(place, name) if tensor.numel() else name
        if owner == name:
            stored[name] = tensor.detach().cpu().contiguous().clone()
        else:
            aliases[name] = owner
    return stored, aliases


def _read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not path.is_file():
        raise CheckpointError(
            f"{path}: expected a run folder or a .safetensors file, found nothing; mend the path"
        )
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: expected a safetensors file, found a truncated one or another format "
            f"({error}); copy it again, or `aligndetr convert --from` it if it is published weights"
        ) from error


def _read_header(path: Path, metadata: Mapping[str, str]) -> _Header:
    if METADATA_KEY not in metadata:
        raise CheckpointError(
            f"{path}: expected weights that aligndetr saved, found a safetensors file without "
            f"their configuration; bring it over with `aligndetr convert --from {path} --out RUN`"
        )
    text = metadata[METADATA_KEY]
    try:
        version = _Version.model_validate_json(text).version
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"{path}: expected format version {FORMAT_VERSION}, found {version}; "
                "pip install --upgrade aligndetr"
            )
        return _Header.model_validate_json(text)
    except ValidationError as error:
        raise CheckpointError(
            f"{path}: expected a header of format version {FORMAT_VERSION}, found "
            f"{_reason(error)}; save the weights again with aligndetr"
        ) from error


def _to_entries(classes: Classes) -> tuple[_Class, ...]:
    pairs = zip(classes.ids, classes.names, strict=True)
    return tuple(_Class(id=number, name=name) for number, name in pairs)


def _from_entries(entries: tuple[_Class, ...]) -> Classes:
    return Classes(tuple(entry.name for entry in entries), tuple(entry.id for entry in entries))


def _reason(error: ValidationError) -> str:
    """Return the first mistake: what is wrong, and where in the text."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"at {place}: {first['msg']}" if place else first["msg"]


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "scalar"


def _shorten(names: list[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
