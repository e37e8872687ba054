"""Tokens of a text -> a complete language-modelling task: the next token, scored by perplexity over passages."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.errors import CandidateError, TaskError
from autoprune.tasks.arrays import digest_of, named_shift
from autoprune.tasks.in_memory import InMemoryTask
from autoprune.tasks.protocol import SPLITS, Evaluated, Inputs, MetricSpec, Predict, Split
from autoprune.tasks.splits import IntArray, complete_splits
from autoprune.tasks.subsets import stratified_subset

SECTIONS = 60
LARGEST_EXPONENT = 700.0


@dataclass(frozen=True, eq=False)
class Passages:
    """A text cut into passages of equal length, which share no token, and into splits; checked as it is made.

    Args:
        tokens: [n, length + 1] token ids from 0, passages in the order of the text; `Passages.cut` makes them of a
            stream. The model reads the first `length` tokens and is asked for the last `length`.
        splits: Split name -> passage numbers. Left out as a whole: the text is cut into 60 sections (fewer where it is
            short), of which 70% go to train, 15% to val and 15% to test, drawn from all over the text; so a passage
            has neighbours of another split at the ends of its section only.
        unit: What one row is.
        seed: Seed of the splits that are made here.
        shifts: Name -> passages of another kind of text in the same tokens, of which every one is scored.

    Raises:
        TaskError: Data that no honest measurement can come from: empty, no integers, shapes or splits wrong.
    """

    tokens: Any
    splits: Mapping[str, Any] = field(default_factory=dict)
    unit: str = "passage"
    seed: int = 0
    shifts: Mapping[str, Passages] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tokens = _checked_tokens(self.tokens)
        given = self.splits or _sections(len(tokens), self.seed)
        object.__setattr__(self, "tokens", torch.from_numpy(tokens))
        object.__setattr__(self, "splits", complete_splits(given, np.zeros(len(tokens), np.int64), self.seed))
        for name, other in self.shifts.items():
            if not isinstance(other, Passages) or other.length != self.length:
                raise TaskError(f"The shifted domain {name!r} must be Passages of {self.length} tokens.")

    @classmethod
    def cut(cls, stream: Any, length: int, **fields: Any) -> Passages:
        """Return the passages of a stream of token ids; what is left over at its end is not used.

        Args:
            stream: [tokens] ids from 0.
            length: Tokens that the model reads at once.
            fields: Further fields of `Passages`.

        Raises:
            TaskError: The stream is shorter than a few passages.
        """
        array = _array(stream)
        if array.ndim != 1 or length < 1:
            raise TaskError(f"A stream must be [tokens] and length >= 1. Got shape {array.shape} and {length}.")
        count = len(array) // (length + 1)
        return cls(array[: count * (length + 1)].reshape(count, length + 1), **fields)

    @property
    def length(self) -> int:
        """Tokens that the model reads at once."""
        return int(self.tokens.shape[1]) - 1

    @property
    def vocabulary(self) -> int:
        """The largest token id + 1."""
        return int(self.tokens.max()) + 1

    @cached_property
    def fingerprint(self) -> str:
        """Digest of tokens, splits and unit."""
        return digest_of(self.unit, {"tokens": self.tokens.numpy(), **{s: self.splits[s] for s in SPLITS}})

    def rows(self, split: str, *, limit: int | None = None, seed: int = 0) -> IntArray:
        """Return the passages of a split, shuffled by `seed`; `limit` draws that many from all over the split."""
        rows: IntArray = self.splits[split]
        return rows[stratified_subset(np.zeros(len(rows)), limit, np.random.default_rng(seed))]

    def take(self, rows: IntArray) -> Inputs:
        """Return the model's inputs of some passages."""
        return Inputs((), {"input_ids": self.tokens[rows, :-1]})

    def batch(self, rows: IntArray) -> dict[str, Tensor]:
        """Return `input_ids` and `labels`, the token that follows each, of some passages."""
        return {"input_ids": self.tokens[rows, :-1], "labels": self.tokens[rows, 1:]}


class LanguageModelTask(InMemoryTask):
    """Prediction of the next token, scored by perplexity: the exponential of the mean negative log likelihood, nats.

    The model is called with `input_ids` [n, length] by name and returns [n, length, vocabulary] logits: a tensor, a
    `ModelOutput` of Hugging Face or a mapping with `logits`. The resampling unit is the passage: tokens of one passage
    depend on each other. Neighbouring passages do too, though less, so an interval is that of these passages; for other
    sections of the text it would be wider.

    Args:
        model: The trained model, or a function that returns it; the function is called once, then copied.
        data: Passages, splits and shifted domains.
        name: Short name of the task.
        batch_size: Passages a batch where the caller states none.
        protect: Globs over module paths that are never pruned.
    """

    metrics: Sequence[MetricSpec] = (MetricSpec("perplexity", "min", (1.0, math.inf)),)

    def __init__(
        self,
        model: nn.Module | Callable[[], nn.Module],
        data: Passages,
        *,
        name: str = "language-model",
        batch_size: int = 16,
        protect: Sequence[str] = (),
    ) -> None:
        super().__init__(model, data, name=name, batch_size=batch_size, protect=protect)
        self.data = data

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """Return the mean cross-entropy of the next token."""
        labels = batch["labels"]
        _check_logits(outputs, tuple(labels.shape), self.data.vocabulary)
        return F.cross_entropy(outputs.flatten(0, 1), labels.flatten())

    def evaluate(self, predict: Predict, split: Split, *, limit: int | None = None, seed: int = 0) -> Evaluated:
        """Score `predict` by perplexity; `limit` draws that many passages from all over the split.

        Raises:
            CandidateError: A logit is not finite.
        """
        return self._scored(predict, self.data, self.data.rows(split, limit=limit, seed=seed))

    def shifts(self) -> Sequence[str]:
        """Return the names of the data's shifted domains."""
        return tuple(self.data.shifts)

    def evaluate_shift(self, predict: Predict, name: str, *, limit: int | None = None, seed: int = 0) -> Evaluated:
        """Score `predict` on all passages of a shifted domain, or on `limit` of them, as `evaluate` does.

        Raises:
            TaskError: There is no domain of that name.
            CandidateError: A logit is not finite.
        """
        data = named_shift(self.name, self.data.shifts, name)
        rows = stratified_subset(np.zeros(len(data.tokens)), limit, np.random.default_rng(seed))
        return self._scored(predict, data, rows)

    def aggregate(self, per_unit: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, float]:
        """Return perplexity from [n, 2] sums of negative log likelihood and numbers of tokens."""
        total, count = per_unit["perplexity"].sum(axis=0)
        return {"perplexity": math.exp(min(float(total / count), LARGEST_EXPONENT))}

    def _scored(self, predict: Predict, data: Passages, rows: IntArray) -> Evaluated:
        parts = self.parts_of(rows)
        per_unit = {"perplexity": np.concatenate([self._likelihood(predict, data, part) for part in parts])}
        return Evaluated(self.aggregate(per_unit), data.unit, tuple(str(row) for row in rows), per_unit)

    def _likelihood(self, predict: Predict, data: Passages, rows: IntArray) -> npt.NDArray[np.float64]:
        """Return [n, 2] sums over each passage's tokens of the negative log likelihood, nats, and their number."""
        labels = data.tokens[rows, 1:]
        with torch.no_grad():
            logits = self.structure(predict(data.take(rows)))
            _check_logits(logits, tuple(labels.shape), data.vocabulary)
            if not bool(torch.isfinite(logits).all()):
                raise CandidateError("The model's outputs hold NaN or infinity.", reason="nonfinite", stage="quality")
            each = F.cross_entropy(logits.detach().cpu().float().transpose(1, 2), labels, reduction="none")
        sums = each.double().sum(dim=1).numpy()
        return np.stack([sums, np.full(len(rows), float(labels.shape[1]))], axis=1)


def _array(value: Any) -> IntArray:
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.dtype.kind not in "iu":
        raise TaskError(f"Tokens must be integers. Got {array.dtype}.", hint="Encode the text before making the task.")
    return array.astype(np.int64)


def _checked_tokens(value: Any) -> IntArray:
    tokens = _array(value)
    if tokens.ndim != 2 or tokens.shape[1] < 2:
        raise TaskError(
            f"Passages must be [n, length + 1] token ids, length >= 1. Got shape {tokens.shape}.",
            hint="Passages.cut(stream, length) cuts a stream of tokens.",
        )
    if len(tokens) < len(("train", "val", "test")):
        raise TaskError(f"There are {len(tokens)} passages.", hint="Give a longer text, or cut shorter passages.")
    if tokens.min() < 0:
        raise TaskError(f"Token ids must be >= 0. Got {tokens.min()}.", hint="Number the tokens from 0.")
    if tokens.min() == tokens.max():
        raise TaskError(f"All tokens are {tokens.min()}: there is nothing to predict.", hint="Check the encoding.")
    return tokens


def _sections(count: int, seed: int) -> dict[str, IntArray]:
    """Return passages of train, val and test: whole sections of the text, drawn."""
    parts = np.array_split(np.arange(count), min(SECTIONS, count))
    order = np.random.default_rng(seed).permutation(len(parts))
    held = max(1, round(0.15 * len(parts)))
    drawn = {"test": order[:held], "val": order[held : 2 * held], "train": order[2 * held :]}
    return {name: np.sort(np.concatenate([parts[i] for i in chosen])) for name, chosen in drawn.items()}


def _check_logits(logits: Any, shape: tuple[int, ...], vocabulary: int) -> None:
    if not isinstance(logits, Tensor) or tuple(logits.shape[:-1]) != shape:
        found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise TaskError(
            f"The model must return [{shape[0]}, {shape[1]}, vocabulary] logits. Got {found}.",
            hint="Wrap the model, or override structure() to pick the logits.",
        )
    if logits.shape[-1] < vocabulary:
        raise TaskError(
            f"Token ids reach {vocabulary - 1}, but the model has {logits.shape[-1]} outputs.",
            hint="Give the model one output a token of the vocabulary.",
        )
