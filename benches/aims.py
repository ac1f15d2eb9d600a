"""The aims, and whether a run reached them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from plan import (
    BARE,
    GROUP_MEMBERS,
    LIBRARY,
    LIBXMTP,
    MANY_GROUPS,
    NGINX,
    NODE_CLIENTS,
    OPENMLS,
    PYTHON,
    TRANSFER_CLIENTS,
)
from results import Results

MIB = 1 << 20
# Below this, fixed costs decide, and no aim speaks of it.
SMALLEST = 10_000
# Peaks of one and the same work differ by so much from run to run.
GROWTH_TOLERANCE = 1.10


@dataclass(frozen=True, slots=True)
class Verdict:
    """An aim in words, what was measured, and whether that is enough; None if it was not measured."""

    aim: str
    measured: str
    reached: bool | None


def archive_verdicts(results: Results) -> list[Verdict]:
    """The aims for archives and the store, in the order in which they were set."""
    found = [_faster_than_libxmtp(results, operation) for operation in ("export", "import")]
    found += [_growth(results, operation) for operation in ("export", "import")]
    ratio = results.ratio
    found.append(
        _worst(
            "decode without the store: at least 20 times the Python implementation, from 10 k on",
            results.sizes("decode"),
            lambda size: ratio("decode", size, PYTHON),
            at_least=20,
        )
    )
    found.append(
        _worst(
            "decode and encode without the store: at least 20 times the Python implementation, from 10 k on",
            results.sizes("rewrite"),
            lambda size: ratio("rewrite", size, PYTHON),
            at_least=20,
        )
    )
    found.append(
        _worst(
            "import: at least 0.7 of the bare insert loop, from 10 k on",
            results.sizes("import"),
            lambda size: results.bound_share("import", size),
            at_least=0.7,
        )
    )
    found += [_peak(results, operation) for operation in ("export", "import")]
    found += [_peak_growth(results, operation) for operation in ("export", "import")]
    found.append(_start(results, "startup", "`import xmtp_history`: at most 50 ms", 0.05))
    found.append(_start(results, "help", "`xmtp-history --help`: at most 200 ms", 0.2))
    return found


def _worst(aim: str, sizes: Iterable[int], figure: Callable[[int], float | None], at_least: float) -> Verdict:
    figures = {size: value for size in sizes if size >= SMALLEST and (value := figure(size)) is not None}
    if not figures:
        return Verdict(aim, "not measured", None)
    worst = min(figures, key=figures.__getitem__)
    digits = 2 if at_least < 10 else 1
    text = ", ".join(f"{value:.{digits}f} at {size:,}" for size, value in figures.items())
    return Verdict(aim, text, figures[worst] >= at_least)


def _faster_than_libxmtp(results: Results, operation: str) -> Verdict:
    aim = f"{operation}: at least 200 times libxmtp at 20 k messages"
    times = results.ratio(operation, 20_000, LIBXMTP)
    return Verdict(aim, f"{times:.0f} times" if times else "not measured", times >= 200 if times else None)


def _growth(results: Results, operation: str) -> Verdict:
    aim = f"{operation}: time per message at 1 M at most 1.2 times that at 10 k"
    large, small = (results.value(operation, size, LIBRARY) for size in (1_000_000, 10_000))
    if not (large and small):
        return Verdict(aim, "not measured", None)
    growth = large / 1_000_000 / (small / 10_000)
    return Verdict(aim, f"{growth:.2f} times", growth <= 1.2)


def _peak(results: Results, operation: str) -> Verdict:
    aim = f"{operation}: peak memory at 1 M at most 96 MiB above the idle process"
    peak = results.value(f"{operation} memory", 1_000_000)
    return Verdict(aim, f"{peak / MIB:.1f} MiB" if peak else "not measured", peak <= 96 * MIB if peak else None)


def _peak_growth(results: Results, operation: str) -> Verdict:
    aim = f"{operation}: peak memory not growing from 100 k to 1 M"
    small, large = (results.value(f"{operation} memory", size) for size in (100_000, 1_000_000))
    if not (small and large):
        return Verdict(aim, "not measured", None)
    return Verdict(aim, f"{small / MIB:.1f} MiB, then {large / MIB:.1f} MiB", large <= small * GROWTH_TOLERANCE)


def _start(results: Results, operation: str, aim: str, at_most: float) -> Verdict:
    seconds = results.value(operation, 0)
    measured = f"{seconds * 1e3:.0f} ms" if seconds else "not measured"
    return Verdict(aim, measured, seconds <= at_most if seconds else None)


def node_verdicts(results: Results) -> list[Verdict]:
    """The aims for the local node."""
    return [
        _rate(results),
        _node_time(results, "delivery p99", "from sending to the stream, 99 of 100 at 1,000 messages/s", 0.02),
        _node_time(results, "delivery at once p99", "from sending to the stream, 99 of 100, as many as it takes", 0.02),
        _node_time(results, "first answer", "from starting the process to its first answer", 1.0),
        _flat(results),
    ]


def _rate(results: Results) -> Verdict:
    clients, at_least = max(NODE_CLIENTS), 5_000
    aim = f"at least {at_least:,} messages a second, each on the disk when it is answered, {clients} clients"
    own, limit = (results.value("send", clients, subject) for subject in (LIBRARY, BARE))
    if not own:
        return Verdict(aim, "not measured", None)
    beside = f"; grpc.aio alone answers {1 / limit:,.0f}" if limit else ""
    return Verdict(aim, f"{1 / own:,.0f}{beside}", 1 / own >= at_least)


def _node_time(results: Results, name: str, what: str, below: float) -> Verdict:
    for clients in results.sizes(name):
        of = f", {clients} clients" if clients else ""
        aim = f"{what}{of}: less than {below * 1e3:,.0f} ms"
        own, limit = (results.value(name, clients, subject) for subject in (LIBRARY, BARE))
        if own:
            beside = f"; grpc.aio alone takes {limit * 1e3:.1f} ms" if limit else ""
            return Verdict(aim, f"{own * 1e3:.1f} ms{beside}", own < below)
    return Verdict(f"{what}: less than {below * 1e3:,.0f} ms", "not measured", None)


def _flat(results: Results) -> Verdict:
    aim = "memory not growing over the run"
    settled, end = (results.value(name, max(NODE_CLIENTS)) for name in ("node memory settled", "node memory"))
    if not (settled and end):
        return Verdict(aim, "not measured", None)
    return Verdict(aim, f"{settled / MIB:.1f} MiB, then {end / MIB:.1f} MiB", end <= settled * GROWTH_TOLERANCE)


#: What crowds of clients do, and everything else at which the server's memory is looked at.
CROWDS = ("memory up", "memory down", "memory both")
WATCHED = (
    *("download", "upload", "upload chunked"),
    *("small download", "small download new", "small upload", "small upload new"),
)


def server_verdicts(results: Results) -> list[Verdict]:
    """The aims for the history server."""
    return [
        _beside_nginx(results, "download", "downloads of large files", 0.9),
        _beside_nginx(results, "upload", "durable uploads of large files", 0.7),
        _beside_nginx(results, "upload chunked", "durable uploads of large files, in chunks of 4 KiB", 0.7),
        _most_memory(results),
    ]


def _beside_nginx(results: Results, name: str, what: str, at_least: float) -> Verdict:
    aim = f"{what}: at least {at_least} of nginx's speed, {' and '.join(map(str, TRANSFER_CLIENTS))} clients"
    found = {clients: results.ratio(name, clients, NGINX) for clients in TRANSFER_CLIENTS}
    shares = {clients: value for clients, value in found.items() if value is not None}
    if not shares:
        return Verdict(aim, "not measured", None)
    measured = ", ".join(f"{value:.2f} with {clients}" for clients, value in shares.items())
    # One that was not measured has not reached it.
    return Verdict(aim, measured, len(shares) == len(found) and min(shares.values()) >= at_least)


def _most_memory(results: Results) -> Verdict:
    aim = "at most 80 MiB resident, whatever the sizes and however many clients"
    names = (*CROWDS, *(f"{name} peak" for name in WATCHED))
    peaks = [peak for name in names for size in results.sizes(name) if (peak := results.value(name, size))]
    if not peaks or not all(results.sizes(name) for name in CROWDS):
        return Verdict(aim, "not measured", None)
    return Verdict(aim, f"{max(peaks) / MIB:.1f} MiB", max(peaks) <= 80 * MIB)


def installation_verdicts(results: Results) -> list[Verdict]:
    """The aims for the installation."""
    return [
        *(_received(results, members) for members in GROUP_MEMBERS),
        _opened(results, "open", "opening an installation with 1,000 groups"),
        _opened(results, "build", "the same with `Client.build`, until the groups are listed"),
    ]


def _received(results: Results, members: int) -> Verdict:
    at_least = 5_000
    aim = f"at least {at_least:,} messages a second decrypted and stored on one core, {members} members"
    own, limit = (results.value("receive", members, subject) for subject in (LIBRARY, OPENMLS))
    if not own:
        return Verdict(aim, "not measured", None)
    beside = f"; OpenMLS alone decrypts {1 / limit:,.0f}" if limit else ""
    return Verdict(aim, f"{1 / own:,.0f}{beside}", 1 / own >= at_least)


def _opened(results: Results, name: str, what: str) -> Verdict:
    below = 0.5
    own = results.value(name, MANY_GROUPS)
    aim = f"{what}: less than {below} s"
    return Verdict(aim, f"{own * 1e3:.0f} ms", own < below) if own else Verdict(aim, "not measured", None)


def history_sync_verdicts(results: Results) -> list[Verdict]:
    """The aims for history sync."""
    return [
        _sync_beside_libxmtp(results),
        _sync_of_a_million(results),
        *(_sync_memory(results, side) for side in ("old", "new")),
        _sync_growth(results),
    ]


def _sync_beside_libxmtp(results: Results) -> Verdict:
    at_least = 100
    aim = f"at least {at_least} times libxmtp to libxmtp at 20 k messages"
    ratio = results.ratio("history sync", 20_000, LIBXMTP)
    return Verdict(aim, f"{ratio:.0f} times" if ratio else "not measured", ratio >= at_least if ratio else None)


def _sync_of_a_million(results: Results) -> Verdict:
    below = 15.0
    aim = f"1 M messages: less than {below:.0f} s"
    own = results.value("history sync", 1_000_000)
    return Verdict(aim, f"{own:.1f} s" if own else "not measured", own < below if own else None)


def _sync_memory(results: Results, side: str) -> Verdict:
    at_most = 128
    aim = f"added memory of the {side} one: at most {at_most} MiB, whatever the size"
    name = f"history sync {side} memory"
    peaks = {size: peak for size in results.sizes(name) if (peak := results.value(name, size)) is not None}
    text = ", ".join(f"{peak / MIB:.1f} MiB at {size:,}" for size, peak in peaks.items())
    reached = max(peaks.values()) <= at_most * MIB if 1_000_000 in peaks else None
    return Verdict(aim, text or "not measured", reached)


def _sync_growth(results: Results) -> Verdict:
    at_most = 1.3
    aim = f"cost of a message flat: at 1 M at most {at_most} times that at 20 k"
    large, small = (results.value("history sync", size) for size in (1_000_000, 20_000))
    if not (large and small):
        return Verdict(aim, "not measured", None)
    growth = large / 1_000_000 / (small / 20_000)
    return Verdict(aim, f"{growth:.2f} times", growth <= at_most)
