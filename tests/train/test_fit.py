from typing import Any, TypeAlias

import pytest

from aligndetr.data.annotations import Annotations, ObjectTable
from aligndetr.errors import DatasetError
from aligndetr.train import fit
from aligndetr.train.budget import Budget

# `Lab` is that of conftest.py.
Lab: TypeAlias = Any


def without_objects(annotations: Annotations) -> Annotations:
    objects = annotations.objects
    empty = ObjectTable(
        objects.images[:0],
        objects.labels[:0],
        objects.bboxes[:0],
        objects.areas[:0],
        objects.crowd[:0],
    )
    return Annotations.of(
        annotations.annotation_file,
        annotations.layout,
        folders=annotations.folders,
        classes=annotations.classes,
        images=annotations.images,
        objects=empty,
    )


def test_no_image_to_train_on_is_an_error(lab: Lab) -> None:
    lab = lab.with_data(keep_empty=False)
    lab.train = without_objects(lab.train)
    with pytest.raises(DatasetError, match="expected an image with objects"):
        lab.fit(Budget(epochs=1))


def test_images_without_objects_can_be_trained_on(lab: Lab) -> None:
    lab.train = without_objects(lab.train)
    assert "AP" in lab.fit(Budget(steps=1))


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_in_other_processes_changes_nothing(lab: Lab, workers: int) -> None:
    model, reference = lab.model(), lab.model()
    lab.fit(Budget(epochs=2), "reference", model=reference)
    lab.with_data(workers=workers).fit(Budget(epochs=2), "run", model=model)
    for name, tensor in reference.state_dict().items():
        assert tensor.equal(model.state_dict()[name])


def test_training_on_a_cpu_keeps_the_heap(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[bool] = []
    monkeypatch.setattr(fit, "keep_heap", lambda: called.append(True))
    lab.fit(Budget(steps=1))
    assert called == [True]
