"""A run folder as it is begun: what is in it from the start, and what it is resumed by.

It holds `config.yaml` (fully resolved), `classes.json`, `metrics.jsonl`, `best.safetensors`,
`last.safetensors`, and in `state/` what resumes it: `origin.json` from here, `training.pt` from
`train.state`, and `lock`, which a training holds while it writes and which means nothing otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from aligndetr.checkpoint import (
    BEST_WEIGHTS,
    CLASSES_FILE,
    CONFIG_FILE,
    LAST_WEIGHTS,
    METRICS_FILE,
    STATE_FOLDER,
    make_folder,
    write_classes,
    write_json,
    write_text,
)
from aligndetr.config.codec import dump_config
from aligndetr.config.schema import AnyConfig
from aligndetr.data.annotations import Annotations
from aligndetr.errors import CheckpointError, ConfigError
from aligndetr.precision import Precision
from aligndetr.train.state import STATE_FILE

ORIGIN_FILE = Path(STATE_FOLDER) / "origin.json"
LOCK_FILE = Path(STATE_FOLDER) / "lock"


class Origin(BaseModel):
    """What a run began on: its data folder, device and arithmetic, and what there was to learn.

    Runs of earlier versions know the first alone, or the first and the arithmetic.
    """

    model_config = ConfigDict(frozen=True)

    data: Path
    precision: Precision = "auto"
    device: str = "auto"
    images: int | None = None
    objects: int | None = None

    @staticmethod
    def of(split: Annotations, data: Path, *, precision: Precision, device: str) -> Origin:
        """Return that of a training on a split of a data folder."""
        return Origin(
            data=data.resolve(),
            precision=precision,
            device=device,
            images=len(split),
            objects=len(split.target_boxes[1]),
        )

    @staticmethod
    def read(run: Path) -> Origin:
        """Return that of a run folder.

        Raises:
            CheckpointError: The folder is not a run, or the file is damaged.
        """
        path = run / ORIGIN_FILE
        if not path.is_file():
            raise CheckpointError(
                f"--resume: expected a run folder, found no {ORIGIN_FILE} in {run}; "
                "give the --out folder of a training that was interrupted"
            )
        try:
            return Origin.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise CheckpointError(
                f"{path}: expected where a run's data are, found a damaged file; "
                f"fine-tune from {run / LAST_WEIGHTS} instead"
            ) from error

    def require_same(self, split: Annotations) -> None:
        """Check that the split has as many images and objects as it had.

        Raises:
            CheckpointError: It has not.
        """
        found = {"images": len(split), "objects": len(split.target_boxes[1])}
        for what, count in found.items():
            if (began := getattr(self, what)) not in (None, count):
                raise CheckpointError(
                    f"--resume: expected the {began} {what} that this run began with, found "
                    f"{count} in {split.annotation_file}; fine-tune from it with --model"
                )


@contextmanager
def held(out: Path, say: Callable[[str], None]) -> Generator[None]:
    """Keep other trainings out of a run folder; made if missing.

    Where the file system has no locks, that is said, and nothing is kept out.

    Raises:
        ConfigError: Another training is at work in it.
        CheckpointError: It cannot be written to.
    """
    make_folder(out / STATE_FOLDER, str(out))
    lock = FileLock(out / LOCK_FILE)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ConfigError(
            f"{out}: expected a folder that no training is writing to, found one that another is; "
            "wait for its end, or choose another name"
        ) from None
    except PermissionError:
        raise
    except (OSError, NotImplementedError) as error:
        say(
            f"{out / LOCK_FILE}: cannot be locked ({error}); start no other training in that folder"
        )
    try:
        yield
    finally:
        lock.release()


def make_run_folder(out: Path, config: AnyConfig, split: Annotations, origin: Origin) -> None:
    """Begin a run: write what is known before the first step.

    Raises:
        ConfigError: The folder cannot be a new run.
        CheckpointError: It cannot be written to.
    """
    require_new(out)
    (out / METRICS_FILE).unlink(missing_ok=True)  # of a training that saved nothing
    write_text(out / CONFIG_FILE, dump_config(config))
    write_classes(out / CLASSES_FILE, split.classes)
    write_json(out / ORIGIN_FILE, origin.model_dump(mode="json"))


def require_new(out: Path) -> None:
    """Check that nothing would be lost: a run that ended before it saved anything may go.

    Raises:
        ConfigError: There is a run, or a file of a run's name that no training wrote.
    """
    saved = _existing(out, BEST_WEIGHTS, LAST_WEIGHTS, str(STATE_FILE))
    if saved:
        raise ConfigError(
            f"--out: expected a new folder, found a run ({saved[0]}) at {out}; choose another "
            f"name, or continue an interrupted run with --resume {out}"
        )
    is_ours = (out / ORIGIN_FILE).is_file()
    others = [] if is_ours else _existing(out, CONFIG_FILE, CLASSES_FILE, METRICS_FILE)
    if others or (out.exists() and not out.is_dir()):
        what = f"a folder with another {others[0]}" if others else "a file"
        raise ConfigError(
            f"--out: expected a new folder, found {what} at {out}; choose another name"
        )


def _existing(out: Path, *names: str) -> list[str]:
    return [name for name in names if (out / name).exists()]
