"""Numbers of a training for other people's dashboards, by accelerate's trackers."""

from collections.abc import Mapping

from accelerate import Accelerator
from accelerate.utils import is_tensorboard_available

from aligndetr.errors import ConfigError


def require_tracker(name: str) -> None:
    """Raise a ConfigError if the packages of a tracker are missing."""
    if name == "tensorboard" and not is_tensorboard_available():
        raise ConfigError(
            "training.tracker: expected the package tensorboard, found none; "
            "pip install 'aligndetr[track]', or leave the tracker out"
        )


def track(accelerator: Accelerator, event: str, step: int, values: Mapping[str, object]) -> None:
    """Give the numbers of an event to the trackers, named `event/name`; nothing without one."""
    numbers = {
        f"{event}/{name}": value for name, value in values.items() if isinstance(value, int | float)
    }
    accelerator.log(numbers, step=step)
