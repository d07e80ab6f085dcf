"""What each type of error costs in AP50, by TIDE's definitions (arXiv:2008.08115, section 2).

Predictions that COCO counts at IoU .5 (at most 100 of a class an image, none that it ignores) are
hits or false positives. A false positive is the first of these that applies, by its highest IoU:

- **localisation**: in [.1, .5) with objects of its own class;
- **classification**: at least .5 with an object of another class;
- **duplicate**: at least .5 with an object of its own class, which a better one has taken;
- **background**: below .1 with all objects;
- **both**: what is left, a wrong class and a poor box.

**Missed** objects are those without a hit that no localisation or classification error points at.

Mending is done to one type at a time. A localisation or classification error becomes a hit of the
object that it overlaps most (of its class; of another class), in that object's class and with its
own score, if the object has no hit yet and no more confident error of the type points at it; else
it goes. Duplicates, background and both go. Missed objects no longer count as objects.
`false_positive`: all false positives go; `false_negative`: all objects without a hit no longer
count.

The gain is AP50 after minus AP50 before, never below 0. AP50 is the mean over the classes that have
objects; one whose objects all cease to count has AP 0, as in TIDE. Differences to TIDE's own code:
it takes 100 predictions an image of all classes together, counts classes without objects, and lets
localisation and classification errors compete for an object.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from aligndetr.analyze.average_precision import Matches, Ranking, every_image_once
from aligndetr.analyze.bootstrap import Number
from aligndetr.analyze.overlaps import ANY, OTHER, OWN, Overlaps
from aligndetr.analyze.record import Bools, Ints, Record

FOREGROUND, BACKGROUND = 0.5, 0.1
AT_50_BIT = 1


@dataclass(frozen=True)
class ErrorTypes:
    """AP50 gained by mending each type alone, and how many errors there are of the main types."""

    gains: Mapping[str, Number]
    counts: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class _Version:
    """Predictions and objects of a record, some of them mended.

    `labels`, `hits`, `kept` (D,); `objects` (O,) those that count.
    """

    labels: Ints
    hits: Bools
    kept: Bools
    objects: Bools

    def ap50(self, record: Record, by_score: Ints) -> Number:
        """Return the mean over all classes of the record that have objects.

        `by_score` (D,) are the predictions, the most confident of all images first.
        """
        kept = by_score[self.kept[by_score]]
        labels = self.labels[kept]
        order = np.argsort(labels.astype(record.short_labels.dtype), kind="stable")
        objects = record.objects.where(self.objects)
        object_order = np.argsort(objects.labels, kind="stable")
        classes = np.arange(len(record.classes) + 1)
        hits = self.hits[kept[order]].astype(np.uint16)
        ranking = Ranking(
            np.searchsorted(labels[order], classes).astype(np.int64),
            record.predictions.images[kept[order]].astype(np.int32),
            hits,
            np.zeros_like(hits),
            np.searchsorted(objects.labels[object_order], classes).astype(np.int64),
            objects.images[object_order].astype(np.int32),
            thresholds=1,
        )
        present = np.unique(record.objects.labels)
        if len(present) == 0:
            return None
        values = ranking.average_precisions(every_image_once(record))[0, present, 0]
        return float(np.nan_to_num(values).mean())


def error_types(record: Record, overlaps: Overlaps, matches: Matches) -> ErrorTypes:
    """Return the cost and number of each type of error.

    Args:
        record: The data.
        overlaps: Of the record.
        matches: Of all sizes, by confidence.
    """
    counted = matches.ignored & AT_50_BIT == 0
    hits = matches.hits & AT_50_BIT != 0
    found = np.zeros(len(record.regions), np.bool_)
    found[matches.partner[hits]] = True
    start = _Version(record.predictions.labels, hits, counted, found[~record.regions.crowd])
    kinds = _kinds(overlaps, counted & ~hits)
    missed = ~start.objects
    for kind, column in (("localisation", OWN), ("classification", OTHER)):
        missed[overlaps.object[kinds[kind], column]] = False
    counts = {kind: int(errors.sum()) for kind, errors in {**kinds, "missed": missed}.items()}
    versions = _mended(record, overlaps, start, kinds, missed)
    by_score = np.argsort(-record.predictions.scores, kind="stable")
    after = {kind: version.ap50(record, by_score) for kind, version in versions.items()}
    before = after.pop("none")
    return ErrorTypes({kind: _gain(value, before) for kind, value in after.items()}, counts)


def _gain(after: Number, before: Number) -> Number:
    return None if after is None or before is None else max(after - before, 0.0)


def _kinds(overlaps: Overlaps, false: Bools) -> dict[str, Bools]:
    """Return which of the false positives (D,) are of which type."""
    own, other = overlaps.iou[:, OWN], overlaps.iou[:, OTHER]
    tests = {
        "localisation": (own >= BACKGROUND) & (own < FOREGROUND),
        "classification": other >= FOREGROUND,
        "duplicate": own >= FOREGROUND,
        "background": overlaps.iou[:, ANY] < BACKGROUND,
        "both": np.ones_like(false),
    }
    kinds: dict[str, Bools] = {}
    left = false
    for kind, test in tests.items():
        kinds[kind] = left & test
        left = left & ~test
    return kinds


def _mended(
    record: Record,
    overlaps: Overlaps,
    start: _Version,
    kinds: Mapping[str, Bools],
    missed: Bools,
) -> dict[str, _Version]:
    """Return the versions of the record by what was mended; `start` knows the found objects."""
    every = np.ones_like(missed)
    labels, hits, kept, found = start.labels, start.hits, start.kept, start.objects
    versions = {"none": _Version(labels, hits, kept, every)}
    for kind, column in (("localisation", OWN), ("classification", OTHER)):
        errors = np.flatnonzero(kinds[kind])
        targets = overlaps.object[errors, column]
        free = ~found[targets]
        things, first = np.unique(targets[free], return_index=True)  # the most confident of each
        mended = errors[free][first]
        new_labels, new_hits, new_kept = labels.copy(), hits.copy(), kept & ~kinds[kind]
        new_labels[mended] = record.objects.labels[things]
        new_hits[mended], new_kept[mended] = True, True
        versions[kind] = _Version(new_labels, new_hits, new_kept, every)
    for kind in ("duplicate", "background", "both"):
        versions[kind] = _Version(labels, hits, kept & ~kinds[kind], every)
    versions["missed"] = _Version(labels, hits, kept, ~missed)
    versions["false_positive"] = _Version(labels, hits, hits, every)
    versions["false_negative"] = _Version(labels, hits, kept, found)
    return versions
