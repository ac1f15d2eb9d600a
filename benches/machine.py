"""What a run ran on: the facts without which no figure means anything."""

from __future__ import annotations

import importlib
import os
import platform
import sqlite3
import subprocess
from importlib import metadata
from pathlib import Path

import plan

PACKAGES = (
    *("xmtp-history", "cryptography", "zstandard", "aiohttp", "grpcio", "protobuf"),
    *("xmtp-bindings", "pytest-benchmark"),
)


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "not available"
    return done.stdout.strip().splitlines()[0]


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / (1 << 30):.0f} GiB"


def _file_system(folder: Path) -> str:
    """Kind of the file system that holds stores and archives: waiting for it is part of the figures."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return "unknown"
    target, best = str(folder.resolve()), ("", "unknown")
    for line in mounts.read_text().splitlines():
        _, point, kind, *_ = line.split(" ")
        if (target + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best[0]):
            best = point, kind
    return best[1]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        if package != "xmtp-history":
            return "not installed"
    try:
        # Not installed, but perhaps importable from the checkout.
        return str(importlib.import_module("xmtp_history").__version__)
    except ImportError:
        return "not installed"


def facts() -> list[tuple[str, str]]:
    """Facts and their names, in the order of a table."""
    return [
        ("processor", f"{_processor()}, {os.cpu_count()} cores"),
        ("memory", _memory()),
        ("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        ("file system", _file_system(plan.cache())),
        ("Python", f"{platform.python_implementation()} {platform.python_version()}"),
        ("SQLite", f"{sqlite3.sqlite_version} of Python"),
        ("Rust", _first_line("rustc", "--version").removeprefix("rustc ")),
        ("packages", ", ".join(f"{package} {_version(package)}" for package in PACKAGES)),
    ]
