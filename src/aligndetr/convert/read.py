"""Reading other people's weights: torch files, safetensors and `save_pretrained` folders.

A torch file is read with `weights_only=True`: it never runs code.
"""

import argparse
import json
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import safe_globals

from aligndetr.convert.hub import Hub, hub_of_options
from aligndetr.errors import CheckpointError

AVERAGED = ("ema_model", "model_ema", "ema_state", "state_dict_ema", "ema")
"""Entries of a file that hold averaged weights, which are the better ones."""
PLAIN = ("model", "state_dict", "model_state_dict", "module")
"""Entries that hold the weights themselves."""
PREFIXES = ("module.", "model._orig_mod.", "_orig_mod.")
"""What wrappers of a module put before the names of all its tensors."""
HARMLESS = (argparse.Namespace,)
"""What published files hold besides numbers: the options of a training. It has no code to run."""


@dataclass(frozen=True)
class Source:
    """Weights as published.

    `config` is the `config.json` of transformers beside them, if any, `entry` the part of the file
    that they are from, where that is not all of it, and `options` those of the training that the
    file keeps.
    """

    path: Path
    tensors: dict[str, Tensor]
    config: Mapping[str, Any] | None = None
    entry: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def hub(self) -> Hub:
        """What is said besides the tensors, in transformers' words."""
        return self.config if self.config is not None else hub_of_options(self.options)


def read_source(path: Path) -> Source:
    """Return the weights at a path.

    Raises:
        CheckpointError: There are none, or they cannot be read without running code.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise CheckpointError(
            f"{path}: expected a checkpoint file or folder, found nothing; mend the path"
        )
    config = _config_in(path.parent)
    if path.suffix == ".safetensors":
        return Source(path, _without_prefixes(_read_safetensors(path)), config)
    content = _read_torch(path)
    tensors, entry = _unwrapped(content, path)
    return Source(path, tensors, config, entry, _options_in(content))


def _read_folder(folder: Path) -> Source:
    """Return what transformers' `save_pretrained` wrote, in one file or several."""
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    config = _config_in(folder)
    if not files or config is None:
        names = sorted(entry.name for entry in folder.iterdir())
        raise CheckpointError(
            f"{folder}: expected config.json and model.safetensors, as save_pretrained writes "
            f"them, found {', '.join(names[:5]) or 'nothing'}; name the weights file itself"
        )
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= read_source(file).tensors
    return Source(folder, tensors, config)


def _config_in(folder: Path) -> Mapping[str, Any] | None:
    """Return the configuration that transformers wrote there, if any."""
    try:
        config: object = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict) or "model_type" not in config:
        return None
    return cast("Mapping[str, Any]", config)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: expected a safetensors file, found a damaged one ({error}); copy it again"
        ) from error


def _read_torch(path: Path) -> object:
    try:
        with warnings.catch_warnings(), safe_globals(list(HARMLESS)):
            warnings.simplefilter("ignore")  # of pickle's protocol: a file loads or is refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(path, str(error))) from error
    except (OSError, RuntimeError, EOFError, LookupError, ValueError) as error:
        reason = (str(error).splitlines() or ["it is empty"])[0]
        raise CheckpointError(
            f"{path}: expected a torch checkpoint, found another or a damaged file "
            f"({reason[:160]}); copy it again"
        ) from error


def _refusal(path: Path, reason: str) -> str:
    """Return why a pickle is not read, and what its owner can do."""
    wanted = re.search(r"GLOBAL (\S+)", reason)
    if wanted is None or "numpy" in wanted[1]:
        return (
            f"{path}: expected torch tensors, found a pickle of something else, such as "
            "detectron2's arrays; if you trust its author, load it yourself and save "
            "{name: torch.as_tensor(array)} with torch.save"
        )
    return (
        f"{path}: expected tensors and numbers only, found a pickle that wants to run "
        f"{wanted[1]} when it is read; if you trust its author, load it yourself and save its "
        "state dict alone with torch.save"
    )


def _unwrapped(content: object, path: Path) -> tuple[dict[str, Tensor], str | None]:
    """Return the state dict that a training wrote beside its optimizer, and its entry's name.

    Averaged weights are laid over the others, for what is frozen may have no average.
    """
    plain = _tensors_in(content)
    entries = cast("Mapping[str, object]", content) if isinstance(content, Mapping) else {}
    for name in AVERAGED:
        if averaged := _tensors_in(entries.get(name)):
            return _laid_over(plain, averaged), name
    if plain:
        return plain, next((name for name in PLAIN if name in entries), None)
    found = ", ".join(str(name) for name in list(entries)[:5]) or type(content).__name__
    raise CheckpointError(
        f"{path}: expected a state dict, alone or in an entry named {', '.join(PLAIN)} or "
        f"{', '.join(AVERAGED)}, found {found}; save it under one of these"
    )


def _options_in(content: object) -> Mapping[str, Any]:
    """Return the options of the training that a file keeps as `args`; empty if it keeps none."""
    options: object = cast("Any", content).get("args") if isinstance(content, Mapping) else None
    if isinstance(options, argparse.Namespace):
        return vars(options)
    return cast("Mapping[str, Any]", options) if isinstance(options, Mapping) else {}


def _tensors_in(content: object) -> dict[str, Tensor]:
    """Return the tensors of a state dict, or of the one in an entry; empty if there are none."""
    if not isinstance(content, Mapping):
        return {}
    entries = cast("Mapping[object, object]", content)
    for name in PLAIN:
        if found := _tensors_in(entries.get(name)):
            return found
    return _without_prefixes(
        {str(name): value for name, value in entries.items() if isinstance(value, Tensor)}
    )


def _laid_over(plain: dict[str, Tensor], averaged: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the averaged tensors, and the plain ones that have no average under any name.

    Averages may have but one of the names that a shared tensor has.
    """
    names = {plain[name].data_ptr(): name for name in averaged if name in plain}
    shared = {
        name: averaged[names[value.data_ptr()]]
        for name, value in plain.items()
        if value.data_ptr() in names
    }
    return {**plain, **shared, **averaged}


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    found = [prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in tensors)]
    if not found or not tensors:
        return tensors
    return _without_prefixes(
        {name.removeprefix(found[0]): value for name, value in tensors.items()}
    )
