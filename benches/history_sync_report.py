"""The part of the report about history sync."""

from __future__ import annotations

from collections.abc import Iterator

from aims import MIB, history_sync_verdicts
from history_sync import LAST_STEP, STEPS
from plan import LIBRARY, LIBXMTP, NEW_LIBXMTP, OLD_LIBXMTP
from results import Results
from tables import NONE, aims, bullets, seconds, table, times

NAME = "history sync"
SUBJECTS = {
    LIBRARY: "xmtp-history to xmtp-history",
    OLD_LIBXMTP: "libxmtp 1.10 to xmtp-history",
    NEW_LIBXMTP: "xmtp-history to libxmtp 1.10",
    LIBXMTP: "libxmtp 1.10 to libxmtp 1.10",
}
HEADER = ("from the old to the new one", "messages", "time", "a message", "messages/s", "as long", "old +", "new +")
STEPS_HEADER = (
    *("from the old to the new one", "messages", "request", "noticed", "upload", "reply", "fetched", "download"),
    *("rest",),
)
READING = """\
From `sync_history()` on a new installation to the last message in its database: the request through the node, the
archive through the history server, the import. Median over the cycles of one run; in every cycle each pair has its
turn; *as long* is within a cycle, how many times as long as with xmtp-history on both sides. With 100,000 messages,
libxmtp has one turn. Four processes are on the machine: one with node and history server, with their data on the same
disk, one for each installation, and the one that looks on. The archives are those of the other tables: 50 groups,
eight senders, texts of 4 to 480 bytes. The old installation has imported one in a process that has ended, and is
open; the new one is registered, without a message; both have joined each other's groups, because what libxmtp says
before that may not be readable. Everything has been quiet for a second.

xmtp-history is used as it comes: its clients are open, and wait. libxmtp has to be told to fetch, so both sides of it
call `sync_all_device_sync_groups` every 50 ms, as an application that is in a hurry would; it begins with
`send_sync_request`, and ends when the archive's last message can be had from it, which is looked for every 20 ms. All
databases are encrypted. That all messages are there is checked afterwards. *Old +* and *new +* are the most memory
that the processes had resident above what they had before.

What the time goes into, as the servers saw it: *request* until the node has the request; *noticed* until the old
installation begins to upload; *upload* until the archive is on the history server's disk, the export included;
*reply* until the node has the reply; *fetched* until the new one begins to download; *download* until the server has
sent all of it; *rest* until it is imported and committed. Imports go on during the download."""


def section(results: Results) -> list[str]:
    """Its paragraphs and tables."""
    found = [READING, table(HEADER, _rows(results), numbers=len(HEADER))]
    found.append(table(STEPS_HEADER, _steps(results), numbers=len(STEPS_HEADER)))
    found += ["### Aims", aims(history_sync_verdicts(results))]
    missing = [f"{title}: {'; '.join(why)}" for name, title in SUBJECTS.items() if (why := results.reasons(name))]
    return [*found, "### Not available", bullets(missing)] if missing else found


def _turns(results: Results) -> Iterator[tuple[str, int]]:
    for size in results.sizes(NAME):
        for subject in SUBJECTS:
            if results.value(NAME, size, subject) is not None:
                yield subject, size


def _rows(results: Results) -> Iterator[tuple[str, ...]]:
    for subject, size in _turns(results):
        value = results.value(NAME, size, subject)
        assert value is not None
        ratio = NONE if subject == LIBRARY else times(results.ratio(NAME, size, subject))
        memory = (_memory(results.value(f"{NAME} {side} memory", size, subject)) for side in ("old", "new"))
        each, rate = f"{value / size * 1e6:.1f} µs", f"{size / value:,.0f}"
        yield SUBJECTS[subject], f"{size:,}", seconds(value), each, rate, ratio, *memory


def _steps(results: Results) -> Iterator[tuple[str, ...]]:
    for subject, size in _turns(results):
        parts = (results.value(f"{NAME} {step}", size, subject) for step in (*STEPS, LAST_STEP))
        yield SUBJECTS[subject], f"{size:,}", *map(seconds, parts)


def _memory(value: float | None) -> str:
    return NONE if value is None else f"{value / MIB:.1f} MiB"
