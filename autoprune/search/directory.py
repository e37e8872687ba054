"""A run's directory: created only when everything is checked, refused when it holds something else."""

from __future__ import annotations

import json
import math
import os
import platform
import secrets
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from autoprune.config import RunConfig, changes_since, dump_config, read_yaml
from autoprune.errors import ConfigError, OutputError
from autoprune.records.lock import LOCK_FILE
from autoprune.storage import is_temporary, parse_json, read_regular, storage_errors, write_file
from autoprune.storage.faults import fault_point

CONFIG_FILE = "config.yaml"
ENVIRONMENT_FILE = "environment.json"
EVENTS_FILE = "events.jsonl"
CHECKSUM = "crc32"
INDEX_BEHIND, INDEX_SETTLED = "index_behind", "index_settled"
_LIMIT = 16 << 20
FRONT_FILE = "front.json"
PACKAGES = ("autoprune", "torch", "numpy", "optuna", "ray", "scikit-learn", "onnx", "onnxruntime", "torch-pruning")


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run.

    Args:
        path: results/<name>.
    """

    path: Path

    @property
    def started(self) -> bool:
        """Whether a run has been set up here."""
        return (self.path / CONFIG_FILE).is_file()

    def check(self) -> None:
        """Refuse a path that cannot become a run directory, before any work.

        Raises:
            OutputError: It is a file, it is not writable, or it holds files that are no run's.
        """
        try:
            nearest = next(f for f in (self.path, *self.path.parents) if f.exists())
        except OSError as error:
            raise _no_output(self.path, str(error.strerror)) from error
        if not nearest.is_dir():
            raise _no_output(nearest, "it is a file, not a directory")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise _no_output(nearest, "it is not writable")
        if self.path.is_dir() and not self.started and any(not _is_ours(p.name) for p in self.path.iterdir()):
            raise OutputError(
                f"{self.path} holds files that belong to no run of autoprune.", hint="Choose another --name."
            )

    def create(self) -> None:
        """Make the directory where it is missing.

        Raises:
            OutputError: It cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _no_output(self.path, str(error.strerror)) from error

    def prepare(self, config: RunConfig, about: Mapping[str, Any], *, accept_changes: bool) -> None:
        """Create the directory, or check that what it holds may be continued by this configuration.

        Args:
            config: The run's configuration.
            about: Facts kept beside the environment; those under `identity` (digests of task and data) are compared
                on resume.
            accept_changes: Continue in spite of differences.

        Raises:
            ConfigError: The earlier run had another configuration, task or data.
        """
        if self.started and not accept_changes:
            self._refuse_changes(config, about["identity"])
        write_file(self.path / CONFIG_FILE, dump_config(config).encode())
        write_file(self.path / ENVIRONMENT_FILE, json.dumps(environment() | dict(about), indent=2).encode())

    def about(self) -> dict[str, Any]:
        """Return what `prepare` kept; empty where it cannot be read."""
        try:
            document = parse_json(read_regular(self.path / ENVIRONMENT_FILE, limit=_LIMIT))
        except (OSError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}

    def _refuse_changes(self, config: RunConfig, identity: Mapping[str, str]) -> None:
        changed = changes_since(read_yaml(self.path / CONFIG_FILE), config)
        known = self.about().get("identity", {})
        changed += [f"{k} has changed" for k, v in identity.items() if k in known and known[k] != v]
        if changed:
            raise ConfigError(
                f"{self.path} holds a run that differs from this one: {'; '.join(changed)}.",
                hint="Choose another --name, or continue it all the same with --accept-changes.",
                problems=changed,
            )


def _is_ours(name: str) -> bool:
    """Tell whether a run that was killed before it had a configuration may have left a file of that name."""
    return name == LOCK_FILE or is_temporary(name)


def _no_output(path: Path, why: str) -> OutputError:
    return OutputError(f"{path} cannot hold a run: {why}.", hint="Choose another --set output=DIR.")


class EventLog:
    """Appends one JSON line an event; times are seconds since this call of the run started, by the monotonic clock.

    Args:
        path: The file.

    Attributes:
        workers_cpu_s: Processor seconds that other processes have reported for their candidates.
    """

    def __init__(self, path: Path) -> None:
        self.workers_cpu_s = 0.0
        self._path = path
        self._start = time.monotonic()
        self._cpu_start = _cpu_s()
        self._session = f"{datetime.now(UTC).isoformat(timespec='seconds')}-{secrets.token_hex(4)}"

    @property
    def elapsed(self) -> float:
        """Seconds since this call started."""
        return time.monotonic() - self._start

    @property
    def cpu_s(self) -> float:
        """Processor seconds of this call: of this process, and of its workers as far as they have reported or ended."""
        own, children = _cpu_s()
        return own - self._cpu_start[0] + max(children - self._cpu_start[1], self.workers_cpu_s)

    def add(self, event: str, **details: Any) -> None:
        """Append an event, on a line of its own even where an earlier call was cut off within a line.

        Raises:
            StorageError: The file cannot be written.
        """
        times = {"elapsed_s": round(self.elapsed, 3), "cpu_s": round(self.cpu_s, 2)}
        line = {"session": self._session, **times, "event": event} | details
        data = (json.dumps(line | {CHECKSUM: _checksum(line)}) + "\n").encode()
        with storage_errors(self._path), self._path.open("a+b") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                data = data if file.read(1) == b"\n" else b"\n" + data
            file.write(data)
        fault_point("event-added", event)

    def count(self, event: str) -> int:
        """Return how many events of a name all calls of the run have logged."""
        return sum(line.get("event") == event for line in read_events(self._path))


def _cpu_s() -> tuple[float, float]:
    """Return processor seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system, times.children_user + times.children_system


def _checksum(event: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(event).encode())


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return the events of a log; what is no event, such as a torn last line, or was altered is passed over.

    Lines without a checksum count where an earlier version has written them: before all lines that have one.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    found, checked = list[dict[str, Any]](), False
    for line in lines:
        event = _object_of(line)
        if event is None:
            continue
        checked |= CHECKSUM in event
        if not checked or event.pop(CHECKSUM, None) == _checksum(event):
            found.append(event)
    return found


def _object_of(line: str) -> dict[str, Any] | None:
    """Return the JSON object that a line holds, if it does."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def ended_well(path: Path) -> bool:
    """Tell whether the last call that an event log tells of wrote its front and lost no member."""
    events = [e for e in read_events(path) if e.get("event") not in (INDEX_BEHIND, INDEX_SETTLED)]
    return bool(events) and events[-1].get("event") == "finished" and not events[-1].get("failures")


def index_is_behind(path: Path) -> bool:
    """Tell whether an event log says that `study.db` was locked and has not caught up since."""
    told = [e["event"] for e in read_events(path) if e.get("event") in (INDEX_BEHIND, INDEX_SETTLED)]
    return told[-1:] == [INDEX_BEHIND]


def total_times(path: Path) -> tuple[float, float]:
    """Return (wall, CPU) seconds of all calls that an event log tells of."""
    sessions: dict[str, tuple[float, float]] = {}
    for event in read_events(path):
        try:
            times = float(event["elapsed_s"]), float(event["cpu_s"])
        except (KeyError, TypeError, ValueError):
            continue
        if all(math.isfinite(t) for t in times):
            sessions[str(event.get("session"))] = times
    return sum(w for w, _ in sessions.values()), sum(c for _, c in sessions.values())


def environment() -> dict[str, Any]:
    """Return versions and hardware of this machine; no names, paths or secrets."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": cpu_name(),
        "cores": os.cpu_count(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide a run's results."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def cpu_name() -> str:
    """Return the processor's model name."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
