"""What the user brings: a trained model, its data and its metric."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.tasks.access import GuardedTask, TestAccess
    from autoprune.tasks.arrays import LabelledArrays
    from autoprune.tasks.base import BaseTask
    from autoprune.tasks.boxes import overlaps, suppress
    from autoprune.tasks.cache import trained_once
    from autoprune.tasks.classification import ClassificationTask
    from autoprune.tasks.contract import check_task
    from autoprune.tasks.corruptions import image_corruptions
    from autoprune.tasks.detection import Detections, DetectionTask
    from autoprune.tasks.idx import FASHION_CLASSES, FASHION_MNIST, load_idx, read_idx, read_idx_pair
    from autoprune.tasks.language import LanguageModelTask, Passages
    from autoprune.tasks.optional import class_names_of, evaluate_shift, samples_of, shifts_of, signal_of
    from autoprune.tasks.protocol import (
        SPLITS,
        Evaluated,
        Inputs,
        MetricSpec,
        Predict,
        RecoverContext,
        Sample,
        Split,
        Task,
    )
    from autoprune.tasks.reference import TaskRef, load_task
    from autoprune.tasks.regression import RegressionTask
    from autoprune.tasks.scenes import Scenes
    from autoprune.tasks.subsets import class_balance, stratified_subset
    from autoprune.tasks.tables import Table, read_table
    from autoprune.tasks.text import LabelledTokens, TextClassificationTask

_HOMES = {
    "BaseTask": "base",
    "ClassificationTask": "classification",
    "DetectionTask": "detection",
    "Detections": "detection",
    "Evaluated": "protocol",
    "FASHION_CLASSES": "idx",
    "FASHION_MNIST": "idx",
    "GuardedTask": "access",
    "Inputs": "protocol",
    "LabelledArrays": "arrays",
    "LabelledTokens": "text",
    "LanguageModelTask": "language",
    "MetricSpec": "protocol",
    "Passages": "language",
    "Predict": "protocol",
    "RecoverContext": "protocol",
    "RegressionTask": "regression",
    "SPLITS": "protocol",
    "Sample": "protocol",
    "Scenes": "scenes",
    "Split": "protocol",
    "Table": "tables",
    "Task": "protocol",
    "TaskRef": "reference",
    "TestAccess": "access",
    "TextClassificationTask": "text",
    "check_task": "contract",
    "class_balance": "subsets",
    "class_names_of": "optional",
    "evaluate_shift": "optional",
    "image_corruptions": "corruptions",
    "load_idx": "idx",
    "load_task": "reference",
    "overlaps": "boxes",
    "read_idx": "idx",
    "read_idx_pair": "idx",
    "read_table": "tables",
    "samples_of": "optional",
    "shifts_of": "optional",
    "signal_of": "optional",
    "stratified_subset": "subsets",
    "suppress": "boxes",
    "trained_once": "cache",
}

__all__ = [
    "FASHION_CLASSES",
    "FASHION_MNIST",
    "SPLITS",
    "BaseTask",
    "ClassificationTask",
    "DetectionTask",
    "Detections",
    "Evaluated",
    "GuardedTask",
    "Inputs",
    "LabelledArrays",
    "LabelledTokens",
    "LanguageModelTask",
    "MetricSpec",
    "Passages",
    "Predict",
    "RecoverContext",
    "RegressionTask",
    "Sample",
    "Scenes",
    "Split",
    "Table",
    "Task",
    "TaskRef",
    "TestAccess",
    "TextClassificationTask",
    "check_task",
    "class_balance",
    "class_names_of",
    "evaluate_shift",
    "image_corruptions",
    "load_idx",
    "load_task",
    "overlaps",
    "read_idx",
    "read_idx_pair",
    "read_table",
    "samples_of",
    "shifts_of",
    "signal_of",
    "stratified_subset",
    "suppress",
    "trained_once",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
