"""The library in a few calls: train, evaluate, predict, analyze.

`Detector` holds a model that is ready for use; `train` and `resume` make runs. The verbs of the
same names are these calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import overload

from aligndetr.checkpoint import METRICS_FILE, make_folder
from aligndetr.checkpoint import load_state as load_weights_into
from aligndetr.config.codec import override
from aligndetr.config.presets import get_preset
from aligndetr.config.schema import AnyConfig
from aligndetr.data.annotations import Annotations
from aligndetr.data.formats import open_split
from aligndetr.devices import resolve_device
from aligndetr.errors import DatasetError
from aligndetr.evaluate.evaluator import Results, collect, evaluate
from aligndetr.evaluate.files import is_results_file, read_results
from aligndetr.evaluate.loading import split_loader
from aligndetr.model.build import build_model
from aligndetr.model.postprocess import detect_with
from aligndetr.pictures import Picture, Source, expand, is_single, list_sources
from aligndetr.precision import Precision
from aligndetr.predict import predict, predict_files, unresized
from aligndetr.report.analysis import Found, check_found, report_on
from aligndetr.runs import Run, open_start, resume, train
from aligndetr.types import Batch, Classes, Detect, Detections

__all__ = ["Detector", "Run", "analyze", "resume", "train"]

Progress = Callable[[int], None]


class Detector:
    """A detector that is ready to predict, evaluate or be trained.

    Example:
        >>> detector = Detector("runs/cells")
        >>> detections = detector.predict("smear.jpg", threshold=0.3)
    """

    def __init__(
        self,
        model: str | Path,
        *,
        num_classes: int | None = None,
        pretrained: bool = True,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> None:
        """Open a run folder or a .safetensors file, or start from a preset.

        Args:
            model: Run folder, .safetensors file, or preset; `aligndetr models` lists them.
            num_classes: Of a preset; a run knows its own. Training takes those of its data.
            pretrained: Whether a preset starts from ImageNet weights; False is random weights.
            device: "auto", "cpu", "cuda" or "mps".
            precision: Arithmetic of the transformer; auto is bf16 where that is fast.

        Raises:
            ConfigError: No such preset, device or precision.
            CheckpointError: The run or the weights cannot be used.
            ValueError: A run has another number of classes.
        """
        self.device = resolve_device(device)
        self.origin = str(model)
        self._overrides = () if precision == "auto" else (f"precision={precision}",)
        checkpoint = open_start(model)
        if checkpoint is None:
            config = get_preset(str(model))
            if not pretrained:
                self._overrides += ("backbone.pretrained=false",)
            if num_classes is not None:
                config = config.model_copy(update={"num_classes": num_classes})
            self.classes = Classes.numbered(config.num_classes)
            self._build(config, precision, pretrained=pretrained)
        else:
            if num_classes not in (None, len(checkpoint.classes)):
                raise ValueError(
                    f"Detector: {model} has {len(checkpoint.classes)} classes, "
                    f"not num_classes={num_classes}"
                )
            self.classes = checkpoint.classes
            self._build(checkpoint.config, precision, pretrained=False)
            load_weights_into(self.model, checkpoint.state_dict, str(checkpoint.path))

    def _build(self, config: AnyConfig, precision: Precision, *, pretrained: bool) -> None:
        if precision != "auto":
            config = override(config, [f"precision={precision}"])
        self.config = config
        use_imagenet = pretrained and config.backbone.pretrained
        self.model, self.weights_origin = build_model(
            config, device=self.device, pretrained=use_imagenet
        )
        self.model.eval()

    @overload
    def predict(
        self, source: Picture, *, threshold: float = 0.3, resize: bool = True
    ) -> Detections: ...

    @overload
    def predict(
        self, source: Sequence[Picture], *, threshold: float = 0.3, resize: bool = True
    ) -> list[Detections]: ...

    def predict(
        self, source: Source, *, threshold: float = 0.3, resize: bool = True
    ) -> Detections | list[Detections]:
        """Return the objects of one picture, or of each picture of a list, folder or pattern.

        Args:
            source: Path, folder, glob pattern, bytes, PIL image, uint8 array (H, W, 3), float
                tensor (3, H, W) in [0, 1], or a list of these.
            threshold: Detections with a lower score are left out.
            resize: False gives the picture to the model in the size that it has.

        Each result keeps its picture, for `plot()`; `predict_folder` keeps none of thousands.

        Raises:
            DatasetError: A picture cannot be found or read.
            ValueError: An array or a tensor has another shape or type.
        """
        backbone = self.config.backbone
        transform = (
            self.config.data.augmentation.evaluation(backbone.mean, backbone.std)
            if resize
            else unresized(backbone.mean, backbone.std)
        )
        detect = self._detect()
        found = [predict(detect, picture, transform).above(threshold) for picture in expand(source)]
        return found[0] if is_single(source) else found

    def predict_folder(
        self,
        source: str | Path,
        out: str | Path,
        *,
        threshold: float = 0.3,
        progress: Progress | None = None,
    ) -> list[dict[str, object]]:
        """Write pictures with their boxes and `predictions.json` (COCO results) to `out`.

        Args:
            source: An image, a folder of images, or a glob pattern.
            out: Where to write; made when missing.
            threshold: Detections with a lower score are left out.
            progress: Called with 1 after every image.

        Returns:
            For each image its file, its picture, and how many detections it has.

        Raises:
            ConfigError: `out` cannot be made, or a file that is not of an earlier prediction would
                be overwritten.
            CheckpointError: A file of `out` cannot be written.
            DatasetError: An image cannot be found or read.
        """
        backbone = self.config.backbone
        predictions = predict_files(
            self._detect(),
            list_sources(source),
            Path(out),
            classes=self.classes,
            transform=self.config.data.augmentation.evaluation(backbone.mean, backbone.std),
            threshold=threshold,
            progress=progress,
        )
        counts: dict[object, int] = {}
        for result in predictions.results:
            counts[result["image_id"]] = counts.get(result["image_id"], 0) + 1
        return [
            {
                "file": image["file_name"],
                "picture": str(Path(out) / str(image["picture"])),
                "detections": counts.get(image["id"], 0),
            }
            for image in predictions.images
        ]

    def evaluate(
        self, data: str | Path, *, split: str = "val", progress: Progress | None = None
    ) -> dict[str, object]:
        """Return the COCO metrics on a split of a data folder, in [0, 1].

        Keys: AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl, `per_class`, `images`,
        `seconds`. A metric without any object to measure it on is None.

        Raises:
            DatasetError: The data cannot be read, or have classes that the model does not know.
        """
        annotations = open_split(Path(data), split)
        detect, loader = self._search(annotations)
        return evaluate(detect, loader, annotations.coco_dict(), progress=progress)

    def analyze(
        self,
        data: str | Path,
        *,
        out: str | Path,
        split: str = "val",
        compare: str | Path | None = None,
        progress: Progress | None = None,
    ) -> dict[str, object]:
        """Write `report.html`, `analysis.json` and figures to `out`; return the analysis.

        It says how far the most confident boxes are from being the best ones, and what that costs;
        docs/analyze.md has the definitions.

        Args:
            data: COCO, VOC or YOLO data.
            out: A folder, made when missing.
            split: Which part of the data.
            compare: Another run, or a JSON file of COCO results, to show beside.
            progress: Called with the images of every batch that was searched.

        Raises:
            DatasetError: The data or the results cannot be read.
        """
        return analyze(self, data, out=out, split=split, compare=compare, progress=progress)

    def find(self, annotations: Annotations, *, progress: Progress | None = None) -> Results:
        """Return all that is found in a split, as rows of the ids that its own file gives."""
        detect, loader = self._search(annotations)
        return collect(detect, loader, progress=progress)

    def _search(self, annotations: Annotations) -> tuple[Detect, Iterable[Batch]]:
        """Return what finds objects as the split's own classes, and the images of the split."""
        _check_classes_known(annotations, self.classes, self.origin)
        loader = split_loader(self.config, annotations)
        detect = self._detect()
        found_as = _in_classes_of(annotations.classes, self.classes)
        return lambda images: found_as(detect(images)), loader

    def train(
        self,
        data: str | Path,
        *,
        out: str | Path,
        epochs: int | None = None,
        steps: int | None = None,
        minutes: float | None = None,
        overrides: Sequence[str] = (),
        seed: int | None = None,
    ) -> Run:
        """Train on a data folder, starting from this detector's origin, and become the result.

        The origin is a preset or a run as this detector was opened: with its device and precision,
        and without ImageNet weights where it was to have none.

        Args:
            data: COCO, VOC or YOLO data with a train and a val split.
            out: A new run folder.
            epochs: How long, or `steps` or `minutes`; the preset's epochs when none is given.
            steps: Optimizer steps.
            minutes: Wall-clock time of the whole call.
            overrides: Changes to the configuration, such as "training.learning_rate=1e-4".
            seed: Decides on everything random.

        Returns:
            The run: its folder, and the metrics of its best weights.

        Raises:
            ConfigError: The configuration, the budget or `out` cannot be used.
            DatasetError: The data cannot be used.
            CheckpointError: Weights cannot be had.
            DivergenceError: A loss became infinite or NaN.
        """
        run = train(
            model=self.origin,
            data=Path(data),
            out=Path(out),
            overrides=(*self._overrides, *overrides),
            epochs=epochs,
            steps=steps,
            minutes=minutes,
            seed=seed,
            device=self.device.type,
        )
        trained = Detector(run.folder, device=self.device.type)
        vars(self).update(vars(trained))
        return run

    def _detect(self) -> Detect:
        options = self.config.postprocess
        return detect_with(self.model, self.classes, options, device=self.device)


def analyze(
    subject: Detector | str | Path,
    data: str | Path,
    *,
    out: str | Path,
    split: str = "val",
    compare: Detector | str | Path | None = None,
    progress: Progress | None = None,
    stage: Callable[[str], None] = lambda _: None,
) -> dict[str, object]:
    """Analyse what a detector finds, ours or not: see `Detector.analyze`.

    Args:
        subject: A detector, a run, or a JSON file of COCO results.
        data: COCO, VOC or YOLO data.
        out: A folder, made when missing.
        split: Which part of the data.
        compare: Another of these, to show beside.
        progress: Called with the images of every batch that was searched.
        stage: Told what is done next, once all images are searched.

    Raises:
        ConfigError: `subject` is no preset and no path, or `out` cannot be made.
        CheckpointError: A run cannot be used.
        DatasetError: The data or the results cannot be read.
    """
    annotations = open_split(Path(data), split)
    make_folder(Path(out), "--out")
    subjects = [subject] if compare is None else [subject, compare]
    opened = [_opened(one, annotations) for one in subjects]  # before any of them is searched
    found, *others = (_results_of(one, annotations, progress) for one in opened)
    other = others[0] if others else None
    return report_on(found, annotations, Path(out), split=split, compared=other, progress=stage)


def _opened(subject: Detector | str | Path, annotations: Annotations) -> Detector | Found:
    """Return a detector, or what a file says that one has found, of the images of a split.

    Raises:
        DatasetError: It is of other images or classes.
    """
    if not isinstance(subject, Detector):
        path = Path(subject)
        if is_results_file(path):
            found = Found(str(subject), read_results(path))
            check_found(found, annotations)
            return found
        subject = Detector(subject)
    _check_classes_known(annotations, subject.classes, subject.origin)
    return subject


def _results_of(
    subject: Detector | Found, annotations: Annotations, progress: Progress | None
) -> Found:
    """Return what a detector finds in a split, or what it has found."""
    if isinstance(subject, Found):
        return subject
    run = Path(subject.origin)
    has_history = (run / METRICS_FILE).is_file()
    results = subject.find(annotations, progress=progress)
    return Found(subject.origin, results, run if has_history else None)


def _check_classes_known(annotations: Annotations, classes: Classes, origin: str) -> None:
    unknown = [name for name in annotations.classes.names if name not in classes.names]
    if unknown:
        raise DatasetError(
            f"{annotations.annotation_file}: expected classes that {origin} knows "
            f"({', '.join(classes.names[:5])}{', ...' if len(classes) > 5 else ''}), found "
            f"{unknown[0]!r}; train on these data, or give those that the model was trained on"
        )


def _in_classes_of(
    wanted: Classes, known: Classes
) -> Callable[[list[Detections]], list[Detections]]:
    """Return a function that gives detections the ids that the data set has for their names."""
    if wanted == known:
        return lambda detections: detections
    by_name = dict(zip(wanted.names, wanted.ids, strict=True))
    absent = max((*wanted.ids, *known.ids)) + 1  # classes that the data set does not have
    translated = Classes(
        known.names,
        tuple(by_name.get(name, absent + label) for label, name in enumerate(known.names)),
    )
    return lambda detections: [
        Detections(d.boxes, d.scores, d.labels, translated, d.image_size) for d in detections
    ]
