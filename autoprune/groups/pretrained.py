"""Pruned Hugging Face model -> configuration that describes it, where there is one.

`save_pretrained` writes weights and a configuration, from which `from_pretrained` builds the modules anew. So sizes
that pruning changed have to stand in the configuration, and only what all layers share can stand there. Which entries
that are is not looked up in a table of names but found: a configuration is right when the model built from it has the
pruned model's shapes, and with the same weights, these and random ones, gives the same outputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.groups.bypass import Bypass
from autoprune.groups.cloning import clone_model
from autoprune.groups.configurations import MARK, Changes, Key, Search
from autoprune.groups.recording import FORWARD_ERRORS, tensors_of
from autoprune.tasks.protocol import Inputs

_CLOSE = 1e-4
_SPREAD = 0.3
_SEED = 0


def is_pretrained(model: nn.Module) -> bool:
    """Tell whether a model is built from a configuration, as those of `transformers` are."""
    config = getattr(model, "config", None)
    return callable(getattr(model, "save_pretrained", None)) and callable(getattr(config, "to_dict", None))


def pretrained_modules(model: nn.Module) -> list[str]:
    """Return the paths of the outermost modules that are built from a configuration; the model itself is ""."""
    found: list[str] = []
    for path, module in model.named_modules():
        if is_pretrained(module) and not any(f"{path}.".startswith(f"{outer}.") or not outer for outer in found):
            found.append(path)
    return found


def describe_pretrained(model: nn.Module, example: Inputs) -> None:
    """Write the sizes of all that is pretrained in a pruned model into its configurations, as `describe` does.

    Args:
        model: Pruned, in eval mode.
        example: Inputs of the model; what it calls its pretrained modules with is observed.
    """
    for path in pretrained_modules(model):
        module = model.get_submodule(path)
        own = _first_call(model, module, example) if path else example
        if own is None:
            _mark(module, "the model does not call it on the example inputs")
        else:
            describe(module, own)


def _first_call(model: nn.Module, module: nn.Module, example: Inputs) -> Inputs | None:
    """Return what a model calls one of its modules with, or None where it does not."""
    seen: list[Inputs] = []
    hook = module.register_forward_pre_hook(lambda _, args, kwargs: seen.append(Inputs(args, kwargs)), with_kwargs=True)
    try:
        _outputs(model, example)
    finally:
        hook.remove()
    return seen[0] if seen else None


def as_configured(model: nn.Module, example: Inputs) -> tuple[nn.Module | None, Changes, str]:
    """Build a model from a configuration that describes a pruned one, with its weights.

    Layers that a `Bypass` stands for are left out, and those after them take their numbers.

    Args:
        model: Pruned, its configuration that of the whole model.
        example: Inputs on which both have to agree.

    Returns:
        The new model or None, the changed entries, and why there is none.
    """
    search = Search.of(model)
    if isinstance(search, str):
        return None, {}, search
    for changes in search.fitting():
        built = search.filled(changes)
        if built is not None and _agree(model, search.plain, built, example):
            return built, changes, ""
    return None, {}, search.reason()


def describe(model: nn.Module, example: Inputs) -> str:
    """Write a pruned model's own sizes into its configuration, in place.

    All modules' configurations are changed, where they had the whole model's value. Where no configuration describes
    the model, or one does only without the modules that stand for removed layers, the sizes stay those of the whole
    model and the entry `autoprune` says why, so that `from_pretrained` fails on what `save_pretrained` wrote.

    Returns:
        Why the configuration does not fit, which is warned of too, or an empty text.
    """
    built, changes, reason = as_configured(model, example)
    if built is not None and any(isinstance(module, Bypass | nn.Identity) for module in _taken(model, built)):
        reason = "layers were removed; autoprune.integrations.hugging_face.as_pretrained makes a model without them"
    if not reason:
        reason = _patch(model, changes, example)
    if reason:
        _mark(model, reason)
    return reason


def _mark(model: nn.Module, reason: str) -> None:
    """Say in a configuration, and in a warning, that it does not describe its model."""
    setattr(model.config, MARK, f"pruned, and these sizes are those of the whole model: {reason}")
    warnings.warn(
        f"The configuration of the pruned {type(model).__name__} keeps the sizes of the whole model: {reason}. What "
        "save_pretrained writes of it, from_pretrained refuses; keep the emitted directory and load that with "
        "autoprune.load.",
        stacklevel=4,
    )


def _patch(model: nn.Module, changes: Changes, example: Inputs) -> str:
    configs = {id(c): c for m in model.modules() if hasattr(c := getattr(m, "config", None), "to_dict")}
    whole = model.config
    before = {key: _value(whole, key) for key in changes}
    expected = _outputs(model, example)

    def write(values: Mapping[Key, Any], where: Mapping[Key, Any]) -> None:
        for config in configs.values():
            for key, value in values.items():
                if _value(config, key) == where[key]:
                    _set(config, key, value)

    write(changes, before)
    if _close(_outputs(model, example), expected):
        return ""
    write(before, changes)
    return "the model's own forward pass reads its configuration"


def _taken(model: nn.Module, built: nn.Module) -> Iterator[nn.Module]:
    """Yield the members of lists that are longer in the pruned model than in the one built."""
    for path, listed in model.named_modules():
        if isinstance(listed, nn.ModuleList | nn.Sequential):
            there = dict(built.named_modules()).get(path)
            if there is None or len(listed) != sum(1 for _ in there.children()):
                yield from listed


def _value(config: Any, key: Key) -> Any:
    name, index = key
    value = getattr(config, name, None)
    return value if index is None or not isinstance(value, list | tuple) else value[index]


def _set(config: Any, key: Key, value: Any) -> None:
    name, index = key
    if index is not None:
        whole = list(getattr(config, name))
        whole[index] = value
        value = whole
    setattr(config, name, value)


def _outputs(model: nn.Module, inputs: Inputs) -> list[Tensor] | None:
    try:
        with torch.no_grad():
            return tensors_of(model(*inputs.args, **inputs.kwargs))
    except FORWARD_ERRORS:
        return None


def _agree(pruned: nn.Module, plain: nn.Module, built: nn.Module, inputs: Inputs) -> bool:
    """Compare outputs with the pruned model's weights, then with random ones, under which small things show."""
    if not _close(_outputs(pruned, inputs), _outputs(built, inputs)):
        return False
    generator = torch.Generator().manual_seed(_SEED)
    drawn = {id(p): (torch.randn(p.shape, generator=generator) * _SPREAD).to(p) for p in plain.parameters()}
    noisy, again = clone_model(plain, drawn), clone_model(built, {})
    again.load_state_dict(noisy.state_dict(), strict=True)
    return _close(_outputs(noisy, inputs), _outputs(again, inputs))


def _close(left: list[Tensor] | None, right: list[Tensor] | None) -> bool:
    if left is None or right is None or [t.shape for t in left] != [t.shape for t in right]:
        return False
    return all(
        torch.allclose(a, b, rtol=_CLOSE, atol=_CLOSE * float(b.abs().max()) if b.numel() else 0.0)
        for a, b in zip(left, right, strict=True)
    )
