"""The predictor of quality: scales, regressors, their ensemble, features, the additive prior."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_cases import ChainCosts, chain_context, space_of

from autoprune.predictor.additive import (
    AdditiveModel,
    Probe,
    additive_front,
    fit_additive,
    spread_rows,
)
from autoprune.predictor.ensemble import GP_LIMIT, LEAST_WEIGHT, MEMBERS, Ensemble, member_weights
from autoprune.predictor.features import Choice, Encoder
from autoprune.predictor.members import GaussianProcess, Trees
from autoprune.predictor.targets import Target
from autoprune.search.encoding import encoder_of
from autoprune.search.genome import Genome
from autoprune.tasks.protocol import MetricSpec

Floats = npt.NDArray[np.float64]
INF = math.inf

SPECS = {
    "accuracy": (MetricSpec("accuracy", "max", (0.0, 1.0)), 0.97, (0.02, 0.99)),
    "percent_error": (MetricSpec("percent_error", "min", (0.0, 100.0)), 3.0, (0.5, 98.0)),
    "perplexity": (MetricSpec("perplexity", "min", (1.0, INF)), 9.0, (1.001, 1e6)),
    "r2": (MetricSpec("r2", "max", (-INF, 1.0)), 0.9, (-1e4, 0.999)),
    "utility": (MetricSpec("utility", "max", (-INF, INF)), -4.0, (-1e4, 1e4)),
    "energy": (MetricSpec("energy", "min", (-INF, INF)), 0.0, (-1e4, 1e4)),
}
each_metric = pytest.mark.parametrize("name", SPECS)


def target(name: str) -> Target:
    spec, dense, _ = SPECS[name]
    return Target(spec, dense)


@each_metric
@given(share=st.floats(0.0, 1.0))
@settings(max_examples=60, derandomize=True, deadline=None)
def test_values_come_back_from_the_learned_scale(name: str, share: float) -> None:
    low, high = SPECS[name][2]
    value = low + share * (high - low)
    assert target(name).values(target(name).learned([value])) == pytest.approx([value], rel=1e-6, abs=1e-6)


@each_metric
@given(values=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=6))
@settings(max_examples=60, derandomize=True, deadline=None)
def test_worse_values_are_never_learned_as_smaller_and_all_are_finite(name: str, values: list[float]) -> None:
    spec = SPECS[name][0]
    worse_last = sorted(values, reverse=spec.direction == "max")
    learned = target(name).learned(worse_last)
    assert np.isfinite(learned).all()
    assert (np.diff(learned) >= 0.0).all()


@each_metric
def test_the_best_value_is_told_from_a_useless_one(name: str) -> None:
    spec, _, (low, high) = SPECS[name]
    best, worst = (low, high) if spec.direction == "min" else (high, low)
    learned = target(name).learned([best, worst])
    assert learned[1] - learned[0] > 1.0
    assert np.isfinite(target(name).values([-1e9, 1e9])).all()


def data(n: int = 60, width: int = 5, seed: int = 0) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    features = rng.uniform(0.0, 1.0, (n, width))
    return features, features.sum(axis=1) + features[:, 0] ** 2


def hard_data() -> dict[str, tuple[Floats, Floats]]:
    features, values = data(20)
    constant = features.copy()
    constant[:, 1:4] = 0.3
    return {
        "usual": (features, values),
        "constant columns": (constant, values),
        "nothing varies": (np.ones((6, 3)), np.ones(6)),
        "constant target": (features, np.zeros(20)),
        "two rows": (features[:2], values[:2]),
        "rows repeated": (np.repeat(features[:4], 6, axis=0), np.repeat(values[:4], 6) + np.tile([0.0, 0.01], 12)),
        "one feature": (features[:, :1], values),
        "more features than rows": (data(8, 120)),
        "large numbers": (1e7 * features, 1e5 * values),
    }


@pytest.mark.parametrize("case", hard_data())
@pytest.mark.parametrize("name", MEMBERS)
def test_regressors_give_finite_means_and_positive_deviations(name: str, case: str) -> None:
    features, values = hard_data()[case]
    member = MEMBERS[name](0).fit(features, values)
    asked = np.vstack([features, features.mean(axis=0) + 3.0])
    mean, std = member.predict(asked)
    assert mean.shape == std.shape == (len(asked),)
    assert np.isfinite(mean).all()
    assert np.isfinite(std).all()
    assert (std > 0.0).all()
    again = MEMBERS[name](0).fit(features, values).predict(asked)
    assert (mean == again[0]).all()
    assert (std == again[1]).all()


@pytest.mark.parametrize("name", MEMBERS)
def test_regressors_predict_unseen_rows_of_a_smooth_function(name: str) -> None:
    features, values = data(100)
    mean, std = MEMBERS[name](0).fit(features[:80], values[:80]).predict(features[80:])
    assert np.corrcoef(mean, values[80:])[0, 1] > 0.8
    assert std.mean() < 3.0 * values.std()


def test_trees_differ_by_seed() -> None:
    features, values = data()
    first, other = (Trees(seed).fit(features, values).predict(features)[0] for seed in (0, 1))
    assert (first != other).any()


def test_a_gaussian_process_is_less_sure_far_from_what_it_saw() -> None:
    features, values = data()
    model = GaussianProcess().fit(features, values)
    near, far = model.predict(features[:5])[1], model.predict(features[:5] + 2.0)[1]
    assert (far > 2.0 * near).all()


def test_an_ensemble_is_the_weighted_mean_of_its_members_and_disagreement_widens_it() -> None:
    features, values = data()
    weights = {"trees": 3.0, "ridge": 1.0}
    model = Ensemble(weights=weights, names=("trees", "ridge")).fit(features, values)
    asked = features + 1.5
    found = model.predict(asked)
    assert found.mean == pytest.approx(0.75 * found.members["trees"] + 0.25 * found.members["ridge"])
    own = np.array([member.predict(asked)[1] for member in model.members_.values()])
    disagreement = np.abs(found.members["trees"] - found.members["ridge"])
    assert (found.std**2 >= np.array([0.75, 0.25]) @ own**2 + 0.18 * disagreement**2).all()


def test_members_without_weight_have_no_say_and_all_have_the_same_where_none_has_any() -> None:
    features, values = data(20)
    ridge = MEMBERS["ridge"](0).fit(features, values).predict(features)[0]
    names = ("trees", "ridge")
    alone = Ensemble(weights={"trees": 0.0}, names=names).fit(features, values)
    assert alone.predict(features).mean == pytest.approx(ridge)
    none = Ensemble(weights={"trees": 0.0, "ridge": 0.0}, names=names).fit(features, values)
    assert none.share_.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("n", [GP_LIMIT, GP_LIMIT + 1])
def test_the_gaussian_process_takes_part_up_to_300_points(n: int) -> None:
    features, values = data(n, 2)
    model = Ensemble(names=("ridge", "gp")).fit(features, values)
    assert ("gp" in model.members_) == (n <= GP_LIMIT)
    weights = member_weights(features, values, np.ones(n), seed=0)
    assert ("gp" in weights) == (n <= GP_LIMIT)


def test_members_weigh_as_much_as_they_order_unseen_points_of_equal_cost() -> None:
    features, values = data(90, 12, seed=3)
    values = features @ np.linspace(-1.0, 1.0, 12)
    weights = member_weights(features, values, np.ones(90), seed=0)
    assert weights["ridge"] == pytest.approx(0.5, abs=0.02)
    assert LEAST_WEIGHT <= weights["trees"] < weights["ridge"]
    untold = member_weights(features, values, 10.0 ** np.arange(90.0), seed=0)
    assert set(untold.values()) == {LEAST_WEIGHT}


def encoder(*choices: Choice, additive: AdditiveModel | None = None) -> Encoder:
    widths = np.array([[8, 4, 2], [6, 3, 3]])
    return Encoder(widths, np.array([8, 6]), choices, ChainCosts(), additive)


def test_features_tell_shares_costs_and_choices() -> None:
    rows = np.array([[0, 0, 0, 0], [1, 2, 2, 3]])
    criterion, steps = Choice(2, 3, ordered=False), Choice(3, 4, ordered=True)
    found = encoder(criterion, steps)(rows)
    costs, widths = ChainCosts(), [[8, 6], [4, 3]]
    logs = np.log([costs.macs(widths), costs.parameters(widths)]).T
    assert found[:, :2].tolist() == [[1.0, 1.0], [0.5, 0.5]]
    assert found[:, 2:6].tolist() == [[1, 0, 0, 0], [0, 0, 1, 1]]
    assert found[:, 6:8] == pytest.approx(logs)
    assert found[:, 8:].tolist() == [[1.0, 1.0], [0.5, 0.5]]


def test_choices_of_groups_are_the_share_of_removed_units_that_each_value_decides_on() -> None:
    first, second = Choice(2, 2, ordered=False, group=0), Choice(3, 2, ordered=False, group=1)
    found = encoder(first, second)(np.array([[2, 1, 0, 1], [2, 1, 1, 1], [0, 0, 1, 1]]))[:, 2:4]
    assert found == pytest.approx(np.array([[0.375, 0.25], [0.0, 0.625], [0.0, 0.0]]))


def test_one_criterion_is_one_feature_also_where_groups_lack_another() -> None:
    space = space_of(8, 8, levels=3, criteria=("bn_scale", "l1", "l2"), norms=(True, False), per_group=True)
    genome, context = Genome(space), chain_context(space)
    flat = AdditiveModel(np.zeros((2, 3)))
    chosen = {"level/layer0": 2, "level/layer1": 2, "criterion/layer0": "l2", "criterion/layer1": "l2"}
    row = genome.encode(chosen)
    assert row is not None
    found = encoder_of(genome, context, flat)(row[None])[0]
    removed = 1.0 - genome.widths(row[None])[0] / 8.0
    assert found[2:5] == pytest.approx([0.0, 0.0, removed.mean()])


def test_features_end_with_the_additive_terms_that_saturate() -> None:
    model = AdditiveModel(np.array([[0.0, 1.0, 50.0], [0.0, 2.0, 2.0]]))
    found = encoder(additive=model)(np.array([[1, 1], [2, 0]]))
    plain = encoder()(np.array([[1, 1], [2, 0]]))
    assert found[:, : plain.shape[1]] == pytest.approx(plain)
    total, largest = [3.0, 50.0], [2.0, 50.0]
    grown = [math.log1p(math.expm1(1.0) + math.expm1(2.0)), 6.0]
    assert found[:, plain.shape[1] :] == pytest.approx(np.array([total, largest, grown, [1.0, 6.0], [2.0, 0.0]]).T)


SHARES = np.array([[0.0, 0.25, 0.5, 0.75], [0.0, 0.2, 0.6, 0.6], [0.0, 0.3, 0.5, 0.9]])


def test_a_power_law_passes_its_probe_and_grows_along_the_levels() -> None:
    model = fit_additive(SHARES, [Probe(0, 0.75, 2.0), Probe(1, 0.6, 0.3), Probe(2, 0.9, -1.0)])
    assert model.curves[0, 3] == pytest.approx(2.0)
    assert model.curves[1, 2] == model.curves[1, 3] == pytest.approx(0.3)
    assert (model.curves[:, 0] == 0.0).all()
    assert (np.diff(model.curves, axis=1) >= 0.0).all()
    assert model.curves[0, 1] == pytest.approx(2.0 * (1 / 3) ** 2.5)
    assert model.curves[2, 3] > 0.0


def test_two_probes_of_a_group_give_its_power() -> None:
    model = fit_additive(SHARES[:1], [Probe(0, 0.25, 0.1), Probe(0, 0.5, 0.8)])
    assert model.curves[0] == pytest.approx([0.0, 0.1, 0.8, 0.1 * 3**3])


def test_a_group_that_was_not_probed_takes_the_mean_of_the_others() -> None:
    shares = np.array([np.linspace(0.0, 0.9, 19)] * 3)
    model = fit_additive(shares, [Probe(0, 0.5, 1.0), Probe(2, 0.5, 3.0)])
    assert model.curves[1] == pytest.approx(model.curves[[0, 2]].mean(axis=0))
    assert model.curves[1, 10] == pytest.approx(2.0)


def test_without_any_probe_groups_lose_what_is_removed() -> None:
    assert (fit_additive(SHARES, []).curves == SHARES).all()


def small_models(seed: int) -> list[AdditiveModel]:
    rng = np.random.default_rng(seed)
    return [AdditiveModel(np.cumsum(rng.uniform(0.0, 1.0, (3, 4)), axis=1) * rng.uniform(0.1, 3.0)) for _ in range(2)]


@pytest.mark.parametrize("seed", range(4))
def test_the_additive_front_is_the_best_of_all_where_costs_separate(seed: int) -> None:
    models, weights = small_models(seed), np.geomspace(0.05, 5.0, 5)

    def log_cost(rows: npt.NDArray[np.int64]) -> Floats:
        return np.asarray(-(rows * [1.0, 0.5, 0.2]).sum(axis=1))

    sizes = np.array([4, 3, 4])
    everything = np.array(list(itertools.product(*map(range, sizes))))
    wanted = set()
    for model, weight in itertools.product(models, weights):
        value = model.terms(everything).sum(axis=1) + weight * log_cost(everything)
        wanted.add(tuple(everything[value.argmin()].tolist()))
    found = additive_front(models, sizes, log_cost, weights, np.random.default_rng(seed))
    assert {tuple(row) for row in found.tolist()} == wanted
    assert len(found) == len(wanted)


@pytest.mark.parametrize("seed", range(4))
def test_no_single_change_betters_the_additive_front_where_costs_do_not_separate(seed: int) -> None:
    model, costs, table = small_models(seed)[0], ChainCosts(), np.array([9, 6, 3, 1])

    def log_cost(rows: npt.NDArray[np.int64]) -> Floats:
        return np.asarray(np.log(costs.macs(table[rows])))

    for weight in (0.2, 2.0):

        def value(rows: npt.NDArray[np.int64], weight: float = weight) -> Floats:
            return np.asarray(model.terms(rows).sum(axis=1) + weight * log_cost(rows))

        front = additive_front([model], np.array([4, 4, 4]), log_cost, np.array([weight]), np.random.default_rng(seed))
        for group, level in itertools.product(range(3), range(4)):
            changed = front.copy()
            changed[:, group] = level
            assert (value(changed) >= value(front) - 1e-12).all()


def test_rows_are_spread_evenly_over_log_cost_with_both_ends() -> None:
    rows, cost = np.arange(50)[:, None], np.linspace(0.0, -4.9, 50)
    assert spread_rows(rows, cost, 5)[:, 0].tolist() == [0, 12, 24, 37, 49]
    assert sorted(spread_rows(rows[:3], cost[:3], 5)[:, 0].tolist()) == [0, 1, 2]
    crowded = np.concatenate([np.zeros(40), [-1.0, -2.0]])
    found = spread_rows(np.arange(42)[:, None], crowded, 4)[:, 0]
    assert len(set(found.tolist())) == 4
    assert {40, 41} <= set(found.tolist())
