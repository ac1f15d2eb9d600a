"""Runs all benchmarks and writes the table: ``python benches/report.py``.

The table goes to ``benches/RESULTS.md`` after a run with all sizes, and else beside the cached archives. Environment:

``BENCH_SIZES``     numbers of messages, for example ``1000,10000`` for a quick look
``BENCH_CYCLES``    turns of every subject, instead of more turns for shorter work
``BENCH_CACHE``     folder for archives and stores, instead of ``.cache/benches``
``XMTP_NODE_TOOLS`` folder with ``loopback_node.py``, which libxmtp needs

``--render FILE`` only writes the table of an earlier run anew.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import plan
from aims import MIB, verdicts
from machine import facts
from native_limits import NAMES
from plan import LIBRARY, LIBXMTP, PYTHON
from results import Results

BENCHES = Path(__file__).resolve().parent
COMMAND = "make bench"
NONE = "-"
OPERATIONS = {
    "decode": "decode and check (`verify_archive`)",
    "rewrite": "decode and encode (`rewrite_archive`)",
    "iterate": "iterate in Python (`open_archive`)",
    "import": "import (`History.import_archive`)",
    "export": "export (`History.create_archive`)",
}
MEMORY = {"import memory": "import: peak memory above idle", "export memory": "export: peak memory above idle"}
HEADER = (
    ("operation", "messages", "xmtp-history", "per message"),
    ("Python", "ratio", "libxmtp 1.10", "ratio", "limit", "limit / xmtp-history"),
)
READING = """\
Each figure is the median over the cycles of one run; in every cycle each subject has its turn, and a ratio is the
median of the ratios within the cycles: how many times xmtp-history's time the rival takes. *Python* is what a careful
user writes with `cryptography`, `zstandard`, `protobuf` and, unencrypted, `sqlite3` (`python_rival.py`). *libxmtp* is
the real one, through `xmtp-bindings`, measured up to 20,000 messages. *Limit* is what the parts take that nobody can
leave out, alone, in Rust, one after the other on one core, over the same records (`limits.rs`); a share above 1 means
that more than one core worked. Decoding and encoding go from a file to a sink that keeps nothing; imports and exports
end with the data on the disk."""


def _seconds(value: float | None) -> str:
    if value is None:
        return NONE
    if value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1e3:.1f} ms" if value >= 0.01 else f"{value * 1e3:.2f} ms"


def _times(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:.0f}x" if value >= 100 else f"{value:.1f}x"


def _rival(results: Results, operation: str, size: int, subject: str) -> tuple[str, str]:
    value = results.value(operation, size, subject)
    if value is None and subject == LIBXMTP and operation in ("import", "export") and size <= plan.LIBXMTP_LARGEST:
        return "not available", NONE
    return _seconds(value), _times(results.ratio(operation, size, subject))


def _limit(results: Results, operation: str, size: int) -> tuple[str, str]:
    parts = results.bound(operation, size)
    if not parts:
        return "not available", NONE
    share = results.bound_share(operation, size)
    text = " + ".join(f"{NAMES[name]} {_seconds(value)}" for name, value in parts)
    return text, NONE if share is None else f"{share:.2f}"


def _speed(results: Results) -> Iterator[tuple[str, ...]]:
    for operation, title in OPERATIONS.items():
        for size in results.sizes(operation):
            own = results.value(operation, size)
            each = NONE if own is None else f"{own / size * 1e6:.2f} µs"
            python = _rival(results, operation, size, PYTHON)
            libxmtp = _rival(results, operation, size, LIBXMTP)
            yield title, f"{size:,}", _seconds(own), each, *python, *libxmtp, *_limit(results, operation, size)


def _memory(results: Results) -> Iterator[tuple[str, ...]]:
    for operation, title in MEMORY.items():
        for size in results.sizes(operation):
            peaks = [results.value(operation, size, subject) for subject in (LIBRARY, PYTHON)]
            own, python = (NONE if peak is None else f"{peak / MIB:.1f} MiB" for peak in peaks)
            ratio = _times(results.ratio(operation, size, PYTHON))
            yield title, f"{size:,}", own, NONE, python, ratio, NONE, NONE, NONE, NONE


def _starting(results: Results) -> Iterator[tuple[str, ...]]:
    if results.sizes("startup"):
        rivals = (*_rival(results, "startup", 0, PYTHON), *_rival(results, "startup", 0, LIBXMTP))
        yield "import statement, new process", NONE, _seconds(results.value("startup", 0)), NONE, *rivals, NONE, NONE
    if results.sizes("help"):
        share = results.ratio("help", 0, "interpreter")
        limit = f"interpreter alone {_seconds(results.value('help', 0, 'interpreter'))}"
        own = _seconds(results.value("help", 0))
        reached = NONE if share is None else f"{share:.2f}"
        yield "`xmtp-history --help`, whole process", NONE, own, NONE, NONE, NONE, NONE, NONE, limit, reached


def _table(header: tuple[str, ...], rows: Iterator[tuple[str, ...]], numbers: int) -> str:
    """A table in Markdown; columns from the second up to ``numbers`` are aligned to the right."""
    marks = ["---" if at == 0 or at >= numbers else "--:" for at in range(len(header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, tuple(marks), *rows))


def render(results: Results, load: str) -> str:
    """The whole page."""
    found = verdicts(results)
    words = {True: "reached", False: "**not reached**", None: "not measured"}
    aims = ((verdict.aim, verdict.measured, words[verdict.reached]) for verdict in found)
    machine = "\n".join(f"- {name}: {text}" for name, text in (*facts(), ("load", load)))
    header = HEADER[0] + HEADER[1]
    page = [
        "# Benchmarks",
        f"Made by `{COMMAND}` on {time.strftime('%Y-%m-%d', time.gmtime())}. The last part comes from `ANALYSIS.md`.",
        machine,
        READING,
        _table(header, chain(_speed(results), _memory(results), _starting(results)), numbers=8),
        "## Aims",
        _table(("aim", "measured", ""), iter(aims), numbers=0),
    ]
    reasons = {subject: results.reasons(subject) for subject in (LIBRARY, PYTHON, LIBXMTP)}
    reasons["limits"] = sorted({r for test, r in results.skipped.items() if "limit:" in test})
    missing = [f"- {subject}: {'; '.join(why)}" for subject, why in reasons.items() if why]
    if missing:
        page += ["## Not available", "\n".join(missing)]
    if results.wrong:
        page += ["## Wrong results", "\n".join(f"- {name}" for name in results.wrong)]
    analysis = BENCHES / "ANALYSIS.md"
    if analysis.exists():
        page += [analysis.read_text().strip()]
    return "\n\n".join(page) + "\n"


def measure(saved: Path) -> int:
    """Runs the benchmarks; returns pytest's exit code."""
    command = [sys.executable, "-m", "pytest", str(BENCHES), "-q", "-p", "no:cacheprovider"]
    # The settings of the test suite are not for benchmarks: a warning must not cost a run of many minutes.
    command += ["-o", "addopts=", "-o", "pythonpath=benches", "-o", "filterwarnings=default"]
    command += ["--benchmark-enable", "--benchmark-quiet", f"--benchmark-json={saved}"]
    return subprocess.run(command, cwd=plan.ROOT, check=False).returncode


def main() -> int:
    """Runs, renders, and says whether everything measured was also right."""
    parser = argparse.ArgumentParser(description="Run all benchmarks and write the table.")
    parser.add_argument("--render", type=Path, metavar="FILE", help="write the table of an earlier run anew")
    saved = parser.parse_args().render
    code, load = 0, "of an earlier run"
    if saved is None:
        saved = plan.cache() / "latest.json"
        before = os.getloadavg()[0]
        code = measure(saved)
        if not saved.exists():
            return code or 1
        load = f"{before:.1f} before the run, {os.getloadavg()[0]:.1f} at its end"
    results = Results(saved)
    page = render(results, load)
    complete = plan.sizes() == plan.DEFAULT_SIZES
    target = BENCHES / "RESULTS.md" if complete else plan.cache() / "RESULTS.md"
    target.write_text(page)
    print(page)
    return code or bool(results.wrong)


if __name__ == "__main__":
    sys.exit(main())
