"""The part of the report about the installation."""

from __future__ import annotations

from collections.abc import Iterator

from aims import MIB, installation_verdicts
from plan import (
    COMMITS,
    GROUP_MEMBERS,
    LIBRARY,
    LIBXMTP,
    MANY_GROUPS,
    OPENMLS,
    SIGNATURES,
    SQLCIPHER,
    STORING,
    VERIFY,
)
from results import Results
from tables import NONE, aims, bullets, seconds, share, table, times

RECEIVE_HEADER = (
    *("received by itself, members", "messages/s", "each", "OpenMLS alone", "share", "storing alone", "share"),
    *("verifying alone", "commits alone", "processor", "memory"),
)
FOLLOW_HEADER = (
    *("from the local node, members", "xmtp-history", "libxmtp 1.10", "ratio", "joining", "libxmtp's", "ratio"),
    *("memory", "libxmtp's"),
)
OTHER_HEADER = ("what", "xmtp-history", "limit", "limit / xmtp-history")
READING = """\
Each figure is the median over the cycles of one run; in every cycle each subject has its turn; ratios and shares are
taken within a cycle. Groups have one sender, who is a real MLS member in memory, and one installation for each inbox; they
have seen three commits. The messages are 20,000 texts of 70 characters, which come in pages of 100; each page is decrypted,
checked and stored, with OpenMLS's state and the cursor, in one durable transaction on an encrypted file
(`installation.rs`). *OpenMLS alone* is `process_message` on the same messages, with a storage that keeps nothing; the time
of *verifying alone*, as many Ed25519 signatures, is a part of it. *Storing alone* is adding as many messages to the
store in as many transactions; the time of *commits alone*, as many transactions that change one row, is a part of it.
*Processor* is what all threads worked for a message, and *memory* the most that a process had resident which received
all messages and did nothing else.

*From the local node*: an account registers an installation with `LocalNode`, is added to a group by the same peers, and
20,000 messages are sent. *Joining* is `client.conversations.sync()`, with the peers' identity logs not known yet; the
messages are fetched by `sync_all` of one conversation, with libxmtp by `sync()` of it. Fetching over gRPC is
included, sending is not. Both are in a process of their own; the node, in another, has its data on the same disk."""
FOLDS = {
    "many": "250 identity logs with 4 updates each: an update",
    "one": "an identity log with 256 updates: an update",
}


def section(results: Results) -> list[str]:
    """Its paragraphs and tables."""
    found = [READING, table(RECEIVE_HEADER, _receive(results), numbers=len(RECEIVE_HEADER))]
    found.append(table(FOLLOW_HEADER, _follow(results), numbers=len(FOLLOW_HEADER)))
    found.append(table(OTHER_HEADER, _others(results), numbers=2))
    found += ["### Aims", aims(installation_verdicts(results))]
    reasons = {subject: results.reasons(subject) for subject in (LIBRARY, LIBXMTP, OPENMLS)}
    missing = [f"{subject}: {'; '.join(why)}" for subject, why in reasons.items() if why]
    return [*found, "### Not available", bullets(missing)] if missing else found


def _receive(results: Results) -> Iterator[tuple[str, ...]]:
    for members in GROUP_MEMBERS:
        own = results.value("receive", members)

        def beside(subject: str, members: int = members) -> tuple[str, str]:
            value, ratio = results.value("receive", members, subject), results.ratio("receive", members, subject)
            return _microseconds(value), share(ratio)

        yield (
            *(str(members), _rate(own), _microseconds(own), *beside(OPENMLS), *beside(STORING)),
            *(_microseconds(results.value("receive", members, subject)) for subject in (VERIFY, COMMITS)),
            _microseconds(results.value("receive processor", members)),
            _memory(results.value("receive memory", members)),
        )


def _follow(results: Results) -> Iterator[tuple[str, ...]]:
    for members in GROUP_MEMBERS:
        speed, joining, memory = (
            (results.value(name, members), results.value(name, members, LIBXMTP))
            for name in ("follow", "follow join", "follow peak")
        )
        yield (
            *(str(members), *(_rate(value) for value in speed), times(results.ratio("follow", members, LIBXMTP))),
            *(*(seconds(value) for value in joining), times(results.ratio("follow join", members, LIBXMTP))),
            *(_memory(value) for value in memory),
        )


def _others(results: Results) -> Iterator[tuple[str, ...]]:
    def row(title: str, name: str, size: int, limit: str = "", of: str = "") -> tuple[str, ...]:
        own = results.value(name, size)
        alone = results.value(name, size, limit)
        beside = f"{of} {seconds(alone)}" if alone else NONE
        return title, seconds(own), beside, share(results.ratio(name, size, limit))

    yield row("joining a group of 100, identity logs known", "join", 100, OPENMLS, "OpenMLS in memory")
    yield row("joining a group of 100, identity logs fetched and verified", "join unknown", 100)
    groups = f"an installation with {MANY_GROUPS:,} groups"
    yield row(f"opening {groups}", "open", MANY_GROUPS, SQLCIPHER, "opening and reading the file")
    yield row(f"`Client.build` of {groups}", "build", MANY_GROUPS)
    for name, title in FOLDS.items():
        yield row(f"{title}, verified", f"fold {name}", 0, SIGNATURES, "its signatures")
        yield row(f"{title}, decoded, verified and stored", f"ingest {name}", 0)


def _rate(value: float | None) -> str:
    return NONE if value is None else f"{1 / value:,.0f}/s"


def _microseconds(value: float | None) -> str:
    return NONE if value is None else f"{value * 1e6:,.0f} µs"


def _memory(value: float | None) -> str:
    return NONE if value is None else f"{value / MIB:.1f} MiB"
