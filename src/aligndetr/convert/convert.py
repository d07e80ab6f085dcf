"""From a published checkpoint to a run folder that `eval`, `predict` and `train` take."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from aligndetr.checkpoint import (
    BEST_WEIGHTS,
    CLASSES_FILE,
    CONFIG_FILE,
    LAST_WEIGHTS,
    save_weights,
    write_classes,
    write_json,
    write_text,
)
from aligndetr.config.codec import dump_config, override
from aligndetr.config.schema import Config
from aligndetr.convert.backbones import find_naming, rename_backbone
from aligndetr.convert.classes import find_classes, pick_classes
from aligndetr.convert.fit import Fit, fit
from aligndetr.convert.hub import (
    DILATED,
    Hub,
    hub_settings,
    is_dilated,
    refuse_variants,
    stated_stages,
)
from aligndetr.convert.layouts import LAYOUTS, Layout, Shapes
from aligndetr.convert.names import renamed
from aligndetr.convert.read import Source, read_source
from aligndetr.errors import CheckpointError, ConfigError
from aligndetr.model.build import build_model
from aligndetr.model.detector import DetectorModel
from aligndetr.types import Classes

USUAL_HEADS = 8
"""Attention heads where nothing says how many; shapes do not."""
REPORT_FILE = "convert.json"
"""What was converted, and tensor by tensor what did not fit."""


@dataclass(frozen=True)
class Converted:
    """A published checkpoint as ours.

    `layout` says whose it was, `entry` which part of the file, `rows` how many its heads had, and
    `state_dict` is complete once `fit` has no problems.
    """

    layout: str
    entry: str | None
    config: Config
    classes: Classes
    rows: int
    fit: Fit
    state_dict: dict[str, Tensor]
    num_parameters: int


def convert(path: Path, out: Path, *, overrides: Sequence[str] = ()) -> Converted:
    """Write the checkpoint at `path` as a run folder, and what was done as `convert.json` in it.

    Raises:
        CheckpointError: It cannot be read, is of no known layout, or does not fit: `convert.json`
            then has all that does not, and is alone.
        ConfigError: `out` has a run, or an override does not fit.
    """
    for name in (CONFIG_FILE, BEST_WEIGHTS, LAST_WEIGHTS):
        if (out / name).exists():
            raise ConfigError(
                f"--out: expected a new folder, found a run ({name}) at {out}; choose another name"
            )
    converted = convert_source(read_source(path), overrides=overrides)
    write_json(out / REPORT_FILE, _report(path, converted))
    if problems := converted.fit.problems:
        raise CheckpointError(
            f"{path}: expected the tensors of {converted.layout}, found {problems}; "
            f"all are in {out / REPORT_FILE}. If it is a variant, say how with --set"
        )
    save_weights(out / BEST_WEIGHTS, converted.state_dict, converted.config, converted.classes)
    write_text(out / CONFIG_FILE, dump_config(converted.config))
    write_classes(out / CLASSES_FILE, converted.classes)
    return converted


def convert_source(source: Source, *, overrides: Sequence[str] = ()) -> Converted:
    """Return published weights as a configuration, classes and tensors, with how they fit.

    Raises:
        CheckpointError: They are of no known layout, or have no ResNet.
        ConfigError: An override does not fit.
    """
    _refuse_unusable(source)
    layout = recognise(source)
    config, tensors = derive(layout, source, overrides=overrides)
    rows = config.num_classes
    classes, kept = find_classes(rows, source.config or {})
    if any(assignment.startswith("num_classes=") for assignment in overrides):
        classes, kept = Classes.numbered(rows), tuple(range(rows))
    config, tensors = pick_classes(config, tensors, kept)
    network = _network(config)
    expected: dict[str, Tensor] = network.state_dict()
    found = fit(tensors, expected, source.tensors, _renaming(layout, source))
    state = {name: tensors.get(name, value).to(value.dtype) for name, value in expected.items()}
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Converted(layout.title, source.entry, config, classes, rows, found, state, parameters)


def _refuse_unusable(source: Source) -> None:
    """Raise if a tensor holds no real, finite numbers, as those of a network do."""
    for name, value in source.tensors.items():
        is_counter = not value.is_floating_point() and not name.endswith((".weight", ".bias"))
        if value.layout != torch.strided or value.is_complex():
            found = f"one that is {value.layout}, {value.dtype}"
        elif is_counter or (value.is_floating_point() and value.isfinite().all()):
            continue
        else:
            found = "NaN or infinity" if value.is_floating_point() else f"{value.dtype}"
        raise CheckpointError(
            f"{source.path}: {name}: expected finite real numbers, found {found}; such weights "
            "cannot be used: copy the file again, or take an earlier one of that training"
        )


def recognise(source: Source) -> Layout:
    """Return the layout of a checkpoint.

    Raises:
        CheckpointError: It is none that we know.
    """
    for layout in LAYOUTS:
        if layout.fits(source.tensors):
            return layout
    known = "; ".join(layout.title for layout in LAYOUTS)
    shown = ", ".join(list(source.tensors)[:3])
    raise CheckpointError(
        f"{source.path}: expected the weights of one of these: {known}; found {shown}, ...; "
        "no other detector can be converted"
    )


def derive(
    layout: Layout, source: Source, *, overrides: Sequence[str] = ()
) -> tuple[Config, dict[str, Tensor]]:
    """Return the configuration that the shapes tell, and the tensors under our names.

    Raises:
        CheckpointError: A tensor is missing without which the system cannot be told, two names of
            a shared one have different values, or the backbone is no ResNet.
        ConfigError: An override does not fit.
    """
    hub, where = source.hub, str(source.path)
    if layout.has_config and source.config is None:
        raise CheckpointError(
            f"{where}: expected the config.json that transformers writes, found none that can be "
            "read beside it; convert the folder that save_pretrained wrote"
        )
    refuse_variants(hub, where, "config.json" if source.config is not None else "args")
    try:
        tensors = layout.rename(source.tensors, where=where)
        heads = _heads(overrides, hub.get("encoder_attention_heads", USUAL_HEADS))
        config = layout.configure(Shapes(tensors, heads, hub, set(source.tensors)))
        settings, ours = _backbone(tensors, hub, overrides, where)
    except KeyError as error:
        raise CheckpointError(
            f"{where}: expected the tensors of {layout.title}, found none that is our "
            f"{error.args[0]}; the file is not complete: copy it again"
        ) from error
    except (IndexError, TypeError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(
            f"{where}: expected the tensors of {layout.title}, found some of other shapes "
            f"({error}); it is another network or damaged, and cannot be converted"
        ) from error
    if config.width % heads:
        raise ConfigError(
            f"--set: heads: expected a divisor of the width {config.width}, found {heads}"
        )
    others = {name: v for name, v in tensors.items() if not name.startswith("backbone.")}
    return override(config, [*hub_settings(hub), *settings, *overrides]), others | ours


def _backbone(
    tensors: Mapping[str, Tensor], hub: Hub, overrides: Sequence[str], where: str
) -> tuple[list[str], dict[str, Tensor]]:
    """Return the settings of the backbone, and its tensors under our names; none without one."""
    backbone = {name: value for name, value in tensors.items() if name.startswith("backbone.")}
    if not backbone:
        return [], {}
    return rename_backbone(
        backbone,
        find_naming(backbone, where),
        _channels(tensors),
        is_dilated=is_dilated(hub) or DILATED in overrides,
        stages=stated_stages(hub),
        where=where,
    )


def _heads(overrides: Sequence[str], usual: int) -> int:
    """Return the attention heads, without which other shapes do not tell what they are of."""
    given = dict(assignment.split("=", 1) for assignment in overrides if "=" in assignment)
    heads = given.get("heads", str(usual))
    if not heads.isdigit() or int(heads) == 0:
        raise ConfigError(f"--set: heads: expected a number from 1, found {heads!r}")
    return int(heads)


def _channels(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Return the channels of the maps that the neck takes, which it reads without a stride."""
    kernels = {
        name: value
        for name, value in tensors.items()
        if name.startswith("neck.projections.") and name.endswith(".0.weight")
    }
    return tuple(
        kernels[name].shape[1] for name in sorted(kernels) if kernels[name].shape[2:] == (1, 1)
    )


def _network(config: Config) -> DetectorModel:
    """Return the network, with what a checkpoint may lack drawn as its seed says."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        return build_model(config, device=torch.device("cpu"), pretrained=False)[0]


def _renaming(layout: Layout, source: Source) -> Callable[[str], str]:
    """Return a function that gives our name of a published tensor."""
    ours = [renamed(name, layout.renames) for name in source.tensors]
    backbone = [name for name in ours if name.startswith("backbone.")]
    if not backbone:
        return lambda name: renamed(name, layout.renames)
    naming = find_naming(backbone, str(source.path))
    return lambda name: naming.ours(renamed(name, layout.renames))


def _report(path: Path, converted: Converted) -> dict[str, object]:
    return {
        "from": str(path),
        "entry": converted.entry,
        "layout": converted.layout,
        "preset": converted.config.name,
        "parameters": converted.num_parameters,
        "rows": converted.rows,
        "classes": len(converted.classes),
        **asdict(converted.fit),
    }
