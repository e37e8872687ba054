"""Reference in a config -> the user's task. Only the reference travels to workers; each builds the task once."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, cast

from autoprune.errors import TaskError
from autoprune.registry import nearest
from autoprune.tasks.failures import describe, user_code

if TYPE_CHECKING:
    from autoprune.tasks.protocol import Task

FORM = "Write task: file.py:factory (relative to the config) or task: package.module:factory."
REQUIRED = (
    *("name", "metrics", "protect", "fingerprint", "build_model", "example_inputs", "batches", "inputs", "loss"),
    *("evaluate", "aggregate", "recover", "move", "distill_loss", "structure", "corruptions"),
)


@dataclass(frozen=True)
class TaskRef:
    """Where a task comes from: importing it runs the user's own code, so references are read from configs only.

    Args:
        factory: `file.py:function`, relative to `base`, or `package.module:function`.
        args: Keyword arguments of the function.
        base: Directory of the config; the working directory when None.
    """

    factory: str
    args: Mapping[str, Any] = field(default_factory=dict)
    base: Path | None = None

    @property
    def file(self) -> Path | None:
        """The task's source file, or None for a `package.module` reference."""
        source, _ = _split(self.factory)
        return (self._directory / source).resolve() if source.endswith(".py") else None

    @property
    def sha256(self) -> str:
        """Digest of the source file, or the empty string for a `package.module` reference or a missing file."""
        file = self.file
        return hashlib.sha256(file.read_bytes()).hexdigest() if file is not None and file.is_file() else ""

    def load(self) -> Task:
        """Import the factory, call it and return the task.

        Raises:
            TaskError: The factory cannot be found or imported, refuses its arguments, fails, or returns no task.
        """
        source, name = _split(self.factory)
        file = self.file
        module = _import_module(source, self._directory) if file is None else _import_file(file)
        factory = _factory_of(module, name, self.factory)
        _check_arguments(factory, self.args, self.factory)
        with user_code(f"The task factory {self.factory}"):
            task = factory(**self.args)
        return _checked(task, self.factory)

    @property
    def _directory(self) -> Path:
        return (self.base or Path()).resolve()


def load_task(reference: str, args: Mapping[str, Any] | None = None, *, base: Path | None = None) -> Task:
    """Return the task that a reference names; see `TaskRef`."""
    return TaskRef(reference, dict(args or {}), base).load()


class _FreshLoader(SourceFileLoader):
    """Compiles the source anew and writes no byte code beside the user's file."""

    def get_code(self, fullname: str) -> CodeType | None:
        return self.source_to_code(self.get_data(self.get_filename(fullname)), self.path)


def _split(reference: str) -> tuple[str, str]:
    source, _, name = reference.rpartition(":")
    if not source or not name.isidentifier():
        raise TaskError(f"task: {reference!r} names no factory.", hint=FORM)
    return source, name


def _import_file(file: Path) -> ModuleType:
    if not file.is_file():
        names = sorted(p.name for p in file.parent.glob("*.py")) if file.parent.is_dir() else []
        close = nearest(file.name, names, count=1)
        guess = f" Did you mean {close[0]}?" if close else ""
        raise TaskError(f"The task file {file} does not exist.{guess}", hint=FORM)
    digest = hashlib.sha256(str(file).encode() + b"\0" + file.read_bytes()).hexdigest()[:12]
    module_name = f"autoprune_task_{file.stem}_{digest}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_loader(module_name, _FreshLoader(module_name, str(file)), origin=str(file))
    if spec is None or spec.loader is None:
        raise TaskError(f"{file} is no Python source.", hint=FORM)
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(file)
    _make_importable(file.parent)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise _import_error(str(file), error) from error
    return module


def _import_module(name: str, directory: Path) -> ModuleType:
    _make_importable(directory)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            message = f"The task's module {name!r} is not found, neither installed nor in {directory}."
            raise TaskError(message, hint=FORM) from error
        raise _import_error(name, error) from error
    except (Exception, SystemExit) as error:
        raise _import_error(name, error) from error


def _import_error(source: str, error: BaseException) -> TaskError:
    hint = "Make the file import without errors; importing it must not start anything."
    if isinstance(error, ModuleNotFoundError):
        hint = f"Install {error.name!r} into the environment that runs autoprune."
    return TaskError(f"Importing the task from {source} failed: {describe(error)}.", hint=hint)


def _make_importable(directory: Path) -> None:
    """Let the task import modules beside it; last in line, so that they cannot hide an installed package."""
    if str(directory) not in sys.path:
        sys.path.append(str(directory))


def _factory_of(module: ModuleType, name: str, reference: str) -> Callable[..., object]:
    factory = getattr(module, name, None)
    if callable(factory):
        return cast("Callable[..., object]", factory)
    own = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", None) == module.__name__]
    if factory is not None:
        raise TaskError(f"task: {reference!r} names a {type(factory).__name__}, which cannot be called.", hint=FORM)
    close = nearest(name, own, count=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    raise TaskError(
        f"task: {reference!r}: the module has no {name!r}.{guess}",
        hint=f"It defines: {', '.join(own) or 'nothing callable'}.",
    )


def _check_arguments(factory: Callable[..., object], args: Mapping[str, Any], reference: str) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(**args)
    except TypeError as error:
        known = list(signature.parameters)
        close = [f"{m!r}" for a in args if a not in known for m in nearest(a, known, count=1)]
        guess = f" Did you mean {', '.join(close)}?" if close else ""
        raise TaskError(f"task_args do not fit {reference}: {error}.{guess}", hint=f"It takes {signature}.") from error


def _checked(task: object, reference: str) -> Task:
    with user_code(f"Looking at the task of {reference}"):
        missing = [name for name in REQUIRED if not hasattr(task, name)]
    if missing:
        raise TaskError(
            f"{reference} returned a {type(task).__name__}, which is no task: it lacks {', '.join(missing)}.",
            hint="Return a ClassificationTask, or an object of a class that derives from autoprune.tasks.BaseTask.",
        )
    return cast("Task", task)
