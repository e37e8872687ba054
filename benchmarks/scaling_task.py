"""A network so small that evaluating a candidate is next to nothing: what is left is what an engine costs.

Every worker gets a gate of its own, in a temporary directory of its own: on the host's gate, one worker's waiting for
another's measurement would hide what the engine costs meanwhile.
"""

from __future__ import annotations

import tempfile
from itertools import pairwise

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from autoprune.tasks import ClassificationTask, LabelledArrays

WIDTH, HIDDEN, STEPS = 32, 4, 60
_OWN = tempfile.TemporaryDirectory()


def make_task() -> ClassificationTask:
    """Return the task: five linear layers on digits, trained in a fraction of a second."""
    tempfile.tempdir = _OWN.name
    digits = load_digits()
    x = torch.tensor(digits.data / 16.0 - 0.3, dtype=torch.float32)
    data = LabelledArrays(x, digits.target, unit="image")
    return ClassificationTask(lambda: _trained(data), data, name="tiny")


def _trained(data: LabelledArrays) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    sizes = [64, *[WIDTH] * HIDDEN, 10]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layer = nn.Linear(inputs, outputs)
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    rows = torch.from_numpy(data.splits["train"])
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(data.x[rows]), data.labels[rows]))
        optimizer.step()
    return model.eval()
