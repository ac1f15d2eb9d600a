"""What a bench run measures: sizes, subjects and the order they take turns in.

The machine may be busy with other things. So nothing is measured in one long block: a run walks through cycles, and in
every cycle each subject has its turn. A ratio is taken inside a cycle, where both sides saw the same machine, and the
published figure is the median over the cycles.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_SIZES = (1_000, 10_000, 20_000, 100_000, 1_000_000)
MEMORY_SIZES = (100_000, 1_000_000)

LIBRARY = "library"
PYTHON = "python"
LIBXMTP = "libxmtp"
# Above this the reference takes minutes: reading and paging both cost the square of the number of messages.
LIBXMTP_LARGEST = 20_000
LIBXMTP_CYCLES = 3
STARTUP_CYCLES = 15

PLAIN = "plain"
OFFICIAL = "official"
BARE = "limit:bare"
SQLITE = "limit:sqlite"
DISK = "limit:disk"
NODE_CLIENTS = (1, 8, 64)
NODE_STREAMS = 1_000
NODE_CYCLES = 5
DEFAULT_NODE_SECONDS = 2.0
DEFAULT_NODE_MINUTES = 10.0

NGINX = "nginx"
ACCEPT = "limit:accept"
FILES = "limit:files"
TRANSFER_CLIENTS = (1, 16)
SMALL_CLIENTS = (1, 16, 64)
CROWD = 200
SERVER_CYCLES = 3
DEFAULT_SERVER_SECONDS = 1.0
DEFAULT_SERVER_MIB = 1024

OPENMLS = "limit:openmls"
VERIFY = "limit:verify"
STORING = "limit:store"
COMMITS = "limit:commit"
SQLCIPHER = "limit:sqlcipher"
SIGNATURES = "limit:signatures"
#: Members of the groups in which messages are received.
GROUP_MEMBERS = (3, 100)
#: As many as the programs of the installation's part make.
RECEIVED = 20_000
MANY_GROUPS = 1_000
INSTALLATION_CYCLES = 5
#: The reference is slow, and makes few requests a minute.
FOLLOW_CYCLES = 3

#: Where only one of two installations is libxmtp's: the one that sends its history, or the one that gets it.
OLD_LIBXMTP = "libxmtp-old"
NEW_LIBXMTP = "libxmtp-new"
HISTORY_SYNC_SIZES = (1_000, 20_000, 100_000, 1_000_000)
#: Above this a turn takes long, and scatters less.
HISTORY_SYNC_SHORT = 20_000
#: The most that is sent to libxmtp, or by it.
HISTORY_SYNC_MIXED = 100_000


def sizes() -> tuple[int, ...]:
    """The numbers of messages to measure: ``BENCH_SIZES=1000,10000`` or the default."""
    text = os.environ.get("BENCH_SIZES", "")
    chosen = tuple(int(part.replace("_", "")) for part in text.split(",") if part.strip())
    return tuple(sorted(set(chosen))) or DEFAULT_SIZES


def cycles(size: int) -> int:
    """How many turns everybody gets: ``BENCH_CYCLES``, or fewer the longer a turn takes."""
    if fixed := os.environ.get("BENCH_CYCLES"):
        return max(1, int(fixed))
    return 9 if size <= 10_000 else 7 if size <= 20_000 else 5


def rounds(size: int) -> int:
    """How often a subject repeats inside its turn; short work needs it, long work does not."""
    return 5 if size <= 1_000 else 3 if size <= 20_000 else 1


def node_seconds() -> float:
    """How long a turn with a node counts: ``BENCH_NODE_SECONDS``."""
    return float(os.environ.get("BENCH_NODE_SECONDS") or DEFAULT_NODE_SECONDS)


def node_minutes() -> float:
    """How long a node's memory is watched: ``BENCH_NODE_MINUTES``."""
    return float(os.environ.get("BENCH_NODE_MINUTES") or DEFAULT_NODE_MINUTES)


def server_seconds() -> float:
    """How long a turn with small files counts: ``BENCH_SERVER_SECONDS``."""
    return float(os.environ.get("BENCH_SERVER_SECONDS") or DEFAULT_SERVER_SECONDS)


def server_mib() -> int:
    """How much is uploaded to a history server in a turn: ``BENCH_SERVER_MIB``."""
    return int(os.environ.get("BENCH_SERVER_MIB") or DEFAULT_SERVER_MIB)


def cache() -> Path:
    """Where archives are kept between runs: ``BENCH_CACHE``, or the checkout's ignored cache folder."""
    folder = Path(os.environ.get("BENCH_CACHE") or ROOT / ".cache" / "benches")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True, slots=True)
class Case:
    """One subject's turn at one operation.

    Attributes:
        operation: what is measured, for example ``"decode"``.
        size: number of messages, 0 where that means nothing.
        cycle: which turn this is.
        subject: who is measured: one of the names above, or ``"limit:"`` and the name of a limit.
        rounds: how often the work is repeated within the turn.
    """

    operation: str
    size: int
    cycle: int
    subject: str
    rounds: int

    def __str__(self) -> str:
        return f"{self.size}-{self.cycle}-{self.subject}"


def cases(operation: str, *subjects: str, limits: Iterable[str] = ()) -> list[Case]:
    """All turns at an operation, with the subject changing fastest.

    libxmtp takes part up to its largest size, and in at most three cycles: its turn lasts seconds, not milliseconds.
    """
    everybody = (*subjects, *(f"limit:{name}" for name in limits))
    return [
        Case(operation, size, cycle, subject, 1 if subject == LIBXMTP else rounds(size))
        for size in sizes()
        for cycle in range(cycles(size))
        for subject in everybody
        if subject != LIBXMTP or (size <= LIBXMTP_LARGEST and cycle < LIBXMTP_CYCLES)
    ]


def memory_cases(operation: str, *subjects: str) -> list[Case]:
    """Turns at a memory measurement, for the sizes where growth would show."""
    measured = [size for size in sizes() if size in MEMORY_SIZES]
    return [Case(operation, size, cycle, subject, 1) for size in measured for cycle in range(3) for subject in subjects]


def startup_cases(operation: str, *subjects: str) -> list[Case]:
    """Turns at starting a process, where single figures scatter most."""
    return [Case(operation, 0, cycle, subject, 1) for cycle in range(STARTUP_CYCLES) for subject in subjects]


def node_cases(operation: str, sizes: Iterable[int], *subjects: str, turns: int = NODE_CYCLES) -> list[Case]:
    """Turns at something that a node does, for so many clients; the official node takes part if there is one."""
    turns = max(1, int(os.environ.get("BENCH_CYCLES") or turns))
    everybody = [name for name in subjects if name != OFFICIAL or os.environ.get("BENCH_OFFICIAL_NODE")]
    return [
        Case(operation, size, cycle, subject, 1) for size in sizes for cycle in range(turns) for subject in everybody
    ]


def server_cases(operation: str, sizes: Iterable[int], *subjects: str, turns: int = SERVER_CYCLES) -> list[Case]:
    """Turns at something that a history server does, for so many clients."""
    return node_cases(operation, sizes, *subjects, turns=turns)


def installation_cases(
    operation: str, sizes: Iterable[int], *subjects: str, turns: int = INSTALLATION_CYCLES
) -> list[Case]:
    """Turns at something that an installation does."""
    return node_cases(operation, sizes, *subjects, turns=turns)


def crowd_cases(operation: str, subject: str) -> list[Case]:
    """One turn of a crowd: it takes a minute, and memory scatters little."""
    return [Case(operation, CROWD, 0, subject, 1)]


def history_sync_cases(operation: str, *subjects: str) -> list[Case]:
    """Turns at syncing a history; with libxmtp on one side up to 100,000 messages, but once, as that takes minutes."""
    found: list[Case] = []
    for size in HISTORY_SYNC_SIZES:
        if size in sizes():
            turns = 5 if size <= HISTORY_SYNC_SHORT else 3
            found += [case for case in node_cases(operation, [size], *subjects, turns=turns) if _is_worth_while(case)]
    return found


def _is_worth_while(case: Case) -> bool:
    if case.subject == LIBRARY or case.size <= LIBXMTP_LARGEST:
        return True
    return case.subject in {OLD_LIBXMTP, NEW_LIBXMTP} and case.size <= HISTORY_SYNC_MIXED and case.cycle == 0
