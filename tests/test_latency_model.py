from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from units import built, traced

from autoprune.errors import ConfigError
from autoprune.predictor import CostModel, LatencyModel

FloatArray = npt.NDArray[np.float64]


@cache
def costs() -> CostModel:
    model, inputs = built("resnet14")
    groups = traced("resnet14")
    return CostModel.of(model, groups, inputs, [group.name for group in groups.groups])


def random_widths(n: int, seed: int) -> FloatArray:
    """Uniformly thin models and uneven ones."""
    rng = np.random.default_rng(seed)
    keep = np.clip(rng.uniform(0.1, 1.0, (n, 1)) + rng.normal(0, 0.2, (n, len(costs().full))), 0.1, 1.0)
    return np.maximum(1.0, np.rint(costs().full * keep))


def blocked_ms(widths: FloatArray, seed: int = 0, noise: float = 0.05) -> FloatArray:
    """A machine with an overhead, blocks of 16 channels and a slower path for odd numbers of inputs."""
    channels, count = costs().channels(widths), len(costs().layer_names)
    layers = costs().layers(widths)
    positions = layers[:, :count] / layers[:, count:]
    outputs, inputs = channels[..., 0], channels[..., 1]
    kernel = layers[:, count:] / (outputs * inputs)
    padded = np.ceil(outputs / 16) * 16 * np.ceil(inputs / 16) * 16 * kernel * positions
    slow = (inputs >= 16) & (inputs % 4 != 0)
    work = np.where(slow, 2.5 * layers[:, :count], padded).sum(axis=1)
    return np.asarray((0.2 + work / 1e7) * np.exp(np.random.default_rng([seed, 1]).normal(0, noise, len(widths))))


def log_error(model: LatencyModel, widths: FloatArray, ms: FloatArray) -> FloatArray:
    return np.asarray(np.abs(np.log(model.predict(widths) / ms)))


@pytest.mark.parametrize(("n", "median"), [(15, 0.15), (60, 0.1), (200, 0.08)])
def test_few_points_predict_a_machine_that_works_in_blocks(n: int, median: float) -> None:
    widths, unseen = random_widths(n, 1), random_widths(200, 2)
    model = LatencyModel(costs()).fit(widths, blocked_ms(widths))
    assert np.median(log_error(model, unseen, blocked_ms(unseen, noise=0.0))) < median


def test_a_narrower_model_may_be_predicted_slower() -> None:
    widths = random_widths(60, 1)
    model = LatencyModel(costs()).fit(widths, blocked_ms(widths))
    whole = costs().full[None]
    assert costs().macs(whole - 1) < costs().macs(whole)
    assert model.predict(whole - 1) > model.predict(whole)


def test_one_point_gives_positive_predictions_and_the_default_margin() -> None:
    model = LatencyModel(costs()).fit(costs().full[None], [2.0])
    assert model.predict(costs().full[None]) == pytest.approx([2.0], rel=1e-6)
    assert (model.predict(random_widths(50, 3)) > 0).all()
    assert model.margin == 0.3
    assert model.error.n == 0
    assert model.error.median is None


def test_the_margin_covers_90_percent_of_new_candidates() -> None:
    covered = []
    for seed in range(4):
        widths, unseen = random_widths(60, seed), random_widths(200, 10 + seed)
        model = LatencyModel(costs()).fit(widths, blocked_ms(widths, seed, noise=0.15))
        covered.append(np.mean(log_error(model, unseen, blocked_ms(unseen, 20 + seed, noise=0.15)) <= model.margin))
    assert 0.85 <= np.mean(covered) <= 1.0
    assert model.error.median is not None
    assert model.error.quantile_90 is not None
    assert 0 < model.error.median < model.error.quantile_90 <= model.margin


def test_noise_widens_the_margin() -> None:
    widths = random_widths(80, 1)
    calm, loud = (LatencyModel(costs()).fit(widths, blocked_ms(widths, noise=noise)) for noise in (0.02, 0.4))
    assert calm.margin < loud.margin


def test_the_same_data_give_the_same_model() -> None:
    widths = random_widths(70, 1)
    first, second = (LatencyModel(costs()).fit(widths, blocked_ms(widths)) for _ in range(2))
    unseen = random_widths(20, 2)
    np.testing.assert_array_equal(first.predict(unseen), second.predict(unseen))
    assert first.margin == second.margin


def test_measurements_that_cannot_be_are_left_out() -> None:
    widths = random_widths(20, 1)
    ms = blocked_ms(widths)
    spoilt = np.append(ms, [np.nan, 0.0, np.inf])
    model = LatencyModel(costs()).fit(np.concatenate([widths, random_widths(3, 9)]), spoilt)
    np.testing.assert_array_equal(model.predict(widths), LatencyModel(costs()).fit(widths, ms).predict(widths))
    with pytest.raises(ConfigError, match="Got 1, none above 0"):
        LatencyModel(costs()).fit(widths[:1], [np.nan])
