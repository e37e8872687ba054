"""Operators that common models meet beside layers: comparisons, windows, positions, triangles, equations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tracing_nets import Case, assert_found_exactly, convs, linears, rows, sequence


def twin(compare: Any, **expected: Any) -> Case:
    """Two views of one input through the same linear a, then compared; the comparison feeds linear b."""
    return Case(
        lambda: {"a": nn.Linear(8, 12), "b": nn.Linear(1, 5)},
        lambda m, x: m.b(compare(torch.tanh(m.a(x)), torch.tanh(m.a(x.flip(0))))),
        rows,
        {"a": 12},
        **expected,
    )


COMPARISONS = {
    "cosine similarity": twin(lambda x, y: F.cosine_similarity(x, y)[:, None], inexact=("a",)),
    "pairwise distance": twin(lambda x, y: F.pairwise_distance(x, y, keepdim=True), inexact=("a",)),
    "norm": twin(lambda x, y: torch.linalg.vector_norm(x - y, dim=1, keepdim=True), inexact=("a",)),
    "all distances": twin(lambda x, y: torch.cdist(x, y).mean(1, keepdim=True), inexact=("a",)),
    "inner product": twin(lambda x, y: (x * y).sum(1, keepdim=True), inexact=("a",)),
}
EQUATIONS = {
    "ellipsis": linears(
        lambda m, x: torch.einsum("...i,oi->...o", x, m.w),
        {"a": 12, "w": 7},
        to=7,
        parts=lambda: {"w": torch.randn(7, 12)},
    ),
    "one operand": convs(lambda m, x: torch.einsum("bchw->bhwc", x).movedim(-1, 1), {"a": 12}),
    "one operand summed": convs(lambda m, x: torch.einsum("bchw->bc", x)[:, :, None, None], {"a": 12}),
    "three operands": linears(
        lambda m, x: torch.einsum("bi,ij,jo->bo", x, m.v, m.w),
        {"a": 12, "v": 6, "w": 7},
        to=7,
        parts=lambda: {"v": torch.randn(12, 6), "w": torch.randn(6, 7)},
    ),
    "repeated letter": linears(
        lambda m, x: m.c(torch.einsum("bii->bi", x[:, :, None] * x[:, None])),
        {"c": 12},
        parts=lambda: {"c": nn.Linear(12, 12)},
        protected={"a": "einsum 'bii->bi'"},
    ),
    "baddbmm": linears(
        lambda m, x: torch.baddbmm(m.c[None], x[None], m.w[None])[0],
        {"a": 12, "w": 6},
        to=6,
        parts=lambda: {"w": torch.randn(12, 6), "c": torch.randn(6)},
    ),
    "addmv": linears(
        lambda m, x: torch.addmv(m.c, m.w, x.mean(0))[None],
        {"a": 12, "w": 6},
        to=6,
        parts=lambda: {"w": torch.randn(6, 12), "c": torch.randn(6)},
    ),
    "outer": linears(
        lambda m, x: torch.outer(m.s, x.mean(0)),
        {"a": 12},
        parts=lambda: {"s": torch.randn(3)},
        protected={"s": "model's output"},
    ),
    "bilinear": linears(
        lambda m, x: m.c(x, x.tanh()), {"a": 12, "c": 7}, to=7, parts=lambda: {"c": nn.Bilinear(12, 12, 7)}
    ),
    "embedding bag": Case(
        lambda: {"a": nn.EmbeddingBag(50, 12), "b": nn.Linear(12, 5)},
        lambda m, x: m.b(m.a(x)),
        lambda: torch.randint(0, 50, (2, 9)),
        {"a": 12},
    ),
}
WINDOWS = {
    "unfold": convs(
        lambda m, x: m.c(F.unfold(x, 2, stride=2))[..., None],
        {"a": 12, "c": 7},
        to=7,
        parts=lambda: {"c": nn.Conv1d(48, 7, 1)},
    ),
    "fold": convs(lambda m, x: F.fold(x.flatten(2)[..., :16], 8, 2, stride=2), {"a": 3}, to=3),
    "sliding window": convs(lambda m, x: x.unfold(2, 2, 2).mean(-1), {"a": 12}),
    "sampled by a grid": convs(
        lambda m, x: F.grid_sample(x, m.g.tanh(), align_corners=False),
        {"a": 12},
        parts=lambda: {"g": torch.randn(2, 4, 4, 2)},
    ),
    "unpooled": convs(lambda m, x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), {"a": 12}),
}
POSITIONS = {
    "triangle over positions": Case(
        lambda: {"a": nn.Linear(16, 12), "b": nn.Linear(12, 5)},
        lambda m, x: m.b((m.a(x) @ m.a(x).mT).tril() @ m.a(x)),
        sequence,
        {"a": 12},
    ),
    "gather of positions": Case(
        lambda: {"a": nn.Linear(16, 12), "b": nn.Linear(12, 5)},
        lambda m, x: m.b(m.a(x).gather(1, torch.zeros_like(m.a(x), dtype=torch.long))),
        sequence,
        {"a": 12},
    ),
    "added at positions": Case(
        lambda: {"a": nn.Linear(16, 12), "c": nn.Linear(16, 12), "b": nn.Linear(12, 5)},
        lambda m, x: m.b(m.a(x).index_add(1, torch.tensor([0, 0, 1, 2, 3, 3]), m.c(x))),
        sequence,
        {"a": 12},
    ),
    "gather of channels": linears(
        lambda m, x: m.c(x.gather(1, torch.zeros(4, 12, dtype=torch.long))),
        {"c": 7},
        to=7,
        parts=lambda: {"c": nn.Linear(12, 7)},
        protected={"a": "indexed by a tensor"},
    ),
    "turned as complex numbers": Case(
        lambda: {"a": nn.Linear(16, 12), "c": nn.Linear(12, 9), "b": nn.Linear(9, 5)},
        lambda m, x: m.b(m.c(turned(m.a(x)))),
        sequence,
        {"a": 6, "c": 9},
    ),
}
FAMILIES = {"comparison": COMPARISONS, "equation": EQUATIONS, "window": WINDOWS, "position": POSITIONS}
CASES = [pytest.param(c, id=f"{family}: {name}") for family, cases in FAMILIES.items() for name, c in cases.items()]


def turned(x: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * pairs.conj()).flatten(-2)


@pytest.mark.parametrize("case", CASES)
def test_finds_exactly_the_units_whose_removal_equals_zeroing_them(case: Case) -> None:
    assert_found_exactly(case)
