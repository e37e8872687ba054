"""Named plug-ins: a decorator to add one, a lookup whose error names the nearest known name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import TypeVar

from autoprune.errors import AutopruneError, UnknownNameError

T = TypeVar("T")


def nearest(name: str, known: list[str], *, count: int = 3) -> list[str]:
    """Return up to `count` known names most similar to `name`, best first."""
    lowered = {k.lower(): k for k in known}
    return [lowered[m] for m in difflib.get_close_matches(name.lower(), list(lowered), n=count, cutoff=0.5)]


def unknown_name(kind: str, name: str, known: list[str]) -> UnknownNameError:
    """Build the error for a name that does not exist, with the close match and the full list."""
    close = nearest(name, known, count=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    return UnknownNameError(f"Unknown {kind} {name!r}.{guess}", hint=f"Known: {', '.join(sorted(known)) or 'none'}.")


class Registry(Mapping[str, T]):
    """Mapping from name to plug-in of one kind.

    Args:
        kind: What the plug-ins are, for messages ("criterion").
        group: Entry-point group from which third parties' plug-ins are loaded on first lookup.
    """

    def __init__(self, kind: str, *, group: str | None = None) -> None:
        self.kind = kind
        self._group = group
        self._items: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that adds its argument under `name`; a second one of that name is an error."""

        def add(item: T) -> T:
            if name in self._items:
                raise AutopruneError(f"The {self.kind} {name!r} is registered twice.")
            self._items[name] = item
            return item

        return add

    def _load_plugins(self) -> None:
        group, self._group = self._group, None
        loaded = {}
        for point in entry_points(group=group) if group else ():
            try:
                loaded[point.name] = point.load()
            except Exception as error:
                self._group = group
                raise AutopruneError(
                    f"The {self.kind} {point.name!r} ({point.value}) cannot be loaded: {type(error).__name__}: {error}",
                    hint="Mend or uninstall the package that declares it.",
                ) from error
        for name, item in loaded.items():
            self._items.setdefault(name, item)

    def __getitem__(self, name: str) -> T:
        self._load_plugins()
        try:
            return self._items[name]
        except KeyError:
            raise unknown_name(self.kind, name, list(self._items)) from None

    def __iter__(self) -> Iterator[str]:
        self._load_plugins()
        return iter(sorted(self._items))

    def __len__(self) -> int:
        self._load_plugins()
        return len(self._items)

    def __contains__(self, name: object) -> bool:
        self._load_plugins()
        return name in self._items
