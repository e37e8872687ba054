"""CSV file or arrays -> checked, split rows of a regression task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from autoprune.errors import TaskError
from autoprune.tasks.arrays import checked_inputs, digest_of
from autoprune.tasks.protocol import SPLITS, Inputs
from autoprune.tasks.splits import complete_splits
from autoprune.tasks.subsets import stratified_subset

STRATA = 5
TRAIN, VAL = 0.7, 0.15

Floats = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of numbers with one number to predict, cut into splits; checked as it is made.

    Args:
        x: [n, ...] finite inputs, arrays or tensors; stored as float32.
        y: [n] finite numbers to predict, in their own unit.
        splits: Split name -> row numbers. Left out as a whole: 70% train, 15% val and 15% test, drawn so that each has
            small and large targets alike. Left out alone: `calibration` and `tune` are two such halves of train.
        last: [n] the value that was known last before the one to predict, where rows follow each other in time: the
            persistence forecast.
        dropped: Rows that were left out because a value of theirs is missing.
        unit: What one row is.
        seed: Seed of the splits that are made here.

    Raises:
        TaskError: Data that no honest measurement can come from: empty, constant, not finite, shapes or splits wrong.
    """

    x: Any
    y: Any
    splits: Mapping[str, Any] = field(default_factory=dict)
    last: Any = None
    dropped: int = 0
    unit: str = "row"
    seed: int = 0

    def __post_init__(self) -> None:
        y = _targets("Targets", self.y)
        object.__setattr__(self, "x", checked_inputs(self.x, len(y)))
        object.__setattr__(self, "y", y)
        if self.last is not None:
            last = _targets("Last values", self.last)
            if len(last) != len(y):
                raise TaskError(f"{len(last)} last values do not go with {len(y)} targets.")
            object.__setattr__(self, "last", last)
        object.__setattr__(self, "splits", complete_splits(self.splits, self._strata, self.seed))
        if np.ptp(y[self.splits["train"]]) == 0:
            raise TaskError(f"All targets of train are {y[0]:g}.", hint="There is nothing to predict.")

    @classmethod
    def from_frame(
        cls, frame: pd.DataFrame, target: str, *, last: str | None = None, in_time: bool = False, seed: int = 0
    ) -> Table:
        """Return the rows of a frame that miss no value; all columns but the target are inputs.

        Args:
            frame: Columns of numbers.
            target: The column to predict.
            last: The column that holds the value known last.
            in_time: Rows follow each other in time: the first 70% are train, the next 15% val, the rest test, so that
                nothing is predicted from its future.
            seed: Seed of the splits where rows are not in time.

        Raises:
            TaskError: A column is absent or holds no numbers, or no honest measurement can come from the rows.
        """
        absent = [name for name in (target, last) if name is not None and name not in frame.columns]
        if absent:
            known = ", ".join(map(str, frame.columns))
            raise TaskError(f"The table has no column {absent[0]!r}.", hint=f"Its columns: {known}.")
        _check_columns(frame)
        whole = frame.replace([np.inf, -np.inf], np.nan).dropna()
        splits = _in_time(len(whole)) if in_time else {}
        return cls(
            whole.drop(columns=target).to_numpy(np.float32),
            whole[target].to_numpy(np.float64),
            splits,
            last=None if last is None else whole[last].to_numpy(np.float64),
            dropped=len(frame) - len(whole),
            seed=seed,
        )

    @cached_property
    def targets(self) -> Tensor:
        """[n] targets as a float32 tensor."""
        return torch.from_numpy(self.y.astype(np.float32))

    @cached_property
    def fingerprint(self) -> str:
        """Digest of inputs, targets, values known last, splits and unit."""
        last = {} if self.last is None else {"last": self.last}
        return digest_of(self.unit, {"x": self.x.numpy(), "y": self.y, **last, **{s: self.splits[s] for s in SPLITS}})

    def rows(self, split: str, *, limit: int | None = None, seed: int = 0) -> IntArray:
        """Return the rows of a split, shuffled by `seed`; `limit` draws that many, small and large targets alike."""
        rows: IntArray = self.splits[split]
        return rows[stratified_subset(self._strata[rows], limit, np.random.default_rng(seed))]

    def take(self, rows: IntArray) -> Inputs:
        """Return the model's inputs of some rows."""
        return Inputs((self.x[rows],), {})

    def batch(self, rows: IntArray) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of some rows, to train on."""
        return self.x[rows], self.targets[rows]

    @cached_property
    def _strata(self) -> IntArray:
        """[n] fifth of the targets that each row belongs to."""
        edges = np.quantile(self.y, np.linspace(0.0, 1.0, STRATA + 1)[1:-1])
        strata: IntArray = np.searchsorted(edges, self.y).astype(np.int64)
        return strata


def read_table(source: str | Path | IO[bytes], columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return a CSV file with a header as a frame; empty cells, NA and NaN are missing values.

    Args:
        source: Path or open file.
        columns: Columns to keep, all by default.

    Raises:
        TaskError: The file cannot be read as CSV or lacks a column.
    """
    try:
        frame = pd.read_csv(source)
    except (OSError, ValueError) as error:
        raise TaskError(f"Cannot read the table: {error}", hint="Give a CSV file with a header.") from error
    for name in columns or ():
        if name not in frame.columns:
            known = ", ".join(map(str, frame.columns))
            raise TaskError(f"The table has no column {name!r}.", hint=f"Its columns: {known}.")
    return frame if columns is None else frame[list(columns)]


def _check_columns(frame: pd.DataFrame) -> None:
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise TaskError(f"The table has several columns {str(twice[0])!r}.", hint="Give each a name of its own.")
    if len(frame.columns) < 2:
        raise TaskError("The table has no column but the one to predict.", hint="Give it columns to predict from.")
    for name, kind in frame.dtypes.items():
        if not pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_complex_dtype(kind):
            raise TaskError(f"The column {str(name)!r} holds no real numbers.", hint="Encode it, or leave it out.")


def _in_time(count: int) -> dict[str, IntArray]:
    cuts = [round(TRAIN * count), round((TRAIN + VAL) * count)]
    return dict(zip(("train", "val", "test"), np.split(np.arange(count), cuts), strict=True))


def _targets(what: str, value: Any) -> Floats:
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.ndim != 1 or array.dtype.kind not in "fiu":
        raise TaskError(f"{what} must be [n] numbers. Got shape {array.shape} of {array.dtype}.")
    found = array.astype(np.float64)
    bad = ~np.isfinite(found)
    if bad.any():
        raise TaskError(
            f"{int(bad.sum())} of {len(bad)} {what.lower()} are NaN or infinity, the first is row {int(bad.argmax())}.",
            hint="Drop those rows; Table.from_frame does.",
        )
    return found
