import torch

from aligndetr.losses.regions import RegionCriterion
from aligndetr.types import RegionOutput, Targets

NOTHING = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), (0,))


def test_each_loss_has_its_own_weight() -> None:
    names = ("proposals.objectness", "proposals.box", "regions.class", "regions.box")
    output = RegionOutput({name: torch.tensor(float(10**row)) for row, name in enumerate(names)})
    criterion = RegionCriterion(
        objectness_weight=1.0, proposal_box_weight=2.0, class_weight=3.0, box_weight=0.0
    )
    losses = criterion(output, NOTHING, num_targets=7.0)
    assert list(losses) == list(names)
    assert [float(value) for value in losses.values()] == [1.0, 20.0, 300.0, 0.0]
    assert RegionCriterion()(output, NOTHING) == output.losses
