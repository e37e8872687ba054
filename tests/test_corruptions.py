"""Corruptions of images: repeatable, ordered by strength, and they leave labels alone."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from autoprune.errors import TaskError
from autoprune.tasks import ClassificationTask, GuardedTask, Inputs, image_corruptions, load_task
from autoprune.tasks.corruptions import add_noise, gaussian_blur

EXAMPLES = Path(__file__).parent.parent / "examples"


def images(n: int = 3, channels: int = 2, side: int = 12) -> Tensor:
    return torch.randn((n, channels, side, side), generator=torch.Generator().manual_seed(0))


def test_noise_has_the_deviation_that_it_names_and_follows_its_seed() -> None:
    flat = torch.zeros(4, 3, 40, 40)
    noisy = add_noise(flat, sigma=0.5, seed=1)
    assert float(noisy.std()) == pytest.approx(0.5, rel=0.05)
    assert torch.equal(noisy, add_noise(flat, sigma=0.5, seed=1))
    assert not torch.equal(noisy, add_noise(flat, sigma=0.5, seed=2))
    assert not torch.equal(noisy[0], noisy[1])


def test_noise_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    add_noise(images(), sigma=1.0, seed=0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("sigma", [0.3, 0.5, 1.0, 2.0])
def test_blur_is_that_of_scipy(sigma: float) -> None:
    x = images().double()
    radius = max(1, int(np.ceil(3 * sigma)))
    expected = gaussian_filter(x.numpy(), sigma=(0, 0, sigma, sigma), mode="nearest", radius=(0, 0, radius, radius))
    np.testing.assert_allclose(gaussian_blur(x, sigma=sigma).numpy(), expected, atol=1e-12)


def test_every_corruption_changes_images_only_and_repeats_itself() -> None:
    x, labels, boxes = images(), torch.arange(3), torch.rand(3, 5, 4)
    for name, corrupt in image_corruptions().items():
        changed, same_labels, same_boxes = corrupt((x, labels, boxes))
        assert changed.shape == x.shape, name
        assert not torch.equal(changed, x), name
        assert same_labels is labels
        assert same_boxes is boxes
        inputs = corrupt(Inputs((x,), {"labels": labels}))
        assert isinstance(inputs, Inputs)
        assert torch.equal(inputs.args[0], changed), name


def test_names_tell_kind_and_strength_mildest_first() -> None:
    assert list(image_corruptions(noise=(1.0, 0.1), blur=(2,))) == ["noise_0.1", "noise_1", "blur_2"]


def test_corruptions_travel_to_workers() -> None:
    x = images()
    for corrupt in image_corruptions().values():
        assert torch.equal(pickle.loads(pickle.dumps(corrupt))(x), corrupt(x))


@pytest.mark.parametrize("strength", [0.0, -1.0, float("nan"), float("inf")])
def test_a_strength_that_means_nothing_is_refused(strength: float) -> None:
    with pytest.raises(TaskError, match="positive"):
        image_corruptions(noise=(strength,))


def test_strong_corruptions_cost_a_trained_network_accuracy() -> None:
    plain = load_task("digits.py:make_task", {"depth": 8, "width": 8, "epochs": 4}, base=EXAMPLES)
    assert isinstance(plain, ClassificationTask)
    model = plain.build_model()
    task = GuardedTask(ClassificationTask(model, plain.data, corruptions=image_corruptions()))

    def accuracy(name: str | None) -> float:
        corrupt = task.corruptions()[name] if name else lambda inputs: inputs
        return task.evaluate(lambda inputs: model(*corrupt(inputs).args), "val").metrics["accuracy"]

    clean = accuracy(None)
    for kind, strengths in (("noise", ("0.25", "0.5", "1")), ("blur", ("0.5", "1", "2"))):
        mild, _, strong = (accuracy(f"{kind}_{s}") for s in strengths)
        assert strong < mild <= clean + 0.02
        assert strong < clean - 0.1
