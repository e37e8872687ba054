"""Block -> what stands for it once it is removed: some of its arguments, in the structure of its outputs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from autoprune.groups.recording import Recording
from autoprune.groups.types import Argument, Returns

_PLAIN = (bool, int, float, str)


class Bypass(nn.Module):
    """Hands arguments on as the removed block returned its outputs.

    Attributes of the block that are numbers or words stay readable: models ask their layers for some
    (`attention_type`).

    Args:
        block: What it stands for; nothing of it is kept but those attributes.
        returns: The argument that is returned, or for a tuple of outputs one each, None where None is returned.
    """

    def __init__(self, block: nn.Module, returns: Argument | tuple[Argument | None, ...]) -> None:
        super().__init__()
        own = {k: v for k, v in vars(block).items() if type(v) in _PLAIN and not k.startswith("_")}
        self.__dict__.update(own)
        self.returns = returns

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the arguments that stand for the block's outputs."""
        if not isinstance(self.returns, tuple):
            return argument(self.returns, args, kwargs)
        return tuple(None if key is None else argument(key, args, kwargs) for key in self.returns)

    def extra_repr(self) -> str:
        """Say what is returned."""
        return repr(self.returns)


def stand_in(block: nn.Module, returns: Returns) -> nn.Module:
    """Return what takes a removed block's place; the identity where nothing but one tensor goes in and out."""
    return nn.Identity() if returns is None else Bypass(block, returns)


def argument(key: Argument, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return a call's argument by its position or its name."""
    return args[key] if isinstance(key, int) else kwargs[key]


def main_argument(returns: Returns) -> Argument:
    """Return which argument a removed block's first output is."""
    first = returns[0] if isinstance(returns, tuple) else returns
    return 0 if first is None else first


def main_output(outputs: Any) -> Any:
    """Return a block's first output."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def misfit(block: nn.Module, returns: Returns) -> str:
    """Return why a block cannot be called with the arguments that its stand-in returns, or an empty text."""
    names = inspect.signature(block.forward).parameters.values()
    kinds = {parameter.kind for parameter in names}
    known = {parameter.name for parameter in names if parameter.kind is not parameter.POSITIONAL_ONLY}
    places = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in names)
    for key in returns if isinstance(returns, tuple) else (returns,):
        if isinstance(key, str) and key not in known and inspect.Parameter.VAR_KEYWORD not in kinds:
            return f"has {type(block).__name__} there, which takes no argument {key!r}"
        if isinstance(key, int) and key >= places and inspect.Parameter.VAR_POSITIONAL not in kinds:
            return f"has {type(block).__name__} there, which takes {places} positional arguments"
    return ""


def returns_of(seen: Recording, path: str) -> tuple[Argument, Returns] | None:
    """Return which argument a block's main input is, and what can stand for its outputs; None where nothing can.

    The main input is the first tensor of a call, the main output the block's only output or the first of a tuple. Of
    the others, one that is an argument itself is handed on, and one that nothing outside reads (attention weights that
    were not asked for) becomes None.
    """
    call = seen.calls[path][0]
    given: dict[Argument, Any] = dict(enumerate(call.args))
    given.update(call.kwargs)
    source = next((key for key, value in given.items() if isinstance(value, Tensor)), None)
    if source is None or not isinstance(main_output(call.result), Tensor):
        return None
    if not isinstance(call.result, tuple):
        return source, (None if call.source is not None else source)
    others: list[Argument | None] = []
    for leaf in call.result[1:]:
        same = next((key for key, value in given.items() if value is leaf), None) if leaf is not None else None
        if (
            same is None
            and leaf is not None
            and not (isinstance(leaf, Tensor) and not seen.is_read(leaf, outside=path))
        ):
            return None
        others.append(same)
    return source, (source, *others)
