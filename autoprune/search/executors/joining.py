"""Address of a Ray cluster -> nothing, or the error that says why it cannot be joined from this process."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from autoprune.errors import ConfigError
from autoprune.search.executors.process import await_exit, end_family, exit_status

REACH_SECONDS = 6.0
PROBE_SECONDS = 20.0
AUTO = "auto"
REMEDY = "Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE, the file that its nodes were started with."
ANSWER = "autoprune: "

_PROBE = """
import json, os, sys
import ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False)
    answer = {"error": "", "message": ""}
except Exception as error:
    answer = {"error": type(error).__name__, "message": str(error)}
print("\\n" + sys.argv[2] + json.dumps(answer), flush=True)
os._exit(0)
"""
_RETRIES = {"RAY_NUM_REDIS_GET_RETRIES": "2"}
_VERSIONS = re.compile(r"Ray:\s*(\S+)\s+Python:\s*(\S+)")


class Probe(NamedTuple):
    """What came of joining a cluster: the kind of error and its text, both empty when it worked, and what was logged.

    `error` is `died` when the process ended without a word, `late` when it took too long.
    """

    error: str
    message: str
    log: str


def refuse_unreachable_cluster(address: str) -> None:
    """Return when this process can join a cluster; takes at most `REACH_SECONDS` + `PROBE_SECONDS`.

    Args:
        address: HOST:PORT, or `auto` for the one that this host is a node of.

    Raises:
        ConfigError: Nothing answers there, the token is missing or wrong, versions differ, or this host is no node.
    """
    if address != AUTO:
        _reach(address)
    probe = _probe(address)
    if probe.error:
        raise explain(address, probe)


def explain(address: str, probe: Probe) -> ConfigError:
    """Return the error of a failed probe, in our own words: nothing that Ray has logged is shown."""
    cluster = _name(address)
    text = f"{probe.message}\n{probe.log}"
    if "Unauthenticated" in text or "InvalidAuthToken" in text or probe.error == "AuthenticationError":
        return _token_error(cluster, found=probe.error != "AuthenticationError")
    versions = _VERSIONS.findall(probe.message)
    if len(versions) == 2:
        (theirs, their_python), (ours, our_python) = versions
        return ConfigError(
            f"{cluster} has Ray {theirs} with Python {their_python}, this process Ray {ours} with Python {our_python}.",
            hint="Use the same versions of both on every node and here.",
        )
    if "raylet" in text:
        return ConfigError(
            f"This host is no node of {cluster[0].lower()}{cluster[1:]}.",
            hint="Run autoprune on one of its nodes, or join it first: ray start --address=HOST:PORT.",
        )
    return _nothing_there(cluster, f"no answer within {PROBE_SECONDS:g} s" if probe.error == "late" else "")


def _name(address: str) -> str:
    return "The Ray cluster of this host" if address == AUTO else f"The Ray cluster at {address}"


def _reach(address: str) -> None:
    """Open and close a connection; a cluster that is just starting gets a moment."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(
            f"executor.address {address!r} is no address of a Ray cluster. Allowed: HOST:PORT, auto.",
            hint="The port is that of `ray start --head --port`, 6379 unless told otherwise.",
        )
    deadline = time.monotonic() + REACH_SECONDS
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS / 2).close()
        except OSError as error:
            if isinstance(error, socket.gaierror) or time.monotonic() > deadline:
                raise _nothing_there(_name(address), error.strerror or "no answer") from error
            time.sleep(0.5)
        else:
            return


def _probe(address: str) -> Probe:
    """Join the cluster and leave it, in a process that is ended when it takes too long."""
    with tempfile.TemporaryFile() as output:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-c", _PROBE, address, ANSWER],
            os.environ | _RETRIES,
            file_actions=[(os.POSIX_SPAWN_DUP2, output.fileno(), stream) for stream in (1, 2)],
            setsid=True,
        )
        await_exit(pid, PROBE_SECONDS)
        late = exit_status(pid) is None
        end_family(pid)
        output.seek(0)
        log = output.read().decode(errors="replace")
    answers = [line.removeprefix(ANSWER) for line in log.splitlines() if line.startswith(ANSWER)]
    if not answers:
        return Probe("late" if late else "died", "", log)
    answer = json.loads(answers[-1])
    return Probe(answer["error"], answer["message"], log)


def _nothing_there(cluster: str, why: str) -> ConfigError:
    return ConfigError(
        f"{cluster} cannot be reached{f': {why}' if why else ''}.",
        hint="Start one with `ray start --head`, name another with --cluster HOST:PORT, or leave executor.address out.",
    )


def _token_error(cluster: str, *, found: bool) -> ConfigError:
    """Return what is wrong with the token; its value is never looked at."""
    mode, path = os.environ.get("RAY_AUTH_MODE", ""), os.environ.get("RAY_AUTH_TOKEN_PATH", "")
    if mode.lower() != "token":
        return ConfigError(f"{cluster} demands a token, and this process gives none.", hint=REMEDY)
    if found:
        return ConfigError(f"{cluster} refuses the token of this process: it is not the cluster's.", hint=REMEDY)
    if path and not Path(path).is_file():
        return ConfigError(f"RAY_AUTH_TOKEN_PATH names {path}, which is no file.", hint=REMEDY)
    return ConfigError(f"{cluster} demands a token, and this process finds none.", hint=REMEDY)
