"""Two nodes on this machine, made by the example's script; commands run on the first of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "cluster" / "two_nodes.sh"
DRIVER = Path(__file__).with_name("pool_driver.py")
FIRST, SECOND = "first", "second"


@cache
def missing() -> str:
    """Return what this machine lacks for two nodes; empty when it lacks nothing."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "the commands ip (Debian: iproute2) and unshare (util-linux) are needed"
    tried = subprocess.run(["unshare", "--net", "--uts", "--mount", "true"], capture_output=True, check=False)
    return "" if tried.returncode == 0 else "this system allows no new namespaces"


@dataclass(frozen=True)
class TwoNodes:
    """A cluster whose two nodes have one core each and the host names `first` and `second`.

    Args:
        folder: What belongs to it.
        address: HOST:PORT of its head.
    """

    folder: Path
    address: str

    @classmethod
    def up(cls, folder: Path, *, alone: bool = False) -> TwoNodes:
        """Start both nodes, or the first alone."""
        answer = _script("up", folder, *(["alone"] if alone else []))
        return cls(folder, answer.split("RAY_ADDRESS=")[1].strip())

    @property
    def token_file(self) -> Path:
        return self.folder / "token"

    def join(self, hidden: Path | None = None) -> None:
        """Start the second node, which does not see what is below `hidden`."""
        _script("join", self.folder, *([str(hidden)] if hidden else []))

    def lose(self) -> None:
        """Kill the second node's raylet."""
        _script("lose", self.folder)

    def down(self) -> None:
        _script("down", self.folder)

    def command(self, *arguments: str) -> list[str]:
        """Return the command that runs another one on the first node, with the cluster's token."""
        return ["bash", str(SCRIPT), "run", str(self.folder), *arguments]

    def python(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Python on the first node."""
        given = [f"{name}={value}" for name, value in environment.items()]
        command = self.command("env", *given, sys.executable, *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)

    def drive(self, **asked: Any) -> subprocess.Popen[str]:
        """Start `pool_driver.py` on the first node; it prints one JSON line an event."""
        command = self.command(sys.executable, str(DRIVER), json.dumps(asked))
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _script(action: str, folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["bash", str(SCRIPT), action, str(folder), *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
