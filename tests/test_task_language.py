"""Language modelling: perplexity by hand, passages as units, splits without a shared token, bad streams refused."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import CandidateError, TaskError
from autoprune.evaluation import compare, intervals
from autoprune.tasks import LanguageModelTask, Passages, check_task, evaluate_shift, shifts_of

VOCABULARY, LENGTH = 9, 6


class Bigram(nn.Module):
    """Knows how often a token follows another: an embedding whose rows are the logits."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(table, freeze=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.embedding(input_ids)
        return logits


def stream(tokens: int = 4200, seed: int = 0) -> np.ndarray:
    """Return a text in which each token is mostly followed by the next number."""
    rng = np.random.default_rng(seed)
    steps = np.where(rng.random(tokens) < 0.7, 1, rng.integers(0, VOCABULARY, tokens))
    return np.cumsum(steps) % VOCABULARY


def passages(**fields: Any) -> Passages:
    return Passages.cut(stream(), LENGTH, **fields)


@pytest.fixture(scope="module")
def model() -> Bigram:
    counts = torch.ones(VOCABULARY, VOCABULARY)
    text = torch.from_numpy(stream())
    counts.index_put_((text[:-1], text[1:]), torch.tensor(1.0), accumulate=True)
    return Bigram(torch.log(counts / counts.sum(dim=1, keepdim=True)))


def scored(task: LanguageModelTask, model: nn.Module, split: Any = "val", **args: Any) -> Any:
    return task.evaluate(lambda inputs: model(**inputs.kwargs), split, **args)


def test_the_task_keeps_the_contract_without_a_warning(model: Bigram) -> None:
    assert check_task(LanguageModelTask(model, passages()), full=True) == []


def test_perplexity_is_the_exponential_of_the_mean_loss_of_a_token(model: Bigram) -> None:
    task = LanguageModelTask(model, passages())
    found = scored(task, model)
    losses = []
    for row in task.data.splits["val"]:
        tokens = task.data.tokens[row]
        table = torch.log_softmax(model.embedding.weight.detach().double(), dim=1)
        losses += [-float(table[a, b]) for a, b in pairwise(tokens)]
    assert found.metrics["perplexity"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-6)
    assert found.unit == "passage"
    assert len(found.ids) == len(task.data.splits["val"])
    assert found.per_unit["perplexity"][:, 1].tolist() == [LENGTH] * len(found.ids)


def test_intervals_are_bootstrapped_over_passages(model: Bigram) -> None:
    task = LanguageModelTask(model, passages())
    found = scored(task, model)
    interval = intervals(task, found, seed=0)["perplexity"]
    assert (interval.n, interval.unit, interval.method) == (len(found.ids), "passage", "bias-corrected-bootstrap-1000")
    assert interval.low < interval.value < interval.high
    blunt = Bigram(model.embedding.weight.detach() * 0.5)
    change = compare(task, scored(task, blunt), found, seed=0)["perplexity"]
    assert change.low > 0.0
    assert not change.noninferior


def test_the_loss_is_the_logarithm_of_the_perplexity_of_its_batch(model: Bigram) -> None:
    task = LanguageModelTask(model, passages())
    rows = task.data.splits["val"]
    loss = task.loss(model(task.data.take(rows).kwargs["input_ids"]), task.data.batch(rows))
    assert math.exp(float(loss.detach())) == pytest.approx(scored(task, model).metrics["perplexity"], rel=1e-5)


def test_a_hopeless_model_is_scored_without_overflow() -> None:
    wrong = Bigram(2000.0 * torch.eye(VOCABULARY).roll(3, dims=1))
    assert scored(LanguageModelTask(wrong, passages()), wrong).metrics["perplexity"] == pytest.approx(math.exp(700.0))


def test_outputs_that_are_not_finite_are_the_candidates_failure(model: Bigram) -> None:
    broken = Bigram(torch.full((VOCABULARY, VOCABULARY), math.nan))
    with pytest.raises(CandidateError, match="NaN or infinity"):
        scored(LanguageModelTask(model, passages()), broken)


def test_a_stream_is_cut_into_passages_that_share_no_token() -> None:
    numbers = np.arange(1003)
    data = Passages.cut(numbers, LENGTH)
    assert data.tokens.shape == (143, LENGTH + 1)
    assert data.tokens.flatten().tolist() == numbers[:1001].tolist()
    rows = data.splits["train"]
    batch = data.batch(rows)
    assert torch.equal(batch["labels"], batch["input_ids"] + 1)


def test_held_out_sections_come_from_all_over_the_text() -> None:
    data = passages()
    n = len(data.tokens)
    assert sorted(np.concatenate([data.splits[s] for s in ("train", "val", "test")]).tolist()) == list(range(n))
    for split in ("val", "test"):
        rows = data.splits[split]
        assert len(rows) / n == pytest.approx(0.15, abs=0.02)
        assert {0, 1, 2} == set((rows * 3 // n).tolist())
        assert np.mean(np.diff(np.sort(rows)) == 1) > 0.8
    assert data.fingerprint == passages().fingerprint != passages(seed=1).fingerprint


def test_a_limit_draws_passages_from_all_over_the_split(model: Bigram) -> None:
    task = LanguageModelTask(model, passages())
    found = scored(task, model, limit=20)
    assert len(set(found.ids)) == 20
    assert found.ids == scored(task, model, limit=20).ids != scored(task, model, limit=20, seed=1).ids
    rows, n = np.array([int(i) for i in found.ids]), len(task.data.tokens)
    assert rows.min() < n / 3 < 2 * n / 3 < rows.max()
    assert (np.diff(rows) < 0).any()


def test_a_shifted_domain_is_scored_whole(model: Bigram) -> None:
    other = Passages.cut(stream(700, seed=5)[::-1].copy(), LENGTH)
    task = LanguageModelTask(model, passages(shifts={"backwards": other}))
    assert shifts_of(task) == ("backwards",)
    found = evaluate_shift(task, lambda i: model(**i.kwargs), "backwards")
    assert len(found.ids) == len(other.tokens)
    assert found.metrics["perplexity"] > scored(task, model).metrics["perplexity"]
    assert len(evaluate_shift(task, lambda i: model(**i.kwargs), "backwards", limit=5).ids) == 5
    with pytest.raises(TaskError, match="no shifted domain 'forwards'"):
        evaluate_shift(task, lambda i: model(**i.kwargs), "forwards")


def test_distillation_compares_every_position(model: Bigram) -> None:
    task = LanguageModelTask(model, passages())
    batch = task.data.batch(task.data.splits["train"][:4])
    logits = model(batch["input_ids"]).detach()
    assert float(task.distill_loss(logits, logits, batch)) == pytest.approx(0.0, abs=1e-6)
    changed = logits.clone()
    changed[-1, -1] = changed[-1, -1].flip(0)
    assert float(task.distill_loss(changed, logits, batch)) > 1e-3


BAD: dict[str, tuple[Any, ...]] = {
    "Tokens must be integers": (np.full(100, np.nan), LENGTH),
    r"A stream must be \[tokens\]": (np.zeros((10, 10), int), LENGTH),
    "length >= 1": (stream(), 0),
    "There are 0 passages": (np.zeros(0, int), LENGTH),
    "There are 2 passages": (stream(20), LENGTH),
    "Token ids must be >= 0": (stream() - 1, LENGTH),
    "nothing to predict": (np.full(100, 7), LENGTH),
}


@pytest.mark.parametrize("message", list(BAD))
def test_streams_that_mean_nothing_are_refused(message: str) -> None:
    with pytest.raises(TaskError, match=message):
        Passages.cut(*BAD[message])


def test_passages_of_another_shape_are_refused() -> None:
    with pytest.raises(TaskError, match=r"\[n, length \+ 1\] token ids"):
        Passages(np.zeros(10, int))
    with pytest.raises(TaskError, match="both in 'train' and in 'val'"):
        passages(splits={"train": [0, 1], "val": [1], "test": [2]})
    with pytest.raises(TaskError, match="'short' must be Passages of 6 tokens"):
        passages(shifts={"short": Passages.cut(stream(), LENGTH - 1)})


@pytest.mark.parametrize(("outputs", "message"), [(4, "Token ids reach 8"), (None, "vocabulary.*Got shape")])
def test_a_model_of_another_form_is_refused(outputs: int | None, message: str) -> None:
    table = torch.zeros(VOCABULARY, outputs or VOCABULARY)
    task = LanguageModelTask(Bigram(table), passages())
    with pytest.raises(TaskError, match=message):
        task.evaluate(lambda i: table[i.kwargs["input_ids"]][..., 0 if outputs is None else slice(None)], "val")
