"""Runs the benchmarks and writes the table: ``python benches/report.py``, or a part with ``--only``.

The table goes to ``benches/RESULTS.md`` after a run with all sizes, and else beside the cached archives. A part that was
not run stays as it is. Environment:

``BENCH_SIZES``          numbers of messages, for example ``1000,10000`` for a quick look
``BENCH_CYCLES``         turns of every subject, instead of more turns for shorter work
``BENCH_CACHE``          folder for archives, stores and nodes' data, instead of ``.cache/benches``
``BENCH_NODE_SECONDS``   how long a turn with a node counts, instead of 2
``BENCH_NODE_MINUTES``   how long a node's memory is watched, instead of 10
``BENCH_OFFICIAL_NODE``  address and port of an official node, to be measured as well
``BENCH_SERVER_SECONDS`` how long a turn with small files on a history server counts, instead of 1
``BENCH_SERVER_MIB``     how much goes up to a history server in a turn with large files, instead of 1024

``--render FILE`` only writes the part of an earlier run anew.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import archive_report
import history_sync_report
import installation_report
import node_report
import plan
import server_report
from machine import facts
from results import Results
from tables import bullets

BENCHES = Path(__file__).resolve().parent
INTRODUCTION = """\
# Benchmarks

`make bench` measures all parts and writes this page; `python benches/report.py --only node` measures one. What comes
after them is from `ANALYSIS.md`."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the page.

    Attributes:
        title: its heading.
        tests: which files measure it.
        section: makes its text of what was measured.
        complete: whether the settings are those of the published figures.
    """

    title: str
    tests: Callable[[], list[Path]]
    section: Callable[[Results], list[str]]
    complete: Callable[[], bool]


def _node_tests() -> list[Path]:
    return sorted(BENCHES.glob("test_node*.py"))


def _server_tests() -> list[Path]:
    return sorted(BENCHES.glob("test_server*.py"))


def _installation_tests() -> list[Path]:
    return sorted(BENCHES.glob("test_installation*.py"))


def _history_sync_tests() -> list[Path]:
    return sorted(BENCHES.glob("test_history_sync*.py"))


def _archive_tests() -> list[Path]:
    others = {*_node_tests(), *_server_tests(), *_installation_tests(), *_history_sync_tests()}
    return sorted(set(BENCHES.glob("test_*.py")) - others)


PARTS = {
    "archives": Part(
        "Archives and the store", _archive_tests, archive_report.section, lambda: plan.sizes() == plan.DEFAULT_SIZES
    ),
    "node": Part(
        "The local node",
        _node_tests,
        node_report.section,
        lambda: (plan.node_seconds(), plan.node_minutes()) >= (plan.DEFAULT_NODE_SECONDS, plan.DEFAULT_NODE_MINUTES),
    ),
    "server": Part(
        "The history server",
        _server_tests,
        server_report.section,
        lambda: plan.server_seconds() >= plan.DEFAULT_SERVER_SECONDS and plan.server_mib() == plan.DEFAULT_SERVER_MIB,
    ),
    "installation": Part("The installation", _installation_tests, installation_report.section, lambda: True),
    "history-sync": Part(
        "History sync", _history_sync_tests, history_sync_report.section, lambda: plan.sizes() == plan.DEFAULT_SIZES
    ),
}


def render(part: Part, results: Results, load: str) -> str:
    """One part of the page."""
    measured = f"Measured on {time.strftime('%Y-%m-%d', time.gmtime())}."
    machine = bullets(f"{name}: {text}" for name, text in (*facts(), ("load", load)))
    paragraphs = [f"## {part.title}", measured, machine, *part.section(results)]
    if results.wrong:
        paragraphs += ["### Wrong results", bullets(results.wrong)]
    return "\n\n".join(paragraphs)


def publish(part: Part, text: str) -> Path:
    """Puts a part on the page, between what is there of the others; returns where the page is."""
    page = (BENCHES if part.complete() else plan.cache()) / "RESULTS.md"
    there = _parts(page.read_text()) if page.exists() else {}
    there[part.title] = text
    texts = [there.get(other.title, f"## {other.title}\n\nNot measured.") for other in PARTS.values()]
    analysis = BENCHES / "ANALYSIS.md"
    if analysis.exists():
        texts.append(analysis.read_text().strip())
    page.write_text("\n\n".join([INTRODUCTION, *texts]) + "\n")
    return page


def _parts(page: str) -> dict[str, str]:
    """What a page consists of, by headings."""
    _, *sections = f"\n{page}".split("\n## ")
    return {section.partition("\n")[0].strip(): f"## {section}".strip() for section in sections}


def measure(part: Part, saved: Path) -> int:
    """Runs the benchmarks of a part; returns pytest's exit code."""
    command = [sys.executable, "-m", "pytest", *map(str, part.tests()), "-q", "-p", "no:cacheprovider"]
    # The settings of the test suite are not for benchmarks: a warning must not cost a run of many minutes.
    command += ["-o", "addopts=", "-o", "pythonpath=benches", "-o", "filterwarnings=default"]
    command += ["--benchmark-enable", "--benchmark-quiet", f"--benchmark-json={saved}"]
    return subprocess.run(command, cwd=plan.ROOT, check=False).returncode


def run(name: str, saved: Path | None) -> int:
    """Measures a part unless it was before, renders it, and says whether everything measured was also right."""
    part, code, load = PARTS[name], 0, "of an earlier run"
    if saved is None:
        saved = plan.cache() / f"{name}.json"
        saved.unlink(missing_ok=True)
        before = os.getloadavg()[0]
        code = measure(part, saved)
        if not saved.exists():
            return code or 1
        load = f"{before:.1f} before the run, {os.getloadavg()[0]:.1f} at its end"
    results = Results(saved)
    text = render(part, results, load)
    print(text, f"\nWritten to {publish(part, text)}")
    return code or int(bool(results.wrong))


def main() -> int:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(description="Run the benchmarks and write the table.")
    parser.add_argument("--only", choices=PARTS, help="run, or render, one part; the others stay as they are")
    parser.add_argument("--render", type=Path, metavar="FILE", help="write the part of an earlier run anew")
    options = parser.parse_args()
    if options.render is not None and options.only is None:
        parser.error("--render needs --only: a file is of one part")
    return max(run(name, options.render) for name in ([options.only] if options.only else PARTS))


if __name__ == "__main__":
    sys.exit(main())
