"""What published checkpoints look like: how each is recognised, named and configured.

A configuration is derived from the tensors' shapes. What shapes cannot tell (attention heads, which
share of H-DETR's queries is the main group) is as published, unless overridden.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from aligndetr.config import presets
from aligndetr.config.codec import override
from aligndetr.config.schema import Config
from aligndetr.convert import names, transformers_names
from aligndetr.convert.hub import Hub
from aligndetr.convert.names import Renames

Tensors = Mapping[str, Tensor]

ENCODER = r"encoder\.layers\.(\d+)\."
DECODER = r"decoder\.layers\.(\d+)\."
SCORED_PADDING = "queries.padding=as_scored"
"""All published two-stage code may choose padding."""
TWICE = r"transformer\.decoder\.bbox_embed\."
"""Names that heads have besides their own in published code, where boxes are refined."""
LEVELS = r"neck\.projections\.(\d+)\."


class Shapes:
    """Questions to a state dict under our names."""

    def __init__(
        self, tensors: Tensors, heads: int, hub: Hub, published: Collection[str] = ()
    ) -> None:
        """Take the attention heads, what the file says of itself, and the published names."""
        self.tensors, self.heads, self.hub, self.published = tensors, heads, hub, published

    def has(self, name: str) -> bool:
        """Whether there is such a tensor."""
        return name in self.tensors

    def size(self, name: str, axis: int = 0) -> int:
        """Return a size of a tensor."""
        return self.tensors[name].shape[axis]

    def count(self, pattern: str) -> int:
        """Return one more than the largest number that the pattern's group finds; 0 if none."""
        return _count(pattern, self.tensors)

    @property
    def heads_are_shared(self) -> bool:
        """Whether all decoder layers predict with equal weights."""
        first = {
            name: value
            for name, value in self.tensors.items()
            if name.startswith("decoder.heads.0.")
        }
        return all(
            torch.equal(value, self.tensors[name.replace(".0.", f".{depth}.", 1)])
            for depth in range(self.count(DECODER))
            for name, value in first.items()
        )

    @property
    def is_refined(self) -> bool:
        """Whether Deformable DETR's layers start from the boxes of those before.

        Its code then names the heads twice; files that name them once have a head a layer.
        """
        if "with_box_refine" in self.hub:
            return bool(self.hub["with_box_refine"])
        is_named_twice = any(re.match(TWICE, name) for name in self.published)
        return is_named_twice or not self.heads_are_shared

    def common(self) -> list[str]:
        """Return the settings that every system has."""
        classes = self.size("decoder.heads.0.classes.weight")
        return [
            f"num_classes={classes}",
            f"width={self.size('decoder.heads.0.classes.weight', 1)}",
            f"heads={self.heads}",
            f"encoder.layers={self.count(ENCODER)}",
            f"encoder.feedforward={self.size('encoder.layers.0.feedforward.expand.weight')}",
            f"decoder.layers={self.count(DECODER)}",
            f"decoder.feedforward={self.size('decoder.layers.0.feedforward.expand.weight')}",
            f"decoder.heads_shared={str(self.heads_are_shared).lower()}",
            f"neck.levels={self.count(LEVELS)}",
        ]

    def points(self) -> list[str]:
        """Return the settings of deformable attention."""
        places = self.heads * self.count(LEVELS)
        encoder = self.size("encoder.layers.0.attention.weights.weight") // places
        decoder = self.size("decoder.layers.0.cross_attention.attention.weights.weight") // places
        return [f"encoder.points={encoder}", f"decoder.cross_attention.points={decoder}"]


def _count(pattern: str, found: Iterable[str]) -> int:
    """Return one more than the largest number that the pattern's group has in a name."""
    matches = (re.match(pattern, name) for name in found)
    return max((int(match[1]) + 1 for match in matches if match), default=0)


def _deformable(shapes: Shapes) -> Config:
    """Deformable DETR in its three forms, and H-Deformable-DETR."""
    settings = [*shapes.common(), *shapes.points()]
    if shapes.has("queries.embedding.norm.weight"):
        settings.append(SCORED_PADDING)
        if not shapes.has("queries.content"):
            if "two_stage_num_proposals" in shapes.hub:
                settings.append(f"queries.count={shapes.hub['two_stage_num_proposals']}")
            return override(presets.get_detr("deformable-detr-two-stage-r50"), settings)
        config = presets.get_detr("h-deformable-detr-r50")
        return override(config, [*settings, *_hybrid(shapes)])
    name = "deformable-detr-refined-r50" if shapes.is_refined else "deformable-detr-r50"
    settings.append(f"queries.count={shapes.size('queries.position')}")
    return override(presets.get_detr(name), settings)


def _hybrid(shapes: Shapes) -> list[str]:
    queries, main = shapes.size("queries.content"), shapes.hub.get("num_queries_one2one", 300)
    settings = [f"queries.count={min(queries, main)}"]
    settings.append(f"groups.queries={queries - main}" if queries > main else "groups=null")
    if "look_forward_twice" in shapes.hub:
        is_twice = shapes.hub["look_forward_twice"]
        settings.append(f"decoder.refinement={'look_forward_twice' if is_twice else 'detached'}")
    return settings


def _idea_dino(shapes: Shapes) -> Config:
    """DINO as IDEA published it."""
    settings = [
        *shapes.common(),
        *shapes.points(),
        "position.temperature=20",
        "position.offset=0",
        "denoising.blocks_below=100",
    ]
    return override(presets.get_detr("dino-r50-4scale"), [*settings, *_top(shapes)])


def _top(shapes: Shapes) -> list[str]:
    if shapes.has("queries.content"):
        return [SCORED_PADDING, f"queries.count={shapes.size('queries.content')}"]
    settings = [SCORED_PADDING, "queries.content=memory"]
    if "two_stage_num_proposals" in shapes.hub:
        settings.append(f"queries.count={shapes.hub['two_stage_num_proposals']}")
    return settings


def _detrex_dino(shapes: Shapes) -> Config:
    """DINO in detrex, and Align-DETR as its authors released it: one network."""
    settings = [*shapes.common(), *shapes.points(), *_top(shapes)]
    settings.append("neck.padding=seen_in_evaluation")
    return override(presets.get_detr("align-dino-r50-4scale-released"), settings)


def _anchors(shapes: Shapes) -> list[str]:
    has_prelu = shapes.has("decoder.layers.0.feedforward.activation.weight")
    activation = "prelu" if has_prelu else "relu"
    return [
        *shapes.common(),
        f"queries.count={shapes.size('queries.boxes')}",
        f"encoder.activation={activation}",
        f"decoder.activation={activation}",
    ]


def _idea_dab(shapes: Shapes) -> Config:
    return override(presets.get_detr("dab-detr-r50"), _anchors(shapes))


def _detrex_dab(shapes: Shapes) -> Config:
    settings = [*_anchors(shapes), "neck.padding=seen_in_evaluation"]
    return override(presets.get_detr("align-dab-detr-r50-released"), settings)


def _hub_detr(shapes: Shapes) -> Config:
    settings = _hub_queries(shapes)
    classes = shapes.size("decoder.heads.0.classes.weight") - 1  # "no object" is the last
    settings.append(f"num_classes={classes}")
    return override(presets.get_detr("detr-r50"), settings)


def _hub_conditional(shapes: Shapes) -> Config:
    return override(presets.get_detr("conditional-detr-r50"), _hub_queries(shapes))


def _hub_queries(shapes: Shapes) -> list[str]:
    """Return the settings of queries, and of a quirk: auxiliary losses add a norm there."""
    settings = [*shapes.common(), f"queries.count={shapes.size('queries.position')}"]
    if shapes.hub.get("auxiliary_loss"):
        settings.append("decoder.norm=between_layers")
    return settings


def _hub_dab(shapes: Shapes) -> Config:
    return override(presets.get_detr("dab-detr-r50"), _anchors(shapes))


@dataclass(frozen=True)
class Layout:
    """One way of naming a system's tensors.

    `marks` are patterns of which each must match the start of a published name; `configure` makes
    the configuration from tensors under our names. `has_config` says that a `config.json` beside
    the weights has what tensors do not tell.
    """

    title: str
    marks: tuple[str, ...]
    renames: Renames
    configure: Callable[[Shapes], Config]
    has_config: bool = False

    def fits(self, published: Iterable[str]) -> bool:
        """Whether the names are of this layout."""
        found = list(published)
        return all(any(re.match(mark, name) for name in found) for mark in self.marks)

    def rename(self, published: Tensors, *, where: str) -> dict[str, Tensor]:
        """Return the tensors under our names.

        Raises:
            CheckpointError: Two names of one tensor have different values. `where` begins the
                message.
        """
        ours = names.rename_all(published, self.renames, where=where)
        convolutions, layers = _count(LEVELS, ours), _count(DECODER, ours)
        ours = {_placed(name, convolutions, layers): value for name, value in ours.items()}
        first = {
            name.removeprefix("decoder.heads.0."): value
            for name, value in ours.items()
            if name.startswith("decoder.heads.0.")
        }
        shared = {
            f"decoder.heads.{depth}.{part}": value
            for depth in range(layers)
            for part, value in first.items()
        }
        return _with_known_labels(_with_split_queries(shared | ours))


def _with_split_queries(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with learned queries apart: position and content, or content alone."""
    if "queries.both" not in ours:
        return ours
    both = ours.pop("queries.both")
    width = ours["neck.level"].shape[1]
    if both.shape[1] == width:
        return {**ours, "queries.content": both}
    return {**ours, "queries.position": both[:, :width], "queries.content": both[:, width:]}


def _with_known_labels(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without the label embeddings that are of no class (IDEA has some more)."""
    labels, classes = ours.get("denoising.label.weight"), ours.get("decoder.heads.0.classes.weight")
    if labels is None or classes is None:
        return ours
    return {**ours, "denoising.label.weight": labels[: len(classes)]}


def _placed(name: str, convolutions: int, layers: int) -> str:
    """Return the name with places that depend on how many levels and layers there are.

    Extra levels follow the others; the head behind the decoder's last is that of proposals.
    """
    if extra := re.match(r"neck\.extra\.(\d+)\.(.*)", name):
        return f"neck.projections.{convolutions + int(extra[1])}.{extra[2]}"
    return name.replace(f"decoder.heads.{layers}.", "queries.head.")


LAYOUTS = (
    Layout(
        "DINO (IDEA)",
        (r"transformer\.enc_out_class_embed", r"input_proj\.0\.0\."),
        names.MULTISCALE,
        _idea_dino,
    ),
    Layout(
        "DAB-DETR (IDEA)",
        (r"refpoint_embed\.", r"transformer\.decoder\.layers\.0\.ca_qcontent_proj"),
        names.DAB,
        _idea_dab,
    ),
    Layout(
        "Deformable DETR or H-Deformable-DETR",
        (r"input_proj\.0\.0\.", r"transformer\.(reference_points|pos_trans)\."),
        names.MULTISCALE,
        _deformable,
    ),
    Layout(
        "Align-DETR or detrex's DINO",
        (r"neck\.convs\.0\.", r"transformer\.level_embeds"),
        names.DETREX,
        _detrex_dino,
    ),
    Layout(
        "Align-DAB-DETR or detrex's DAB-DETR",
        (r"anchor_box_embed\.", r"transformer\.decoder\.layers\.0\.attentions\.1\.query_pos_sine"),
        names.DETREX_DAB,
        _detrex_dab,
    ),
    Layout(
        "DabDetr (transformers)",
        (r"model\.query_refpoint_embeddings", r"model\.decoder\.layers\.0\.cross_attn\."),
        transformers_names.DAB,
        _hub_dab,
        has_config=True,
    ),
    Layout(
        "ConditionalDetr (transformers)",
        (r"class_labels_classifier\.", r"model\.decoder\.query_scale\."),
        transformers_names.CONDITIONAL,
        _hub_conditional,
        has_config=True,
    ),
    Layout(
        "Detr (transformers)",
        (r"class_labels_classifier\.", r"model\.decoder\.layers\.0\.encoder_attn\.q_proj"),
        transformers_names.DETR,
        _hub_detr,
        has_config=True,
    ),
    Layout(
        "DeformableDetr (transformers)",
        (r"model\.level_embed", r"model\.encoder\.layers\.0\.self_attn\.sampling_offsets"),
        transformers_names.DEFORMABLE,
        _deformable,
        has_config=True,
    ),
)
"""All that `aligndetr convert` knows."""
