"""One forward pass -> what every module was called with, what it returned, and what took that up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autoprune.errors import AutopruneError
from autoprune.tasks.protocol import Inputs

FORWARD_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    AutopruneError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What user code and torch raise where sizes do not fit."""


class Use(NamedTuple):
    """An operator that takes a tensor, and the path of the innermost module around it."""

    operator: str
    module: str


class Call(NamedTuple):
    """One call of a module; `source` is its only argument, a tensor, or None; `output` a tensor or None."""

    source: Tensor | None
    output: Tensor | None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = MappingProxyType({})
    result: Any = None


@dataclass
class Recording:
    """What was seen in one forward pass.

    Args:
        calls: Module path -> its calls in order.
        returned: The tensors that the model returned, in order.
        outputs: Their ids, and of those that they are views of.
    """

    calls: dict[str, list[Call]] = field(default_factory=dict)
    returned: list[Tensor] = field(default_factory=list)
    outputs: set[int] = field(default_factory=set)
    _uses: dict[int, list[Use]] = field(default_factory=dict)
    _seen: list[Tensor] = field(default_factory=list)
    _root: dict[int, int] = field(default_factory=dict)

    def only_call(self, path: str) -> Call | None:
        """Return a module's call where it was called exactly once, with one tensor, and returned one."""
        calls = self.calls.get(path, [])
        if len(calls) != 1 or calls[0].source is None or calls[0].output is None:
            return None
        return calls[0]

    def uses(self, tensor: Tensor) -> Sequence[Use]:
        """Return the operators that took a module's output, or a view of it."""
        return self._uses.get(id(tensor), ())

    def is_read(self, tensor: Tensor, *, outside: str) -> bool:
        """Tell whether a module's output, or what it is a view of, is returned or used outside a module's path."""
        root = self._root[id(tensor)]
        inside = all(f"{use.module}.".startswith(f"{outside}.") for use in self._uses.get(root, ()))
        return not inside or not {id(tensor), root}.isdisjoint(self.outputs)

    def watch(self, tensor: Tensor) -> None:
        """Note from now on what takes a tensor; it is kept, so that its id stays its own."""
        if id(tensor) not in self._root:
            self._seen.append(tensor)
            self._root[id(tensor)] = id(tensor)

    def note(self, operator: Any, module: str, given: Sequence[Tensor], made: Sequence[Tensor]) -> None:
        """Add an operator's use of watched tensors; a view of one counts as the tensor itself."""
        roots = {self._root[id(tensor)] for tensor in given if id(tensor) in self._root}
        for root in roots:
            self._uses.setdefault(root, []).append(Use(str(operator.overloadpacket.__name__), module))
        if operator.is_view and len(roots) == 1:
            self._seen.extend(made)
            self._root.update(dict.fromkeys(map(id, made), *roots))

    def finish(self, outputs: Any) -> None:
        """Note what the model returned."""
        self.returned = tensors_of(outputs)
        found = [id(tensor) for tensor in self.returned]
        self.outputs = {*found, *(self._root[i] for i in found if i in self._root)}


def tensors_of(value: Any) -> list[Tensor]:
    """Return the tensors in nested containers, in order; objects that torch does not know are not looked into."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def record(model: nn.Module, inputs: Inputs) -> Recording:
    """Run a model once in eval mode and return what passed; the model is put into eval mode."""
    recording, stack = Recording(), [""]
    with ExitStack() as hooks, torch.no_grad():
        for path, module in model.eval().named_modules():
            before = module.register_forward_pre_hook(lambda _, __, p=path: stack.append(p))
            after = module.register_forward_hook(_after(recording, path, stack), with_kwargs=True)
            hooks.callback(before.remove)
            hooks.callback(after.remove)
        with _noting(recording, stack):
            outputs = model(*inputs.args, **inputs.kwargs)
    recording.finish(outputs)
    return recording


def _after(recording: Recording, path: str, stack: list[str]) -> Callable[..., None]:
    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        del module
        stack.pop()
        single = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
        made = output if isinstance(output, Tensor) else None
        for tensor in tensors_of(output):
            recording.watch(tensor)
        call = Call(args[0] if single else None, made, args, kwargs, output)
        recording.calls.setdefault(path, []).append(call)

    return note


def _noting(recording: Recording, stack: Sequence[str]) -> AbstractContextManager[Any]:
    """Note every operator that runs within the context; torch leaves the class of such contexts untyped."""

    def dispatch(mode: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del mode, types
        made = func(*args, **(kwargs or {}))
        recording.note(func, stack[-1], tensors_of((args, kwargs)), tensors_of(made))
        return made

    context: AbstractContextManager[Any] = type("Noting", (TorchDispatchMode,), {"__torch_dispatch__": dispatch})()
    return context
