"""A small trained vision transformer on half of scikit-learn's digits: what spaces of heads and depth are tried on."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn
from zoo import VisionTransformer

from autoprune.tasks import ClassificationTask, LabelledArrays, trained_once
from autoprune.tasks.protocol import RecoverContext

RECIPE = {"seed": 0, "steps": 60, "rows": 900, "dim": 24, "blocks": 3, "heads": 3}


def definition() -> nn.Module:
    return VisionTransformer(RECIPE["dim"], RECIPE["blocks"], RECIPE["heads"], image_size=8, patch=2, classes=10)


def make_task() -> ClassificationTask:
    digits = load_digits()
    x = torch.tensor(digits.images[: RECIPE["rows"], None] / 16.0, dtype=torch.float32).expand(-1, 3, -1, -1)
    data = LabelledArrays(x.contiguous(), digits.target[: RECIPE["rows"]], unit="image")

    def train(model: nn.Module) -> None:
        context = RecoverContext(
            steps=RECIPE["steps"],
            lr=0.02,
            batch_size=64,
            device=torch.device("cpu"),
            dtype=torch.float32,
            generator=torch.Generator().manual_seed(0),
        )
        model.train()
        ClassificationTask(model, data, name="vit").recover(model, context)

    return ClassificationTask(trained_once(definition, train, name="vit", recipe=RECIPE), data, name="vit")
