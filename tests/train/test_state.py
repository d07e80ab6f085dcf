from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from aligndetr.config.schema import Training
from aligndetr.errors import CheckpointError
from aligndetr.train import state
from aligndetr.train.budget import Budget
from aligndetr.train.optimizer import build_optimizer
from aligndetr.train.state import (
    STATE_FILE,
    Average,
    Position,
    Trained,
    load_state,
    random_state,
    save_state,
)


def trained() -> Trained:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    return Trained(network, build_optimizer(network, Training()), Average(network, 0.9))


def step(trained: Trained) -> None:
    trained.network(torch.randn(4, 2)).square().sum().backward()
    trained.optimizer.step()
    trained.optimizer.zero_grad()
    assert trained.average is not None
    trained.average.update_parameters(trained.network)


def tensors(trained: Trained) -> list[torch.Tensor]:
    assert trained.average is not None
    return [
        *(tensor.clone() for tensor in trained.network.state_dict().values()),
        *(tensor.clone() for tensor in trained.average.state_dict().values()),
    ]


def test_the_average_starts_as_a_copy_and_follows_with_a_rising_decay() -> None:
    network = nn.Linear(1, 1, bias=False)
    average = Average(network, 0.3)
    copy = cast(nn.Linear, average.module)
    expected = 0.0
    for count, value in enumerate([1.0, 2.0, 3.0, 4.0, 5.0]):
        nn.init.constant_(network.weight, value)
        average.update_parameters(network)
        # By hand: the first update copies.
        decay = min(0.3, (1 + count) / (10 + count)) if count else 0.0
        expected = decay * expected + (1 - decay) * value
        assert copy.weight.item() == pytest.approx(expected)


def test_the_average_has_buffers_of_its_own() -> None:
    network = nn.BatchNorm1d(1)
    average = Average(network, 0.5)
    average.update_parameters(network)
    network.running_mean = torch.ones(1)
    average.update_parameters(network)
    (mean, *_) = average.module.buffers()
    assert mean.item() == pytest.approx(1 - 2 / 11)


def test_every_tensor_that_an_update_changes_counts_as_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A folded backbone looks at the counts, which torch's lists of operations may leave alone."""

    def follow_unseen(decay: float) -> Any:
        del decay

        def follow(averages: list[Tensor], current: list[Tensor], _: int) -> None:
            for average, tensor in zip(averages, current, strict=True):
                average.data.copy_(tensor)

        return follow

    monkeypatch.setattr(state, "get_ema_multi_avg_fn", follow_unseen)
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = Average(network, 0.9)
    changed = [*average.module.parameters(), *average.module.buffers()]
    for _ in range(3):
        before = [tensor._version for tensor in changed]
        average.update_parameters(network)
        assert all(tensor._version > count for tensor, count in zip(changed, before, strict=True))


def test_an_average_is_torchs_own() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    mine = Average(network, 0.9)
    own = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(2 / 11), use_buffers=True)
    for _ in range(2):  # the decay of the second update
        network(torch.randn(4, 2))
        nn.init.normal_(cast(Tensor, network[0].weight))
        mine.update_parameters(network)
        own.update_parameters(network)
    torch.testing.assert_close(mine.state_dict(), own.state_dict(), atol=0, rtol=0)


def test_what_is_evaluated_is_the_average_if_there_is_one() -> None:
    both = trained()
    assert both.average is not None
    assert both.evaluated is both.average.module
    assert Trained(both.network, both.optimizer, None).evaluated is both.network


def test_a_restored_training_takes_the_same_steps(tmp_path: Path) -> None:
    first, second = trained(), trained()
    step(first)
    position, budget = Position(step=1, best={"AP": 0.5, "per_class": {}}), Budget(minutes=2)
    save_state(tmp_path, first, position=position, budget=budget, random=[random_state()])
    step(first)
    saved = load_state(tmp_path)
    saved.restore(second, 0)
    step(second)
    assert (saved.position, saved.budget) == (position, budget)
    for one, other in zip(tensors(first), tensors(second), strict=True):
        assert torch.equal(one, other)


def test_another_number_of_processes_cannot_continue(tmp_path: Path) -> None:
    states = [random_state(), random_state()]
    save_state(tmp_path, trained(), position=Position(), budget=Budget(steps=1), random=[*states])
    saved = load_state(tmp_path)
    saved.require_processes(2)
    for count in (1, 3):
        with pytest.raises(CheckpointError, match=f"began this run, 2, found {count}; start it"):
            saved.require_processes(count)


def test_saving_replaces_the_file_and_leaves_no_other(tmp_path: Path) -> None:
    for count in (1, 2):
        save_state(
            tmp_path, trained(), position=Position(step=count), budget=Budget(steps=3), random=[]
        )
    assert load_state(tmp_path).position.step == 2
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["training.pt"]


def test_a_missing_state_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected the state of a training, found none") as e:
        load_state(tmp_path)
    assert "start it again without --resume" in str(e.value)


class Command:
    def __reduce__(self) -> Any:
        return print, ("code that ran",)


@pytest.mark.parametrize("content", [{"position": Command()}, {"position": {"nonsense": 1}}, 3])
def test_a_damaged_state_or_one_with_code_is_refused(
    tmp_path: Path, content: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / STATE_FILE
    path.parent.mkdir()
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="found a file that cannot be read; fine-tune from"):
        load_state(tmp_path)
    assert capsys.readouterr().out == ""


def test_a_cut_state_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path, trained(), position=Position(), budget=Budget(steps=1), random=[])
    path = tmp_path / STATE_FILE
    whole = path.read_bytes()
    for content in (whole[:-200], b""):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="found a file that cannot be read"):
            load_state(tmp_path)
