"""Ways to call a model: keywords, dictionaries, tuples and dataclasses; other batches and lengths after tracing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from units import equal, run

from autoprune.groups import find_groups, mask_model, slice_model
from autoprune.tasks.protocol import Inputs

transformers = pytest.importorskip("transformers")


class Pair(NamedTuple):
    """Two sequences."""

    left: Tensor
    right: Tensor


@dataclass
class Answer(transformers.utils.ModelOutput):
    """What Hugging Face models return: a dictionary that is a dataclass."""

    logits: Tensor | None = None
    hidden: Tensor | None = None


class Core(nn.Module):
    """Embedding with positions -> attention -> LSTM -> linear, over sequences of any length up to 32."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 16)
        self.positions = nn.Parameter(torch.randn(32, 16))
        self.q, self.k, self.v = (nn.Linear(16, 32) for _ in range(3))
        self.out = nn.Linear(32, 16)
        self.lstm = nn.LSTM(16, 10, batch_first=True)
        self.fc = nn.Linear(10, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids) + self.positions[: ids.shape[1]]
        q, k, v = (f(x).unflatten(-1, (-1, 8)).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.fc(self.lstm(x)[1][0][-1])


class Called(nn.Module):
    """The core behind some way to be called; two sequences are compared."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.core = Core()
        self.function = forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self.core, *args, **kwargs)


def ids(batch: int, length: int) -> Tensor:
    return torch.randint(0, 50, (batch, length), generator=torch.Generator().manual_seed(batch * 100 + length))


def by_keyword(core: Core, *, left: Tensor, right: Tensor | None = None) -> Tensor:
    return core(left) if right is None else core(left) - core(right)


def of_dictionary(core: Core, both: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"left": core(both["left"]), "right": core(both["right"])}


def of_tuple(core: Core, both: Pair) -> tuple[Tensor, tuple[Tensor]]:
    return core(both.left), (core(both.right),)


def of_model_output(core: Core, both: Answer) -> Answer:
    return Answer(logits=core(both.logits), hidden=core(both.hidden))


CALLS: dict[str, tuple[Callable[..., Any], Callable[[Tensor, Tensor], Inputs]]] = {
    "one tensor": (lambda core, x: core(x), lambda x, _: Inputs((x,), {})),
    "keywords alone": (by_keyword, lambda x, y: Inputs((), {"left": x, "right": y})),
    "dictionary": (of_dictionary, lambda x, y: Inputs(({"left": x, "right": y},), {})),
    "named tuple": (of_tuple, lambda x, y: Inputs((Pair(x, y),), {})),
    "model output": (of_model_output, lambda x, y: Inputs((), {"both": Answer(logits=x, hidden=y)})),
}


def tensors(outputs: object) -> list[Tensor]:
    return list(torch.utils._pytree.tree_leaves(outputs))


@pytest.mark.parametrize(("function", "inputs"), CALLS.values(), ids=CALLS)
def test_plan_made_at_one_batch_and_length_cuts_a_model_that_runs_at_others(
    function: Callable[..., Any], inputs: Callable[[Tensor, Tensor], Inputs]
) -> None:
    torch.manual_seed(0)
    model = Called(function).eval()
    found = find_groups(model, inputs(ids(2, 6), ids(2, 6)))
    assert found.tracer == "torch.export"
    widths = {g.name.removeprefix("core."): (g.width, g.granularity) for g in found.groups}
    assert widths == {"table": (16, "channel"), "q": (4, "head"), "lstm": (10, "block")}

    alive = np.arange(found.plan.unit_count) % 3 > 0
    sliced = slice_model(model, found.plan, alive)
    zeroed = mask_model(model, found.plan, alive)
    for batch, length in ((2, 6), (5, 6), (1, 1), (3, 17)):
        other = inputs(ids(batch, length), ids(batch, length) % 7)
        with torch.no_grad():
            outputs, expected = (tensors(m(*other.args, **other.kwargs)) for m in (sliced, zeroed))
        torch.testing.assert_close(outputs, expected)
        assert all(t.shape == (batch, 5) for t in outputs)


def test_plans_made_at_different_batches_and_lengths_are_the_same() -> None:
    torch.manual_seed(0)
    model = Called(CALLS["one tensor"][0]).eval()
    small, large = (find_groups(model, Inputs((ids(*size),), {})) for size in ((2, 6), (5, 17)))
    assert small.groups == large.groups
    for one, other in zip(small.plan.dimensions, large.plan.dimensions, strict=True):
        assert (one.parameter, one.dim) == (other.parameter, other.dim)
        assert np.array_equal(one.units, other.units)
    alive = np.arange(small.plan.unit_count) % 3 > 0
    inputs = Inputs((ids(4, 9),), {})
    assert equal(*(run(slice_model(model, f.plan, alive), inputs) for f in (small, large)))
