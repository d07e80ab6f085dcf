"""The criterion of a region detector, which computes its losses itself, on samples it draws."""

from pydantic import NonNegativeFloat
from torch import Tensor

from aligndetr.settings import Settings
from aligndetr.types import RegionOutput, Targets


class RegionCriterion(Settings):
    """The weights of a region detector's losses; all are 1 in Faster R-CNN."""

    objectness_weight: NonNegativeFloat = 1.0
    """Whether an anchor box holds an object: binary cross-entropy."""
    proposal_box_weight: NonNegativeFloat = 1.0
    """The box that the anchor box becomes: smooth L1."""
    class_weight: NonNegativeFloat = 1.0
    """The class of a proposal, or that it holds no object: cross-entropy."""
    box_weight: NonNegativeFloat = 1.0
    """The box that the proposal becomes: smooth L1."""

    def __call__(
        self,
        output: RegionOutput,
        targets: Targets,  # noqa: ARG002 - as `Criterion`; the detector has used them
        *,
        num_targets: float | Tensor | None = None,  # noqa: ARG002 - losses are means of samples
    ) -> dict[str, Tensor]:
        """Return weighted scalar losses by name; their sum is what is minimised."""
        weights = {
            "proposals.objectness": self.objectness_weight,
            "proposals.box": self.proposal_box_weight,
            "regions.class": self.class_weight,
            "regions.box": self.box_weight,
        }
        return {name: weight * output.losses[name] for name, weight in weights.items()}
