"""The part of the report about the history server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain

import nginx_rival
import plan
from aims import CROWDS, MIB, server_verdicts
from plan import ACCEPT, FILES, LIBRARY, NGINX
from results import Results
from servers import PARTS
from tables import NONE, aims, bullets, share, table

LARGE = {
    "download": "download",
    "upload": "upload, with its length",
    "upload chunked": "upload, in chunks of 4 KiB",
}
SMALL = {
    "small download": "4 KiB download, connections kept",
    "small download new": "4 KiB download, a new connection each",
    "small upload": "4 KiB upload, connections kept",
    "small upload new": "4 KiB upload, a new connection each, in a chunk",
}
TITLES = {
    "memory up": "{clients} uploads of {mib} MiB at once",
    "memory down": "{clients} downloads of {mib} MiB at once",
    "memory both": "{half} uploads and {half} downloads of {mib} MiB at once",
}
HEADER = (
    *("what", "clients", "xmtp-history", "nginx", "ratio", "accept alone", "share", "files alone", "share"),
    *("processor", "nginx's", "memory", "generator"),
)
MEMORY_HEADER = ("what", "most memory", "memory afterwards", "speed", "generator")
READING = """\
Each figure is the median over the cycles of one run; in every cycle each subject has its turn; ratios and shares are
taken within a cycle: xmtp-history's speed divided by the other's, so that 1.00 is as fast. Large uploads are {mib:,} MiB in
all: one file, or a part of it from each of 16 clients at once. Downloads are from the page cache: one client gets the whole
file twice, 16 get their part four times. Clients throw away what they get; sizes, and the SHA-256 of what is stored, are
checked beside the time. Small files have 4 KiB, and every client sends its next request when it has the answer to the one
before; a new connection for each, and chunks, is what libxmtp does. All of it is HTTP/1.1 without TLS on one machine.

*nginx* ({nginx}) has as many worker processes as there are cores. Of an upload it writes the body to a file, which a small
program beside it makes durable before the answer: it syncs the file, renames it and syncs the folder (`nginx_rival.py`), as
xmtp-history does. *Accept alone* is one process of asyncio that answers small requests with a constant. *Files alone* is as
many threads as there are clients that write, sync and rename such files and sync the folder, without any network.
*Processor* is the time that all cores together spent in the server's processes, for a GiB or for a request; *memory* is
the most that xmtp-history's process had resident; *generator* is how many cores the clients took (`server_load.py`)."""


def section(results: Results) -> list[str]:
    """Its paragraphs and tables."""
    rows = chain(_rows(results, LARGE, _speed, _seconds), _rows(results, SMALL, _rate, _microseconds))
    reading = READING.format(mib=plan.server_mib(), nginx=nginx_rival.version())
    found = [reading, table(HEADER, rows, numbers=len(HEADER))]
    found += ["### Memory with 200 clients", table(MEMORY_HEADER, _memory(results), numbers=len(MEMORY_HEADER))]
    found += ["### Aims", aims(server_verdicts(results))]
    reasons = {subject: results.reasons(subject) for subject in (LIBRARY, NGINX, ACCEPT, FILES)}
    missing = [f"{subject}: {'; '.join(why)}" for subject, why in reasons.items() if why]
    return [*found, "### Not available", bullets(missing)] if missing else found


def _rows(
    results: Results,
    titles: dict[str, str],
    text: Callable[[float | None], str],
    work: Callable[[float | None], str],
) -> Iterator[tuple[str, ...]]:
    for name, title in titles.items():
        for size in results.sizes(name):
            value, ratio = partial(results.value, name, size), partial(results.ratio, name, size)
            rivals = chain.from_iterable((text(value(who)), share(ratio(who))) for who in (NGINX, ACCEPT, FILES))
            works = (work(results.value(f"{name} processor", size, who)) for who in (LIBRARY, NGINX))
            beside = (_mib(results.value(f"{name} peak", size)), share(results.value(f"{name} load", size)))
            yield title, f"{size:,}", text(value()), *rivals, *works, *beside


def _memory(results: Results) -> Iterator[tuple[str, ...]]:
    for name in CROWDS:
        for size in results.sizes(name):
            memory = (_mib(results.value(one, size)) for one in (name, f"{name} afterwards"))
            speed, load = (results.value(f"{name} {what}", size) for what in ("time", "load"))
            title = TITLES[name].format(clients=size, half=size // 2, mib=plan.server_mib() // PARTS)
            yield title, *memory, _speed(speed), share(load)


def _speed(value: float | None) -> str:
    """From the time for a MiB."""
    return NONE if value is None else f"{1 / value:,.0f} MiB/s"


def _rate(value: float | None) -> str:
    return NONE if value is None else f"{1 / value:,.0f}/s"


def _seconds(value: float | None) -> str:
    """From the time for a MiB."""
    return NONE if value is None else f"{1024 * value:.2f} s"


def _microseconds(value: float | None) -> str:
    return NONE if value is None else f"{value * 1e6:.0f} µs"


def _mib(value: float | None) -> str:
    return NONE if value is None else f"{value / MIB:.1f} MiB"
