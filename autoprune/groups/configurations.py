"""Whole model's configuration + pruned model's shapes -> configurations of those shapes, nearest first."""

from __future__ import annotations

import copy
import heapq
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from autoprune.groups.bypass import Bypass
from autoprune.groups.cloning import clone_model, named_tensors

MARK = "autoprune"
_BUILDS = 300

Key = tuple[str, int | None]
Changes = dict[Key, int]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass
class Search:
    """Looks for a configuration.

    Args:
        plain: The pruned model without stand-ins for removed layers; it shares the pruned one's tensors.
        config: That of the whole model.
        wanted: Shapes that a built model has to have.
        options: Entry -> other values that it may have.
        lengths: Length of a list of layers in the whole model -> which of them went.
        nearest: What differs at the best configuration so far.
    """

    plain: nn.Module
    config: Any
    wanted: Shapes
    options: dict[Key, list[int]]
    lengths: dict[int, set[int]]
    nearest: list[str] = field(default_factory=list)
    _scores: dict[frozenset[tuple[Key, int]], int] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module) -> Search | str:
        """Observe what pruning changed; return why there is nothing to compare with, if so."""
        config: Any = model.config
        whole = _built(type(model), config, config.to_dict(), meta=True)
        if whole is None:
            return "its class cannot be built from its configuration"
        plain = clone_model(model, {id(tensor): tensor.detach() for tensor in named_tensors(model).values()})
        lengths = _drop_stand_ins(plain, whole)
        before, after = _shapes(whole), _shapes(model)
        uneven = _uneven(before, after)
        if uneven:
            return uneven
        sizes = {
            (old, new)
            for name in before.keys() & after.keys()
            for old, new in zip(before[name], after[name], strict=False)
            if old != new
        }
        counts = {(length, length - len(gone)) for length, gone in lengths.items()}
        options = {key: _possible(value, sizes, counts) for key, value in _entries(config)}
        options = {key: values for key, values in options.items() if values}
        return cls(plain, config, _shapes(plain), options, lengths)

    def fitting(self) -> Iterator[Changes]:
        """Yield changes with which the shapes fit.

        Best first: what leaves the fewest differences is extended by every other entry. Where shapes fit, extensions
        that keep them so follow: what shapes do not show (heads, where the width fits) has to be tried.
        """
        turn = itertools.count()
        queue: list[tuple[int, int, int, Changes]] = [(self.score({}), 0, next(turn), {})]
        seen = {frozenset[tuple[Key, int]]()}
        while queue and len(self._scores) < _BUILDS:
            best, _, _, changes = heapq.heappop(queue)
            if best == 0:
                yield changes
            for key in self._next(best, changes):
                for value in self.options[key]:
                    longer = {**changes, key: value}
                    if frozenset(longer.items()) not in seen:
                        seen.add(frozenset(longer.items()))
                        heapq.heappush(queue, (self.score(longer), len(longer), next(turn), longer))

    def _next(self, score: int, changes: Changes) -> list[Key]:
        """Return entries to add: where shapes differ those alone that change a shape, if the model could be built."""
        left = [key for key in self.options if key not in changes]
        if score in (0, self._unbuilt):
            return left
        return [key for key in left if any(self.score({key: v}) != self.score({}) for v in self.options[key])]

    @property
    def _unbuilt(self) -> int:
        """The score of a configuration from which no model can be built: worse than any other."""
        return sum(_distance(None, shape) for shape in self.wanted.values()) * 2 + 1

    def score(self, changes: Changes) -> int:
        """Return how many dimensions of a model with these changes have another size, or are missing or too many."""
        key = frozenset(changes.items())
        if key not in self._scores:
            built = _built(type(self.plain), self.config, self._document(changes), meta=True)
            if built is None:
                self._scores[key] = self._unbuilt
                return self._unbuilt
            found = _shapes(built)
            names = found.keys() | self.wanted.keys()
            differ = sorted(name for name in names if found.get(name) != self.wanted.get(name))
            self._scores[key] = sum(_distance(found.get(name), self.wanted.get(name)) for name in differ)
            if self._scores[key] <= min(self._scores.values()):
                self.nearest = differ
        return self._scores[key]

    def filled(self, changes: Changes) -> nn.Module | None:
        """Return a model with these changes and the pruned model's weights, or None where they do not fit."""
        with torch.random.fork_rng(devices=[]):
            built: nn.Module | None = _built(type(self.plain), self.config, self._document(changes), meta=False)
        if built is None:
            return None
        like = next(iter(self.plain.parameters()))
        built = built.to(device=like.device, dtype=like.dtype).eval()
        try:
            built.load_state_dict(self.plain.state_dict(), strict=True)
        except RuntimeError:
            return None
        return built

    def reason(self) -> str:
        """Say why no configuration fits."""
        if self.nearest:
            return f"no configuration gives {self.nearest[0]!r} the shape {self.wanted.get(self.nearest[0])}"
        return "a model of the same shapes computes something else: the size of its heads differs"

    def _document(self, changes: Changes) -> dict[str, Any]:
        """Return the configuration as a dictionary; lists of one entry a layer lose those of removed layers."""
        document: dict[str, Any] = copy.deepcopy(self.config.to_dict())
        document.pop(MARK, None)
        for name, value in document.items():
            if isinstance(value, list) and len(value) in self.lengths and not all(type(v) is int for v in value):
                document[name] = [v for i, v in enumerate(value) if i not in self.lengths[len(value)]]
        for (name, index), value in changes.items():
            if index is None:
                document[name] = value
            else:
                document[name] = [*document[name][:index], value, *document[name][index + 1 :]]
        return document


def _drop_stand_ins(plain: nn.Module, whole: nn.Module) -> dict[int, set[int]]:
    """Take what stands for removed layers out of the lists; return length of a list -> numbers that went."""
    gone: dict[int, set[int]] = {}
    for path, listed in list(plain.named_modules()):
        if not isinstance(listed, nn.ModuleList | nn.Sequential):
            continue
        own = list(whole.get_submodule(path).children())
        out = {i for i, m in enumerate(listed) if isinstance(m, Bypass) or type(m) is nn.Identity is not type(own[i])}
        if out:
            gone[len(own)] = out
            for index in sorted(out, reverse=True):
                del listed[index]
    return gone


def _distance(left: tuple[int, ...] | None, right: tuple[int, ...] | None) -> int:
    """Return how many dimensions of two shapes differ; of one that is missing all do, and one more."""
    if left is None or right is None or len(left) != len(right):
        return max(len(left or ()), len(right or ())) + 1
    return sum(a != b for a, b in zip(left, right, strict=True))


def _uneven(before: Shapes, after: Shapes) -> str:
    """Return which tensors of the same place in several layers were alike and are no more, or an empty text."""
    first: dict[tuple[str, tuple[int, ...]], str] = {}
    for name in sorted(before.keys() & after.keys()):
        other = first.setdefault((re.sub(r"\d+", "*", name), before[name]), name)
        if after[other] != after[name]:
            return f"layers differ: {other!r} has shape {after[other]}, {name!r} {after[name]}"
    return ""


def _entries(config: Any) -> Iterator[tuple[Key, int]]:
    """Yield every entry of a configuration that may be a size: integers above 1, alone or in a list; 0 where unset."""
    for name, value in config.to_dict().items():
        if value is None or (type(value) is int and value > 1):
            yield (name, None), value or 0
        elif isinstance(value, list | tuple) and all(type(item) is int for item in value):
            yield from (((name, index), item) for index, item in enumerate(value))


def _possible(value: int, sizes: set[tuple[int, int]], counts: set[tuple[int, int]]) -> list[int]:
    """Return what an entry may have become when sizes that are a multiple of it became others."""
    if not value:
        return sorted({new for _, new in sizes})
    found = {new // (old // value) for old, new in sizes if old % value == 0 and new % (old // value) == 0}
    return sorted((found | {new for old, new in counts if old == value}) - {value, 0})


def _built(kind: Callable[[Any], nn.Module], config: Any, document: Mapping[str, Any], *, meta: bool) -> Any:
    """Return a model of a configuration, without memory for its weights or with, or None where it cannot be."""
    # Configurations and classes refuse sizes that do not go together by errors of many kinds; any is an answer.
    with suppress(Exception):
        made = type(config).from_dict(dict(document))
        if hasattr(config, "_attn_implementation"):
            vars(made)["_attn_implementation_internal"] = vars(config).get("_attn_implementation_internal")
        with torch.device("meta" if meta else "cpu"):
            return kind(made)
    return None


def _shapes(model: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}
