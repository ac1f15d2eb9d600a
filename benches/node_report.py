"""The part of the report about the local node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain

from aims import MIB, node_verdicts
from plan import BARE, DISK, LIBRARY, NODE_CLIENTS, OFFICIAL, PLAIN, SQLITE
from results import Results
from tables import NONE, aims, bullets, seconds, share, table, times

#: What is called again and again: the operation, its title, and how many messages or pages one call is.
CALLS = {
    "send": ("send a message", 1),
    "send 16": ("send 16 messages in a call: messages", 16),
    "query 100": ("read a page of 100 messages", 1),
    "query 1": ("read a page of one message", 1),
}
TIMES = {
    "delivery p50": "from sending to the stream, 1,000 messages/s: median",
    "delivery p99": "from sending to the stream, 1,000 messages/s: 99 of 100",
    "delivery at once p50": "from sending to the stream, as many as it takes: median",
    "delivery at once p99": "from sending to the stream, as many as it takes: 99 of 100",
    "open streams": "opening a stream each, 128 at a time",
    "to all": "one message to all streams, until the last has it",
    "to each": "a message from each to its own stream, 128 at a time",
    "first answer": "from starting the process to its first answer",
    "start": "starting the node in a process (`LocalNode.start()`)",
}
AMOUNTS = {
    "stream memory": ("memory for each open stream", 1 << 10, "KiB"),
    "node memory settled": ("resident memory after a tenth of the run", MIB, "MiB"),
    "node memory": ("resident memory at its end", MIB, "MiB"),
}
NAMES = {LIBRARY: "xmtp-history", PLAIN: "plain node", OFFICIAL: "official node", BARE: "grpc.aio alone"}
HEADER = (
    *("what", "clients", "xmtp-history", "plain node", "ratio", "official node", "ratio"),
    *("grpc.aio alone", "share", "SQLite alone", "share", "processor", "generator"),
)
READING = """\
Messages have 1 KiB. Every client has a connection of its own and sends its next request when it has the answer to the
one before. Each figure is the median over the cycles of one run; in every cycle each subject has its turn; ratios and
shares are taken within a cycle: how many times xmtp-history's time the other takes. What xmtp-history and the official
node have answered is on the disk. The *plain node* is what most people would write for their tests: grpc.aio and
dictionaries, nothing durable (`plain_node.py`). The *official node* is xmtp-node-go with PostgreSQL, measured where
`BENCH_OFFICIAL_NODE` names one. *grpc.aio alone* answers the same requests without parsing them, with answers of the
same size (`bare_node.py`); *SQLite alone* inserts the same rows into the same tables, with one sync for as many as
there are clients. *Processor* is the time that all cores together spent in xmtp-history's process for a call;
*generator* is the share of one core that the load generator took meanwhile (`h2.py`)."""


def section(results: Results) -> list[str]:
    """Its paragraphs and tables."""
    rows = chain(_calls(results), _times(results), _amounts(results))
    found = [READING, table(HEADER, rows, numbers=len(HEADER)), *_beside(results)]
    found += ["### Aims", aims(node_verdicts(results))]
    reasons = {subject: results.reasons(subject) for subject in (LIBRARY, PLAIN, OFFICIAL, BARE, SQLITE)}
    missing = [f"{subject}: {'; '.join(why)}" for subject, why in reasons.items() if why]
    return [*found, "### Not available", bullets(missing)] if missing else found


def _row(results: Results, name: str, size: int, title: str, text: Callable[[float | None], str]) -> tuple[str, ...]:
    def beside(subject: str, compared: Callable[[float | None], str]) -> tuple[str, str]:
        return text(results.value(name, size, subject)), compared(results.ratio(name, size, subject))

    return (
        *(title, f"{size:,}" if size else NONE, text(results.value(name, size))),
        *(*beside(PLAIN, times), *beside(OFFICIAL, times), *beside(BARE, share), *beside(SQLITE, share)),
        *(_microseconds(results.value(f"{name} processor", size)), share(results.value(f"{name} load", size))),
    )


def _calls(results: Results) -> Iterator[tuple[str, ...]]:
    for name, (title, each) in CALLS.items():
        for size in results.sizes(name):
            yield _row(results, name, size, title, partial(_rate, each=each))


def _times(results: Results) -> Iterator[tuple[str, ...]]:
    for name, title in TIMES.items():
        for size in results.sizes(name):
            yield _row(results, name, size, title, seconds)


def _amounts(results: Results) -> Iterator[tuple[str, ...]]:
    for name, (title, unit, unit_name) in AMOUNTS.items():
        text = partial(_amount, unit=unit, unit_name=unit_name)
        for size in results.sizes(name):
            yield _row(results, name, size, title, text)


def _beside(results: Results) -> Iterator[str]:
    lines = []
    if sync := results.value("sync", 0, DISK):
        lines.append(f"the disk alone: {1 / sync:,.0f} times a second, a page of 4 KiB is written over and waited for")
    found = {name: results.value("delivery at once", max(NODE_CLIENTS), subject) for subject, name in NAMES.items()}
    if delivered := [f"{name} {_rate(value)}" for name, value in found.items() if value]:
        lines.append(f"delivered when as many were sent as it took: {', '.join(delivered)}")
    for subject, name in NAMES.items():
        if series := results.series.get(subject):
            sizes = ", ".join(f"{size / MIB:.0f}" for _, size in series)
            lines.append(f"resident memory of {name}, MiB, every {series[0][0]:.0f} s: {sizes}")
    if lines:
        yield bullets(lines)


def _rate(value: float | None, each: int = 1) -> str:
    return NONE if value is None else f"{each / value:,.0f}/s"


def _amount(value: float | None, unit: int, unit_name: str) -> str:
    return NONE if value is None else f"{value / unit:.1f} {unit_name}"


def _microseconds(value: float | None) -> str:
    return NONE if value is None else f"{value * 1e6:.0f} µs"
