"""The programs in Rust beside this file, built by cargo; and the limits of ``limits.rs``, asked line by line."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import plan
from dataset import Dataset
from lines import Child, Unavailable

_DEADLINE_S = 600.0

# Which limits together bound an operation from below, in the order they are shown.
BOUNDS: dict[str, tuple[str, ...]] = {
    "decode": ("open", "inflate"),
    "rewrite": ("inflate", "open", "seal", "frame"),
    "iterate": ("open", "inflate"),
    "import": ("insert",),
    "export": ("read", "seal", "frame"),
}
NAMES = {
    "open": "AES open",
    "seal": "AES seal",
    "inflate": "zstd inflate",
    "frame": "raw blocks",
    "sha256": "SHA-256",
    "insert": "bare SQLCipher insert loop",
    "read": "bare SQLCipher read loop",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """What a limit took, and over how much."""

    seconds: float
    bytes: int
    rows: int


def build(name: str = "limits") -> Path:
    """Compiles a program with the release profile, and says where it is."""
    if shutil.which("cargo") is None:
        raise Unavailable(f"no cargo to build benches/{name}.rs with")
    command = ["cargo", "build", "--release", "--bench", name, "--message-format=json", "--quiet"]
    built = subprocess.run(command, cwd=plan.ROOT, capture_output=True, text=True, check=False)
    if built.returncode:
        last = (built.stderr.strip().splitlines() or ["cargo gave no reason"])[-1]
        raise Unavailable(f"benches/{name}.rs does not build: {last}")
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == name:
            return Path(message["executable"])
    raise Unavailable(f"cargo built no program called {name}")


class Limits:
    """The program with one archive loaded; asking about another archive loads that one instead."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._loaded: tuple[Path, Child] | None = None

    def close(self) -> None:
        """Ends the program."""
        if self._loaded is not None:
            self._loaded[1].close()
            self._loaded = None

    def load(self, data: Dataset) -> None:
        """Loads an archive, so that the first figure does not wait for it."""
        if self._loaded is None or self._loaded[0] != data.path:
            self.close()
            for left in self._folder.glob("limits-*"):
                left.unlink()
            command = [str(self._program), str(data.path.resolve()), str(self._folder.resolve()), "-"]
            self._loaded = data.path, Child(command, self._folder)
            self.figure(data, "frame")

    def figure(self, data: Dataset, name: str) -> Figure:
        """Runs one limit over an archive."""
        self.load(data)
        assert self._loaded is not None
        answer = json.loads(self._loaded[1].ask(name, _DEADLINE_S))
        return Figure(answer["seconds"], answer["bytes"], answer["rows"])
