"""What the user brings: a trained model, its data and its metric."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.tasks.access import GuardedTask, TestAccess
    from autoprune.tasks.arrays import LabelledArrays
    from autoprune.tasks.base import BaseTask
    from autoprune.tasks.cache import trained_once
    from autoprune.tasks.classification import ClassificationTask
    from autoprune.tasks.contract import check_task
    from autoprune.tasks.corruptions import image_corruptions
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
    from autoprune.tasks.subsets import class_balance, stratified_subset

_HOMES = {
    "BaseTask": "base",
    "ClassificationTask": "classification",
    "Evaluated": "protocol",
    "GuardedTask": "access",
    "Inputs": "protocol",
    "LabelledArrays": "arrays",
    "MetricSpec": "protocol",
    "Predict": "protocol",
    "RecoverContext": "protocol",
    "SPLITS": "protocol",
    "Sample": "protocol",
    "Split": "protocol",
    "Task": "protocol",
    "TaskRef": "reference",
    "TestAccess": "access",
    "check_task": "contract",
    "class_balance": "subsets",
    "image_corruptions": "corruptions",
    "class_names_of": "optional",
    "evaluate_shift": "optional",
    "load_task": "reference",
    "samples_of": "optional",
    "shifts_of": "optional",
    "signal_of": "optional",
    "stratified_subset": "subsets",
    "trained_once": "cache",
}

__all__ = [
    "SPLITS",
    "BaseTask",
    "ClassificationTask",
    "Evaluated",
    "GuardedTask",
    "Inputs",
    "LabelledArrays",
    "MetricSpec",
    "Predict",
    "RecoverContext",
    "Sample",
    "Split",
    "Task",
    "TaskRef",
    "TestAccess",
    "check_task",
    "class_balance",
    "class_names_of",
    "evaluate_shift",
    "image_corruptions",
    "load_task",
    "samples_of",
    "shifts_of",
    "signal_of",
    "stratified_subset",
    "trained_once",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
