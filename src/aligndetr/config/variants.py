"""What may be done to any system: the Align losses, another backbone, another schedule.

Each is a function from a configuration to a new one with its own name.
"""

from aligndetr.config.schema import Config, StepSchedule, Training
from aligndetr.losses.classification import IABCE
from aligndetr.losses.costs import FocalCost


def align(config: Config, *, k: int = 3, tau: float = 1.5, proposal_k: int = 1) -> Config:
    """Return the Align version of a system: IA-BCE, k positives an object, prime weights.

    alpha = 0.25, gamma = 2, class-loss weight 1 (Align-DETR, arXiv:2304.07527, Table A). DETR's
    softmax gives way to a score for each class, and with it its cost in matching.

    Args:
        config: Any system.
        k: Positives of an object in every decoder layer below the last.
        tau: Temperature of prime sample weighting.
        proposal_k: Positives of an object among the encoder's proposals.
    """
    matcher, postprocess = config.criterion.matcher, config.postprocess
    if config.has_softmax:
        matcher = matcher.model_copy(update={"score": FocalCost(), "class_cost": 2.0})
        postprocess = postprocess.model_copy(update={"scores": "sigmoid"})
    changes = {
        "classification": IABCE(alpha=0.25, gamma=2.0),
        "class_weight": 1.0,
        "matcher": matcher,
        "k": k,
        "tau": tau,
        "proposal_k": proposal_k,
    }
    return config.model_copy(
        update={
            "name": f"align-{config.name}",
            "postprocess": postprocess,
            "criterion": config.criterion.model_copy(update=changes),
        }
    )


def r101(config: Config) -> Config:
    """Return the system on a ResNet-101 instead of a ResNet-50."""
    backbone = config.backbone.model_copy(update={"name": "resnet101.tv_in1k"})
    return config.model_copy(
        update={"name": config.name.replace("-r50", "-r101"), "backbone": backbone}
    )


def dc5(config: Config) -> Config:
    """Return the single-scale system with a dilated last stage, of stride 16 instead of 32.

    Four times the tokens (R-FCN's "DC5"; DETR, arXiv:2005.12872, section 4).
    """
    backbone = config.backbone.model_copy(update={"strides": (16,), "output_stride": 16})
    system, _, depth = config.name.rpartition("-")
    return config.model_copy(update={"name": f"{system}-dc5-{depth}", "backbone": backbone})


def r101_dc5(config: Config) -> Config:
    """Return the single-scale system on a ResNet-101 with a dilated last stage."""
    return dc5(r101(config))


def retimed(config: Config, *, epochs: int, drop: int) -> Config:
    """Return the system with another length of training; the rate falls after epoch `drop`."""
    return config.model_copy(
        update={
            "name": f"{config.name}-{epochs}ep",
            "training": trained_for(config.training, epochs=epochs, drop=drop),
        }
    )


def trained_for(training: Training, *, epochs: int, drop: int) -> Training:
    """Return the training with another length; the rate is multiplied by 0.1 after `drop`."""
    schedule = StepSchedule(milestones=(drop / epochs,))
    return training.model_copy(update={"epochs": epochs, "schedule": schedule})
