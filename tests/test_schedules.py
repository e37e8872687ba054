"""When the cuts fall: schedules in numbers and in training, what is taken back, and what comes back."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from criteria_cases import by_hand, linear, square_task
from hypothesis import given
from hypothesis import strategies as st
from pruning_cases import Case, case, case_of, mlp, mute_case, quiet, recovery, same_state, sparsified, taught_case
from torch import nn

from autoprune.errors import ConfigError
from autoprune.policy import Amount, Policy, Strategy
from autoprune.pruning.criteria import CriterionContext
from autoprune.pruning.regrowth import REGROWTHS, RegrowthContext, Returns, exchanged
from autoprune.pruning.schedules import SCHEDULES, cut_steps
from autoprune.tasks import ClassificationTask, LabelledArrays

PROGRESS = st.floats(1e-3, 1.0)


@pytest.mark.parametrize("name", SCHEDULES)
class TestEverySchedule:
    @given(PROGRESS, PROGRESS)
    def test_never_falls(self, name: str, one: float, other: float) -> None:
        early, late = sorted((one, other))
        assert 0.0 < SCHEDULES[name](early) <= SCHEDULES[name](late) <= 1.0

    def test_ends_at_the_target(self, name: str) -> None:
        assert SCHEDULES[name](1.0) == 1.0


@given(PROGRESS)
def test_the_closed_forms_of_the_schedules(progress: float) -> None:
    assert SCHEDULES["cubic"](progress) == pytest.approx(3 * progress - 3 * progress**2 + progress**3)
    assert SCHEDULES["iterative"](progress) == SCHEDULES["dynamic"](progress) == progress
    assert SCHEDULES["one_shot"](progress) == 1.0


@given(st.integers(1, 60), st.integers(1, 20))
def test_cuts_fall_before_different_steps_from_the_first_on(steps: int, rounds: int) -> None:
    cuts = cut_steps(steps, rounds)
    assert cuts[0] == 0
    assert len(set(cuts)) == len(cuts) == min(steps, rounds)
    assert cuts == sorted(cuts)
    assert cuts[-1] < steps


def zeros_while_training(schedule: str, steps: int = 16) -> list[int]:
    """Return how many of 48 weights are zero after each step; half of the steps lie before the last cut at least."""
    seen: list[int] = []
    of = mute_case()
    policy = Policy({"0.weight": 0.75}, quiet(granularity="weight", schedule=schedule, rounds=4))

    def count(model: nn.Module, step: int) -> None:
        assert step == len(seen)
        seen.append(int((model.get_parameter("0.weight") == 0).sum()))

    one = of.pruner.prune(policy, recovery(steps, on_step=count))
    assert int((one.model.get_parameter("0.weight") == 0).sum()) == 36
    return seen


WHEN = {"iterative": (9, 18, 27, 36), "cubic": (21, 32, 35, 36), "one_shot": (36, 36, 36, 36)}


@pytest.mark.parametrize("name", WHEN)
def test_a_schedule_cuts_in_its_own_turns(name: str) -> None:
    first, second, third, last = WHEN[name]
    assert zeros_while_training(name) == [first, second, second, third, third, *[last] * 11]


@pytest.mark.parametrize("steps", [2, 4, 5, 7])
@pytest.mark.parametrize("name", ["iterative", "cubic", "dynamic"])
def test_a_training_shorter_than_the_rounds_still_reaches_the_target(name: str, steps: int) -> None:
    policy = Policy({"stem": 0.5, "wide": 0.75}, quiet(schedule=name, tolerance=1.0))
    alive = case("cnn").pruner.prune(policy, recovery(steps)).alive
    assert (alive[:16].sum(), alive[16:32].sum(), alive[32:].sum()) == (8, 16, 8)


@pytest.mark.parametrize("kind", ["sparsity", "macs", "threshold"])
@pytest.mark.parametrize("scope", ["local", "global"])
def test_units_go_in_turns_and_never_come_back_without_regrowth(kind: str, scope: str) -> None:
    gone: list[np.ndarray] = []

    def watch(model: nn.Module, step: int) -> None:
        norms = ("norm", "inner_norm", "wide_norm")
        gone.append(np.concatenate([(model.get_parameter(f"{n}.weight") == 0).numpy() for n in norms]))

    strategy = Strategy(schedule="iterative", scope=scope, learning_rate=0.2)
    amount = Amount.of(kind, {"sparsity": 0.5, "macs": 0.5, "threshold": 1.3}[kind])
    of = case("cnn")
    found = sparsified(of, Policy({}, strategy, amount=amount), 15, on_step=watch)
    counts = [int(g.sum()) for g in gone]
    assert len(set(counts)) > 2
    assert all((later >= earlier).all() for earlier, later in pairwise(gone))
    assert (found.choice.alive == ~gone[-1]).all()
    assert found.reached == 1.0


HARSH = {"stem": 0.9, "inner": 0.9, "wide": 0.9}


def rolls_back(schedule: str) -> None:
    of = case("cnn")
    policy = Policy(HARSH, quiet(schedule=schedule, tolerance=0.0, rounds=2))
    found = sparsified(of, policy, 4)
    assert found.notes == ("2 cuts lost more than the tolerance and were taken back: 0% is cut.",)
    assert found.reached == 0.0
    assert found.choice.alive.all()
    weights = {n: p.detach() for n, p in found.model.named_parameters()}
    assert same_state(weights, {n: p.detach() for n, p in of.dense.named_parameters()})


def test_a_dynamic_schedule_takes_back_what_loses_too_much() -> None:
    rolls_back("dynamic")
    with pytest.raises(AssertionError):
        rolls_back("iterative")


def test_a_dynamic_schedule_with_patience_ends_at_the_target() -> None:
    of = case("cnn")
    found = sparsified(of, Policy(HARSH, quiet(schedule="dynamic", tolerance=1.0, rounds=2)), 4)
    assert (found.notes, found.reached) == ((), 1.0)
    widths = [int(found.choice.alive[g.start : g.start + g.width].sum()) for g in of.groups.groups]
    assert widths == [2, 2, 3]


def test_a_dynamic_schedule_keeps_the_cuts_that_cost_nothing() -> None:
    model = mlp(np.vstack([0.1 * np.ones((4, 4)), np.eye(4)]), np.hstack([np.zeros((4, 4)), 4.0 * np.eye(4)]))
    of = taught_case(model, np.random.default_rng(0).normal(size=(400, 4)))
    found = sparsified(of, Policy({"0": 0.75}, quiet(schedule="dynamic", tolerance=0.0, rounds=3)), 6)
    assert found.choice.alive.tolist()[4:] == [True] * 4
    assert 0.0 < found.reached < 1.0
    assert len(found.notes) == 1


def needed() -> Case:
    """Return a net whose first unit has the smallest weights and decides the class."""
    rng = np.random.default_rng(0)
    hidden = np.vstack([[0.05, 0.0, 0.0], rng.normal(size=(39, 3)) + 2.0])
    out = np.vstack([np.zeros(40), 0.001 * rng.normal(size=40)])
    out[:, 0] = 0.0, 200.0
    out[0, 1:] += 0.002
    x = rng.normal(size=(400, 3))
    return case_of(ClassificationTask(mlp(hidden, out), LabelledArrays(x, (x[:, 0] > 0).astype(int))))


def comes_back(regrowth: str) -> None:
    of = needed()
    policy = Policy({"0": 0.5}, quiet(schedule="iterative", regrowth=regrowth, rounds=2))
    there: list[bool] = []
    found = sparsified(of, policy, 8, on_step=lambda model, _: there.append(bool(model[0].weight[0].any())))
    assert there == [False] * 3 + [True] * 5
    assert found.choice.alive[0]
    assert found.choice.alive.sum() == 20
    for name, dim in (("0.weight", 0), ("2.weight", 1)):
        now, before = (m.get_parameter(name).detach().select(dim, 0) for m in (found.model, of.dense))
        torch.testing.assert_close(now, before, rtol=1e-4, atol=1e-6)


def test_a_unit_that_went_wrongly_comes_back_with_the_weights_that_it_had() -> None:
    comes_back("gradient")
    with pytest.raises(AssertionError):
        comes_back("none")


ROWS = torch.tensor([[3.0, -4.0], [1.0, 1.0], [0.5, 2.0]])


def regrown(model: nn.Module, x: np.ndarray, alive: np.ndarray, masks: dict[str, torch.Tensor]) -> Returns:
    """Score what a return would bring to a linear layer whose loss is half its mean squared output."""
    scoring = CriterionContext(model, by_hand(model, 3, {"0.weight": 0}), square_task(x, batch_size=len(x)), 0)
    found = REGROWTHS["gradient"](RegrowthContext(scoring, {"0.weight": ROWS}, alive, masks))
    assert found is not None
    return found


def moment(x: np.ndarray) -> np.ndarray:
    """Return [2, 2] the mean outer product of the calibration inputs."""
    (batch,) = square_task(x, batch_size=len(x)).batches("calibration", seed=0)
    return (batch[0].T @ batch[0]).double().numpy() / len(batch[0])


def test_the_return_of_a_weight_brings_the_size_of_its_gradient_at_zero() -> None:
    x = np.random.default_rng(0).normal(size=(60, 2))
    mask = torch.tensor([[True, False], [True, True], [False, True]])
    found = regrown(linear((ROWS * mask).tolist()), x, np.ones(3, dtype=bool), {"0.weight": mask})
    expected = np.abs((ROWS * mask).double().numpy() @ moment(x) / 3)
    assert found.weights["0.weight"].numpy() == pytest.approx(expected, rel=1e-4)


def test_the_return_of_a_unit_brings_the_slope_of_the_loss_along_its_weights() -> None:
    x = np.random.default_rng(0).normal(size=(60, 2))
    alive = np.array([True, False, True])
    units = regrown(linear((ROWS * torch.from_numpy(alive)[:, None]).tolist()), x, alive, {}).units
    along = np.einsum("ui,ij,uj->u", ROWS.double().numpy(), moment(x), ROWS.double().numpy()) / 3
    assert units == pytest.approx(np.where(alive, -along, 0.0), rel=1e-4, abs=2e-3 * along[1])
    assert units[1] < 0.0


def test_returns_take_the_places_of_the_weakest_and_fewer_return_the_later_it_is() -> None:
    before = np.array([False] * 10 + [True] * 10)
    kept = np.array([False] * 12 + [True] * 8)
    scores, returns = np.arange(20.0), np.linspace(-1.0, 1.0, 20)
    returns[:10] = [0.5, 0.0, -1.0, 0.9, 0.8, -2.0, 0.1, 0.2, 0.3, 0.4]
    early = exchanged(kept, before, scores, returns, 0.2)
    assert np.flatnonzero(early & ~kept).tolist() == [3, 4]
    assert np.flatnonzero(kept & ~early).tolist() == [12, 13]
    assert (exchanged(kept, before, scores, returns, 1.0) == kept).all()
    assert (exchanged(kept, before, scores, -np.abs(returns), 0.2) == kept).all()


def test_single_weights_return_under_a_schedule_too() -> None:
    of = needed()
    policy = Policy({"2.weight": 0.9, "0.weight": 0.1}, quiet(granularity="weight", schedule="iterative",
                                                              regrowth="gradient", rounds=4))  # fmt: skip
    found = sparsified(of, policy, 8)
    assert {n: int((~m).sum()) for n, m in found.choice.masks.items()} == {"0.weight": 12, "2.weight": 72}
    kept = case_of(of.task).pruner.cut(Policy({"2.weight": 0.9, "0.weight": 0.1}, quiet(granularity="weight")))
    assert any(not torch.equal(found.choice.masks[n], kept.masks[n]) for n in kept.masks)


@pytest.mark.parametrize("granularity", ["depth", "norm", "bias"])
def test_what_is_edited_has_no_schedule(granularity: str) -> None:
    policy = Policy({f"@{granularity}": 0.5}, Strategy("contribution", schedule="cubic"))
    with pytest.raises(ConfigError, match="done once"):
        case("parts").pruner.cut(policy)
