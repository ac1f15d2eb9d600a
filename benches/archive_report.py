"""The part of the report about archives and the store."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import plan
from aims import MIB, archive_verdicts
from native_limits import NAMES
from plan import LIBRARY, LIBXMTP, PYTHON
from results import Results
from tables import NONE, aims, bullets, seconds, share, table, times

OPERATIONS = {
    "decode": "decode and check (`verify_archive`)",
    "rewrite": "decode and encode (`rewrite_archive`)",
    "iterate": "iterate in Python (`open_archive`)",
    "import": "import (`History.import_archive`)",
    "export": "export (`History.create_archive`)",
}
MEMORY = {"import memory": "import: peak memory above idle", "export memory": "export: peak memory above idle"}
HEADER = (
    *("operation", "messages", "xmtp-history", "per message"),
    *("Python", "ratio", "libxmtp 1.10", "ratio", "limit", "limit / xmtp-history"),
)
READING = """\
Each figure is the median over the cycles of one run; in every cycle each subject has its turn, and a ratio is the
median of the ratios within the cycles: how many times xmtp-history's time the rival takes. *Python* is what a careful
user writes with `cryptography`, `zstandard`, `protobuf` and, unencrypted, `sqlite3` (`python_rival.py`). *libxmtp* is
the real one, through `xmtp-bindings`, measured up to 20,000 messages. *Limit* is what the parts take that nobody can
leave out, alone, in Rust, one after the other on one core, over the same records (`limits.rs`); a share above 1 means
that more than one core worked. Decoding and encoding go from a file to a sink that keeps nothing; imports and exports
end with the data on the disk."""


def section(results: Results) -> list[str]:
    """Its paragraphs and tables."""
    rows = chain(_speed(results), _memory(results), _starting(results))
    found = [READING, table(HEADER, rows, numbers=8), "### Aims", aims(archive_verdicts(results))]
    reasons = {subject: results.reasons(subject) for subject in (LIBRARY, PYTHON, LIBXMTP)}
    reasons["limits"] = sorted({r for test, r in results.skipped.items() if "limit:" in test})
    missing = [f"{subject}: {'; '.join(why)}" for subject, why in reasons.items() if why]
    return [*found, "### Not available", bullets(missing)] if missing else found


def _rival(results: Results, operation: str, size: int, subject: str) -> tuple[str, str]:
    value = results.value(operation, size, subject)
    if value is None and subject == LIBXMTP and operation in ("import", "export") and size <= plan.LIBXMTP_LARGEST:
        return "not available", NONE
    return seconds(value), times(results.ratio(operation, size, subject))


def _limit(results: Results, operation: str, size: int) -> tuple[str, str]:
    parts = results.bound(operation, size)
    if not parts:
        return "not available", NONE
    text = " + ".join(f"{NAMES[name]} {seconds(value)}" for name, value in parts)
    return text, share(results.bound_share(operation, size))


def _speed(results: Results) -> Iterator[tuple[str, ...]]:
    for operation, title in OPERATIONS.items():
        for size in results.sizes(operation):
            own = results.value(operation, size)
            each = NONE if own is None else f"{own / size * 1e6:.2f} µs"
            python = _rival(results, operation, size, PYTHON)
            libxmtp = _rival(results, operation, size, LIBXMTP)
            yield title, f"{size:,}", seconds(own), each, *python, *libxmtp, *_limit(results, operation, size)


def _memory(results: Results) -> Iterator[tuple[str, ...]]:
    for operation, title in MEMORY.items():
        for size in results.sizes(operation):
            peaks = [results.value(operation, size, subject) for subject in (LIBRARY, PYTHON)]
            own, python = (NONE if peak is None else f"{peak / MIB:.1f} MiB" for peak in peaks)
            ratio = times(results.ratio(operation, size, PYTHON))
            yield title, f"{size:,}", own, NONE, python, ratio, NONE, NONE, NONE, NONE


def _starting(results: Results) -> Iterator[tuple[str, ...]]:
    if results.sizes("startup"):
        rivals = (*_rival(results, "startup", 0, PYTHON), *_rival(results, "startup", 0, LIBXMTP))
        yield "import statement, new process", NONE, seconds(results.value("startup", 0)), NONE, *rivals, NONE, NONE
    if results.sizes("help"):
        limit = f"interpreter alone {seconds(results.value('help', 0, 'interpreter'))}"
        reached = share(results.ratio("help", 0, "interpreter"))
        own = seconds(results.value("help", 0))
        yield "`xmtp-history --help`, whole process", NONE, own, NONE, NONE, NONE, NONE, NONE, limit, reached
