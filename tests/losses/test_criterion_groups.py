import pytest
import torch
from torch.testing import assert_close

from aligndetr.losses.classification import IABCE
from aligndetr.losses.criterion import Criterion
from aligndetr.types import Assignment, DetectorOutput, QueryGroup, Targets
from predictions import TERMS, output_of, random_layer, random_targets


def known(*triples: tuple[int, int, int]) -> Assignment:
    return Assignment(*torch.tensor(triples, dtype=torch.int64).view(-1, 3).unbind(1))


def test_known_pairs_need_no_matching_and_have_no_prime_weight() -> None:
    # Two blocks of one positive and one negative query for the only object, twice a layer.
    layer, targets = random_layer(1, 10), random_targets((1,))
    pairs = known((0, 0, 0), (0, 2, 0))
    denoising = QueryGroup("denoising", (0, 4), copies=2, blocks=2, known=pairs)
    main = QueryGroup("main", (4, 10))
    output = DetectorOutput((layer, layer), (denoising, main))
    losses = Criterion(classification=IABCE(), k=3)(output, targets)
    assigned = Criterion(k=3).assign(output, targets)

    difference = (layer.boxes[0, [0, 2]] - targets.boxes).abs().sum()
    for depth in (0, 1):
        assert_close(losses[f"denoising.{depth}.l1"], 5 * difference / 2)
        assert assigned[f"denoising.{depth}"].query.tolist() == [0, 2]
    alone = Criterion(classification=IABCE(), k=3)(output_of(*[layer.span(4, 10)] * 2), targets)
    for name, value in alone.items():
        assert_close(losses[name], value)


def test_unmatched_denoising_queries_are_background() -> None:
    layer, targets = random_layer(1, 4), random_targets((1,))
    group = QueryGroup("denoising", (0, 4), known=known())
    losses = Criterion(classification=IABCE())(DetectorOutput((layer,), (group,)), targets)
    s = layer.logits.detach().sigmoid()

    assert_close(losses["denoising.0.class"].detach(), -(s**2 * (1 - s).log()).sum())
    assert losses["denoising.0.l1"] == 0


@pytest.mark.parametrize("counts", [(0, 0), (2, 1)])
def test_a_denoising_group_without_queries_has_losses_of_zero(counts) -> None:
    layer = random_layer(2, 5)
    groups = (QueryGroup("denoising", (0, 0), known=known()), QueryGroup("main", (0, 5)))
    losses = Criterion()(DetectorOutput((layer,), groups), random_targets(counts))

    for term in TERMS:
        assert losses[f"denoising.0.{term}"] == 0
        assert losses[f"denoising.0.{term}"].requires_grad


def test_a_group_with_copies_matches_each_object_that_often() -> None:
    # H-DETR's one-to-many group: the loss is that of repeated targets.
    layer, targets = random_layer(2, 20), random_targets((2, 1))
    group = QueryGroup("many", (0, 20), copies=3)
    output = DetectorOutput((layer, layer), (group,))
    losses = Criterion(k=2)(output, targets)
    repeated = Targets.pack(
        [boxes.repeat(3, 1) for boxes in targets.boxes.split(targets.counts)],
        [labels.repeat(3) for labels in targets.labels.split(targets.counts)],
    )
    expected = Criterion()(output_of(layer, layer), repeated)

    for name, value in losses.items():
        assert_close(value, expected[name.replace("many", "main")])


def test_prime_weights_in_a_group_with_copies_are_optional() -> None:
    layer, targets = random_layer(1, 20), random_targets((2,))
    output = DetectorOutput((layer,), (QueryGroup("many", (0, 20), copies=3),))
    off, on = (Criterion(prime=prime)(output, targets) for prime in ("main", "matched"))
    as_k = Criterion(k=3)(output_of(layer, layer), targets)

    assert_close(on["many.0.l1"] * 3, as_k["main.0.l1"])
    assert off["many.0.l1"] > on["many.0.l1"]


def test_blocks_are_supervised_as_groups_of_their_own() -> None:
    # Group-DETR: three blocks, each one-to-one; prime weights never compare between blocks.
    layer, targets = random_layer(2, 12), random_targets((2, 1))
    group = QueryGroup("blocks", (0, 12), copies=3, blocks=3, weight=0.5)
    losses = Criterion(prime="matched")(DetectorOutput((layer,), (group,)), targets)
    parts = [Criterion()(output_of(layer.span(start, start + 4)), targets) for start in (0, 4, 8)]

    for term in TERMS:
        mean = torch.stack([part[f"main.0.{term}"] for part in parts]).mean()
        assert_close(losses[f"blocks.0.{term}"], 0.5 * mean)


@pytest.mark.parametrize("prime", ["main", "matched"])
def test_blocks_may_have_copies_of_each_object(prime) -> None:
    # Two blocks in which three queries answer for each object: the mean of two groups of copies.
    layer, targets = random_layer(2, 24), random_targets((2, 1))
    group = QueryGroup("extra", (0, 24), copies=6, blocks=2, weight=3.0)
    criterion = Criterion(classification=IABCE(), prime=prime)
    output = DetectorOutput((layer,), (group,))
    losses = criterion(output, targets)
    single = QueryGroup("extra", (0, 12), copies=3)
    parts = [
        criterion(DetectorOutput((layer.span(start, start + 12),), (single,)), targets)
        for start in (0, 12)
    ]

    for term in TERMS:
        mean = torch.stack([part[f"extra.0.{term}"] for part in parts]).mean()
        assert_close(losses[f"extra.0.{term}"], 3.0 * mean)
    pairs = criterion.assign(output, targets)["extra.0"]
    for block in (0, 1):
        own = pairs.target[pairs.query // 12 == block]
        assert torch.bincount(own).tolist() == [3, 3, 3]


def test_extra_groups_do_not_touch_the_losses_of_the_main_one() -> None:
    layer, targets = random_layer(2, 18), random_targets((2, 1))
    extra = QueryGroup("extra", (6, 18), copies=2, blocks=2)
    output = DetectorOutput((layer, layer), (QueryGroup("main", (0, 6)), extra))
    losses = Criterion(k=2)(output, targets)
    alone = Criterion(k=2)(output_of(*[layer.span(0, 6)] * 2), targets)

    assert {name.split(".")[0] for name in losses} == {"main", "extra"}
    for name, value in alone.items():
        assert_close(losses[name], value)
    shares = Criterion(k=2).assign(output, targets)  # k is that of the main group alone
    assert {len(shares[f"extra.{depth}"]) for depth in (0, 1)} == {6}


def test_proposals_may_have_another_number_of_queries() -> None:
    layer, proposals = random_layer(1, 6), random_layer(1, 9, seed=1)
    targets = random_targets((2,))
    losses = Criterion(k=2)(output_of(layer, proposals=proposals), targets)
    expected = Criterion()(output_of(proposals), targets)

    for term in TERMS:
        assert_close(losses[f"proposals.{term}"], expected[f"main.0.{term}"])
