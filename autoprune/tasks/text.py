"""Tokenised, labelled texts -> a complete classification task whose model is called by keywords."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from autoprune.errors import TaskError
from autoprune.tasks.arrays import IntArray, LabelledArrays
from autoprune.tasks.classification import ClassificationTask
from autoprune.tasks.protocol import Inputs, Sample

MASK = "attention_mask"
REQUIRED = ("input_ids", MASK)


@dataclass(frozen=True, eq=False)
class LabelledTokens(LabelledArrays):
    """Documents as padded rows of tokens, with integer labels, cut into splits; checked as it is made.

    Args:
        x: What a tokenizer returns that pads all rows to one length: name -> [n, length] integers. `input_ids` and
            `attention_mask` (1 = token, 0 = padding) are needed; others, such as `token_type_ids`, go with them.
        y: [n] class numbers from 0.
        splits: As in `LabelledArrays`.
        unit: What one row is.
        seed: Seed of the splits that are made here.
        shifts: Name -> documents of another domain.
        class_names: Names of the classes in the order of their numbers, for the report.
        texts: [n] documents as people read them, for the report; empty where they are not at hand.

    Raises:
        TaskError: Data that no honest measurement can come from: as in `LabelledArrays`, or documents without a token.
    """

    unit: str = "document"
    texts: Sequence[str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.texts) not in (0, len(self.y)):
            raise TaskError(f"There are {len(self.texts)} texts for {len(self.y)} labels.", hint="Give all or none.")

    def take(self, rows: IntArray) -> Inputs:
        """Return the model's inputs of some rows, padded to the full length: deployed graphs have one length."""
        return Inputs((), {name: tensor[rows] for name, tensor in self.x.items()})

    def batch(self, rows: IntArray) -> dict[str, Tensor]:
        """Return inputs by name and `labels` of some rows, cut to the longest of them: padding only costs time."""
        used = self.x[MASK][rows].any(dim=0).nonzero()
        width = int(used.max()) + 1
        return {**{name: tensor[rows, :width] for name, tensor in self.x.items()}, "labels": self.labels[rows]}

    def samples(self, rows: IntArray) -> Sequence[Sample] | None:
        """Return rows as people read them; None where the texts are not at hand."""
        if not self.texts:
            return None
        return [Sample(str(row), None, self.texts[row], self.name_of(row)) for row in rows]

    def _checked_inputs(self, count: int) -> dict[str, Tensor]:
        if not isinstance(self.x, Mapping) or not set(REQUIRED) <= set(self.x):
            found = f"a {type(self.x).__name__}" if not isinstance(self.x, Mapping) else f"{sorted(self.x)}"
            raise TaskError(
                f"Tokens must be a mapping with {' and '.join(REQUIRED)}. Got {found}.",
                hint="Give what the tokenizer returns: tokenizer(texts, padding=True, truncation=True).",
            )
        if "labels" in self.x:
            raise TaskError("Labels go into y, not among the inputs.", hint="Leave out the key 'labels'.")
        x = {str(name): _tokens(str(name), value) for name, value in self.x.items()}
        _check_tokens(x, count)
        return x

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {name: self.x[name].numpy() for name in sorted(self.x)}


class TextClassificationTask(ClassificationTask):
    """Classification of documents, scored by accuracy and by cross-entropy.

    The model is called with the tokens by name and returns [n, classes] logits: a tensor, a `ModelOutput` of Hugging
    Face or a mapping with `logits`. It is scored, timed and exported on rows of the full length, and trained on rows
    cut to the longest of each batch.

    Args:
        model: The trained model, or a function that returns it; the function is called once, then copied.
        data: Tokens, labels, splits and shifted domains.
        name: Short name of the task.
        batch_size: Documents a batch where the caller states none.
        protect: Globs over module paths that are never pruned.
    """

    def __init__(
        self,
        model: nn.Module | Callable[[], nn.Module],
        data: LabelledTokens,
        *,
        name: str = "text-classification",
        batch_size: int = 32,
        protect: Sequence[str] = (),
    ) -> None:
        super().__init__(model, data, name=name, batch_size=batch_size, protect=protect)


def _tokens(name: str, value: Any) -> Tensor:
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.ndim != 2 or array.dtype.kind not in "iub":
        raise TaskError(
            f"{name} must be [n, length] integers. Got shape {array.shape} of {array.dtype}.",
            hint="Pad all documents to one length: padding='max_length' of a Hugging Face tokenizer.",
        )
    return torch.from_numpy(array.astype(np.int64))


def _check_tokens(x: Mapping[str, Tensor], count: int) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in x.items()}
    if count == 0 or 0 in shapes["input_ids"]:
        raise TaskError("The data are empty.", hint="Check where the task loads them from.")
    if len(set(shapes.values())) > 1 or shapes["input_ids"][0] != count:
        raise TaskError(
            f"Tokens of shapes {shapes} do not go with {count} labels.", hint="Give every document a label."
        )
    mask = x[MASK]
    if int(x["input_ids"].min()) < 0 or not bool(((mask == 0) | (mask == 1)).all()):
        raise TaskError("Token ids must be >= 0, and attention_mask 0 or 1.", hint="-100 marks targets, not inputs.")
    silent = ~mask.any(dim=1)
    if bool(silent.any()):
        raise TaskError(
            f"{int(silent.sum())} of {count} documents hold no token, the first is row {int(silent.int().argmax())}.",
            hint="Drop empty documents.",
        )
