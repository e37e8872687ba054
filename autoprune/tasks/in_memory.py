"""Model and data in memory -> what every ready-made task has: a copied model, shuffled batches, corruptions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import nn

from autoprune.errors import TaskError
from autoprune.tasks.base import BaseTask
from autoprune.tasks.copying import copied
from autoprune.tasks.protocol import Inputs, Split

IntArray = npt.NDArray[np.int64]


class Rows(Protocol):
    """Checked, split data whose rows can be drawn."""

    @property
    def splits(self) -> Mapping[str, IntArray]:
        """Split name -> row numbers."""
        ...

    @property
    def fingerprint(self) -> str:
        """Digest of data and splits."""
        ...

    def rows(self, split: str, *, limit: int | None = None, seed: int = 0) -> IntArray:
        """Return the rows of a split, shuffled by `seed`; `limit` draws a stratified subset of that many."""
        ...

    def take(self, rows: IntArray) -> Inputs:
        """Return the model's inputs of some rows."""
        ...

    def batch(self, rows: IntArray) -> Any:
        """Return inputs and answers of some rows, to train on."""
        ...


class InMemoryTask(BaseTask):
    """Everything of a ready-made task but its loss and its metrics.

    Args:
        model: The trained model, or a function that returns it; the function is called once, then copied.
        data: Inputs, answers and splits.
        name: Short name of the task.
        batch_size: Rows a batch where the caller states none.
        protect: Globs over module paths that are never pruned.
        corruptions: Name -> corruption of a batch, such as `image_corruptions()`, for the front's robustness.
    """

    def __init__(
        self,
        model: nn.Module | Callable[[], nn.Module],
        data: Rows,
        *,
        name: str,
        batch_size: int = 64,
        protect: Sequence[str] = (),
        corruptions: Mapping[str, Callable[[Any], Any]] | None = None,
    ) -> None:
        if batch_size < 1:
            raise TaskError(f"batch_size must be >= 1. Got {batch_size}.")
        self.name = name
        self.batch_size = batch_size
        self.protect = (protect,) if isinstance(protect, str) else tuple(protect)
        self._rows = data
        self._corruptions = dict(corruptions or {})
        self._source = model
        self._model: nn.Module | None = None

    @property
    def fingerprint(self) -> str:
        """Digest of inputs, answers and splits."""
        return self._rows.fingerprint

    def build_model(self) -> nn.Module:
        """Return a copy of the trained model on the CPU, in eval mode."""
        if self._model is None:
            source = self._source
            built: object = source if isinstance(source, nn.Module) else source()
            if not isinstance(built, nn.Module):
                raise TaskError(
                    f"The model of the task {self.name!r} must be a torch.nn.Module. Got {type(built).__name__}.",
                    hint="Return the trained module itself.",
                )
            self._model = copied(built).cpu().eval()
        return copy.deepcopy(self._model)

    def example_inputs(self, *, batch_size: int = 1, shape: str = "default") -> Inputs:
        """Return the first `batch_size` rows of train, repeated where there are fewer."""
        if shape != "default":
            raise TaskError(f"The task {self.name!r} has one input shape, 'default'. Got {shape!r}.")
        return self._rows.take(np.resize(self._rows.splits["train"], batch_size))

    def batches(
        self, split: Split, *, seed: int, batch_size: int | None = None, limit: int | None = None
    ) -> Iterator[Any]:
        """Yield inputs with answers of one shuffled pass, in batches of nearly equal size, none above `batch_size`.

        Equal sizes spare BatchNorm a last batch of one row.
        """
        rows = self._rows.rows(split, limit=limit, seed=seed)
        count = -(-len(rows) // (batch_size or self.batch_size))
        for part in np.array_split(rows, count):
            yield self._rows.batch(part)

    def corruptions(self) -> Mapping[str, Callable[[Any], Any]]:
        """Return the corruptions that the task was given."""
        return self._corruptions

    def parts_of(self, rows: IntArray) -> Iterator[IntArray]:
        """Yield row numbers in their order, `batch_size` at a time, to score them."""
        for start in range(0, len(rows), self.batch_size):
            yield rows[start : start + self.batch_size]
