"""Killed at any point: an import happened wholly or not at all, an export never looks complete before it is.

A child is killed without notice: by its own hand in the middle of a call, by the kernel at an exact size of a file (the
file size limit's signal), or by its parent as soon as a certain size is seen on disk.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from independent import write
from support import child
from support.build import KEY, STORE_KEY, consent, group, group_id, message, metadata
from support.store import export, import_elements, snapshot
from xmtp_history import Counts, History, verify_archive

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the file size limit's signal is not reliable elsewhere"
)

BEFORE = Counts(1, 20, 1)
AFTER = Counts(2, 320, 2)

_PRELUDE = """
import os, resource, signal, sys
from xmtp_history import History
store, archive, target, point = sys.argv[1:5]
point = int(point)
key, store_key = bytes(range(32)), bytes(range(100, 132))

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Source:
    def __init__(self):
        self.file, self.left = open(archive, "rb"), point
    def read(self, size=-1):
        self.left -= 1
        if self.left < 0:
            die()
        return self.file.read(min(size, 20_000) if size >= 0 else 20_000)

def limit_files():
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (point, point))

history = History.open(store, store_key)
"""

_IMPORT_FROM_DYING_SOURCE = _PRELUDE + "history.import_archive(Source(), key)"
_IMPORT_WITH_FILE_LIMIT = _PRELUDE + "limit_files(); history.import_archive(archive, key); history.close()"
_IMPORT = _PRELUDE + "sys.stdin.readline(); history.import_archive(archive, key); print('done', flush=True)"
_IMPORT_AND_STAY = _IMPORT + "; sys.stdin.readline()"
_EXPORT_WITH_FILE_LIMIT = _PRELUDE + "limit_files(); history.create_archive(target, key)"
_EXPORT_WITH_DYING_PROGRESS = _PRELUDE + (
    "count = iter(range(point))\n"
    "history.create_archive(target, key, on_progress=lambda _: next(count, None) is None and die())"
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with something in it, and an archive of 3 MB with more."""
    folder = tmp_path_factory.mktemp("prepared")
    with History.open(folder / "store.db3", STORE_KEY) as history:
        import_elements(
            history,
            [metadata(), group(1), *(message(n, content=os.urandom(10_000)) for n in range(20)), consent("old")],
        )
        assert history.counts() == BEFORE
    more = [metadata(), group(2), *(message(n, 2, content=os.urandom(10_000)) for n in range(100, 400)), consent("new")]
    write(folder / "in.xmtp", KEY, more)
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """The test's own copies."""
    for entry in prepared.iterdir():
        (tmp_path / entry.name).write_bytes(entry.read_bytes())
    return tmp_path


def _run(script: str, folder: Path, point: int) -> int:
    with child.start(script, folder / "store.db3", folder / "in.xmtp", folder / "out.xmtp", str(point)) as process:
        _, err = process.communicate(timeout=child.DEADLINE_SECONDS)
    assert process.returncode in (0, -signal.SIGKILL, -signal.SIGXFSZ), err
    return process.returncode


def _check_store(folder: Path, allowed: tuple[Counts, ...] = (BEFORE, AFTER)) -> Counts:
    """The store opens at once, is whole, is in one of the allowed states, and can be written to."""
    with History.open(folder / "store.db3", STORE_KEY, timeout=0.5) as history:
        found = history.counts()
        assert found in allowed
        content = snapshot(history)
        assert len(content["messages"]) == found.messages
        assert len([kind for kind, _ in content["exported"] if kind == "group_message"]) == found.messages
        history.import_archive(folder / "in.xmtp", KEY)
        assert history.counts() == AFTER
    return found


def _others(folder: Path) -> set[str]:
    """Files that should not be there."""
    return {entry.name for entry in folder.iterdir()} - {
        "store.db3",
        "store.db3-wal",
        "store.db3-shm",
        "in.xmtp",
        "out.xmtp",
    }


@pytest.mark.parametrize("point", [0, 1, 2, 10, 50, 149])
def test_killed_while_reading_an_archive(folder: Path, point: int) -> None:
    assert _run(_IMPORT_FROM_DYING_SOURCE, folder, point) == -signal.SIGKILL
    assert _check_store(folder, (BEFORE,)) == BEFORE
    assert not (folder / "out.xmtp").exists()


def test_the_source_would_not_die_later(folder: Path) -> None:
    """The points above are inside the import."""
    assert _run(_IMPORT_FROM_DYING_SOURCE, folder, 10_000) == 0
    assert _check_store(folder) == AFTER


_SIZES = [4096, 5000, 100_000, 600_000, 1_500_000, 2_900_000, 3_100_000, 3_200_000, 3_300_000, 3_400_000, 4_000_000]


def test_killed_when_a_file_of_the_store_reaches_a_size(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every size of database and journal, from the first page to after the last one."""
    outcomes = []
    for size in _SIZES:
        copy = tmp_path_factory.mktemp("copy")
        for entry in folder.iterdir():
            (copy / entry.name).write_bytes(entry.read_bytes())
        code = _run(_IMPORT_WITH_FILE_LIMIT, copy, size)
        outcomes.append((code, _check_store(copy)))
        assert _others(copy) == set()
    codes = [code for code, _ in outcomes]
    assert codes[0] == -signal.SIGXFSZ, "the first limit strikes"
    assert codes[-1] == 0, "the last one does not"
    assert (-signal.SIGXFSZ, BEFORE) in outcomes
    assert outcomes[-1] == (0, AFTER)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 1.0])
def test_killed_from_outside_when_the_journal_has_grown(folder: Path, share: float) -> None:
    archive_bytes = (folder / "in.xmtp").stat().st_size
    process = child.start(_IMPORT, folder / "store.db3", folder / "in.xmtp", folder / "out.xmtp", "0")
    assert process.stdin is not None
    journal = folder / "store.db3-wal"
    process.stdin.write("go\n")
    process.stdin.flush()
    while process.poll() is None and not (journal.exists() and journal.stat().st_size >= archive_bytes * share):
        pass
    process.kill()
    out, err = process.communicate(timeout=child.DEADLINE_SECONDS)
    assert process.returncode in {0, -signal.SIGKILL}, err
    found = _check_store(folder)
    assert found == AFTER or not out, "what was reported as done is there"


def test_killed_right_after_an_import_it_is_there(folder: Path) -> None:
    """What was reported as done stays done."""
    process = child.start(_IMPORT_AND_STAY, folder / "store.db3", folder / "in.xmtp", folder / "out.xmtp", "0")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"
    process.kill()
    process.communicate(timeout=child.DEADLINE_SECONDS)
    assert _check_store(folder) == AFTER


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("point", [0, 1, 14, 1000, 65_536, 150_000])
def test_killed_while_writing_an_archive(folder: Path, point: int, *, existing: bool) -> None:
    """Under the final name is nothing, or what was there before. The next export works and leaves nothing else."""
    target = folder / "out.xmtp"
    if existing:
        target.write_bytes(b"precious")
    with History.open(folder / "store.db3", STORE_KEY):
        pass  # so that the child has nothing to write to the store itself
    assert _run(_EXPORT_WITH_FILE_LIMIT, folder, point) == -signal.SIGXFSZ
    assert (target.read_bytes() if target.exists() else None) == (b"precious" if existing else None)
    with History.open(folder / "store.db3", STORE_KEY) as history:
        report = history.create_archive(target, KEY)
        assert verify_archive(target, KEY) == report
        assert report.counts == BEFORE
    leftovers = _others(folder)
    assert len(leftovers) <= 1
    for name in leftovers:
        assert not name.endswith(".xmtp"), "nobody may take it for an archive"


@pytest.mark.parametrize("point", [0, 1, 5])
def test_killed_in_the_middle_of_an_export(folder: Path, point: int) -> None:
    with History.open(folder / "store.db3", STORE_KEY) as history:
        history.import_archive(folder / "in.xmtp", KEY)
    code = _run(_EXPORT_WITH_DYING_PROGRESS, folder, point)
    if (folder / "out.xmtp").exists():
        assert verify_archive(folder / "out.xmtp", KEY).counts == AFTER
    else:
        assert code == -signal.SIGKILL
    with History.open(folder / "store.db3", STORE_KEY) as history:
        assert len(export(history).of_kind("group_message")) == AFTER.messages
        assert len(list(history.messages(group_id(2)))) == 300
