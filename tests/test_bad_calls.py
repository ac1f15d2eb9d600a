"""Calls that cannot work: wrong keys and types, files that misbehave, full disks, closed readers."""

from __future__ import annotations

import contextlib
import gc
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from independent import assemble, encode_element, frame, seal_all, write
from independent.elements import Element
from support import child
from support.build import KEY, STORE_KEY, consent, group, message, metadata, small
from support.data import fixture
from support.files import BoomError, Drips, Fails
from support.store import import_elements, snapshot
from xmtp_history import (
    ArchiveCorrupted,
    ArchiveError,
    ArchiveKeyError,
    Counts,
    History,
    StoreError,
    archive_metadata,
    open_archive,
    rewrite_archive,
    verify_archive,
)

NONCE = bytes(range(12))


def _archive(elements: list[Element] | None = None, **options: Any) -> bytes:
    return write(None, KEY, small() if elements is None else elements, nonce=NONCE, **options)


def _join(sealed: list[bytes]) -> bytes:
    return assemble(NONCE, frame(b"".join(sealed)))


@pytest.fixture
def filled(history: History) -> History:
    """A store with something in it that must not change."""
    import_elements(history, [metadata(), group(9), message(90, 9), consent("someone")])
    return history


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [b"", bytes(16), bytes(31), bytes(33), bytes(64)], ids=len)
def test_keys_of_another_length(filled: History, tmp_path: Path, key: bytes) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: verify_archive(_archive(), key),
        lambda: archive_metadata(_archive(), key),
        lambda: open_archive(_archive(), key),
        lambda: rewrite_archive(_archive(), key, tmp_path / "x", KEY),
        lambda: rewrite_archive(_archive(), KEY, tmp_path / "x", key),
        lambda: filled.import_archive(_archive(), key),
        lambda: filled.create_archive(tmp_path / "x", key),
    ]
    for call in calls:
        with pytest.raises(ArchiveKeyError, match="32"):
            call()
        with pytest.raises(ValueError, match="32"):
            call()
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("key", ["0" * 32, None, 32, [0] * 32], ids=repr)
def test_keys_of_another_type(filled: History, tmp_path: Path, key: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: verify_archive(_archive(), key),
        lambda: archive_metadata(_archive(), key),
        lambda: open_archive(_archive(), key),
        lambda: filled.import_archive(_archive(), key),
        lambda: filled.create_archive(tmp_path / "x", key),
        lambda: rewrite_archive(_archive(), KEY, tmp_path / "x", key),
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("convert", [bytes, bytearray, memoryview])
def test_keys_of_any_bytes_type(convert: Any) -> None:
    assert verify_archive(_archive(), convert(KEY)).counts == Counts(2, 3, 2)


def test_a_wrong_key(filled: History) -> None:
    before = snapshot(filled)
    for wrong in (bytes(32), KEY[::-1], KEY[:-1] + b"\0"):
        for read_it in (verify_archive, archive_metadata, filled.import_archive):
            with pytest.raises(ArchiveKeyError) as caught:
                read_it(_archive(), wrong)
            assert (caught.value.reason, caught.value.element) == ("WrongKeyOrCorrupt", 0)
    assert snapshot(filled) == before


def test_no_error_shows_the_key_or_content() -> None:
    secret = b"a very private sentence"
    data = bytearray(_archive([metadata(), message(1, content=secret), group(3, id="33")]))
    with pytest.raises(ArchiveError) as wrong_key:
        verify_archive(bytes(data), bytes(range(50, 82)))
    data[-5] ^= 1
    with pytest.raises(ArchiveError) as damaged:
        verify_archive(bytes(data), KEY)
    for caught in (wrong_key, damaged):
        text = repr(caught.value) + str(caught.value) + repr(vars(caught.value))
        for hidden in (KEY, bytes(range(50, 82)), secret):
            assert hidden.hex() not in text
            assert repr(hidden)[2:-1] not in text


# --- sources and targets that misbehave ------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_sources_that_drip(history: History, step: int) -> None:
    known = fixture("rich-content")
    expected = verify_archive(known.data, known.key)
    assert verify_archive(Drips(known.data, step), known.key) == expected
    with open_archive(Drips(known.data, step), known.key) as reader:
        assert len(list(reader)) == expected.elements - 1
    assert history.import_archive(Drips(known.data, step), known.key).new.messages == expected.counts.messages


@pytest.mark.parametrize("after", [0, 1, 13, 14, 100, 500])
def test_sources_that_raise(filled: History, after: int) -> None:
    before = snapshot(filled)
    data = _archive()
    assert len(data) > 500
    with pytest.raises(BoomError):
        filled.import_archive(Fails(data, after), KEY)
    with pytest.raises(BoomError):
        verify_archive(Fails(data, after), KEY)
    with pytest.raises(BoomError), open_archive(Fails(data, after), KEY) as reader:
        list(reader)
    assert snapshot(filled) == before
    assert filled.import_archive(data, KEY).new.conversations == 2, "the store still works"


@pytest.mark.parametrize("after", [0, 1])
def test_targets_that_raise(filled: History, after: int) -> None:
    import_elements(filled, [metadata(), *(message(n, 9, content=os.urandom(100_000)) for n in range(20))])
    with pytest.raises(BoomError):
        filled.create_archive(Fails(after=after), KEY)
    with pytest.raises(BoomError):
        rewrite_archive(fixture("big-message").path, fixture("big-message").key, Fails(after=after), KEY)
    target = io.BytesIO()
    filled.create_archive(target, KEY)
    assert verify_archive(target.getvalue(), KEY).counts.messages == 21


def test_on_progress_that_raises_aborts(filled: History, tmp_path: Path) -> None:
    known = fixture("big-message")
    before = snapshot(filled)

    def fail(_: object) -> None:
        raise BoomError

    with pytest.raises(BoomError):
        filled.import_archive(known.path, known.key, on_progress=fail)
    assert snapshot(filled) == before
    with pytest.raises(BoomError):
        filled.create_archive(tmp_path / "out.xmtp", KEY, on_progress=fail)
    assert [entry.name for entry in tmp_path.iterdir() if "xmtp" in entry.name] == []


@pytest.mark.parametrize("source", [None, 7, ["x"], object()], ids=repr)
def test_sources_of_another_type(filled: History, source: Any) -> None:
    for call in (verify_archive, archive_metadata, open_archive, filled.import_archive):
        with pytest.raises(TypeError):
            call(source, KEY)


def test_text_files_are_refused(filled: History, tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        verify_archive(io.StringIO("x" * 100), KEY)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        filled.create_archive(io.StringIO(), KEY)  # type: ignore[arg-type]
    with (tmp_path / "text").open("w") as file, pytest.raises(TypeError):
        filled.create_archive(file, KEY)  # type: ignore[arg-type]


def test_missing_and_unreadable_files(filled: History, tmp_path: Path) -> None:
    for call in (verify_archive, archive_metadata, open_archive, filled.import_archive):
        with pytest.raises(FileNotFoundError):
            call(tmp_path / "missing.xmtp", KEY)
        with pytest.raises(IsADirectoryError):
            call(tmp_path, KEY)
    with pytest.raises(FileNotFoundError):
        filled.create_archive(tmp_path / "no" / "such" / "folder.xmtp", KEY)
    with pytest.raises(OSError, match=r".+"):
        filled.create_archive(tmp_path, KEY)


def test_a_failed_export_keeps_the_old_file(filled: History, tmp_path: Path) -> None:
    target = tmp_path / "out.xmtp"
    target.write_bytes(b"precious")

    def fail(_: object) -> None:
        raise BoomError

    with pytest.raises(BoomError):
        filled.create_archive(target, KEY, on_progress=fail)
    with contextlib.suppress(ArchiveError):
        rewrite_archive(_archive()[:-1], KEY, target, KEY)
    assert target.read_bytes() == b"precious"
    assert {entry.name for entry in tmp_path.iterdir()} <= {
        "out.xmtp",
        "history.db3",
        "history.db3-wal",
        "history.db3-shm",
    }


#: Exports and imports in a child whose files cannot grow beyond a size, as on a full disk.
_FULL_DISK = """
import resource, signal, sys
from xmtp_history import History, XmtpHistoryError, verify_archive
store, archive, target, limit = sys.argv[1:5]
key = bytes(range(32))
history = History.open(store, key)
before = history.counts()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
for call in (lambda: history.import_archive(archive, key), lambda: history.create_archive(target, key)):
    try:
        call()
        print("done")
    except (OSError, XmtpHistoryError) as error:
        print(type(error).__name__)
print(history.counts() == before)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
history.import_archive(archive, key)
report = history.create_archive(target, key)
assert verify_archive(target, key) == report
print(report.counts.messages)
"""


@pytest.mark.parametrize("limit", [4096, 100_000, 700_000])
def test_disk_full(tmp_path: Path, limit: int) -> None:
    store, archive, target = tmp_path / "store.db3", tmp_path / "in.xmtp", tmp_path / "out.xmtp"
    with History.open(store, KEY) as history:
        import_elements(history, [metadata(), group(1), *(message(n, content=os.urandom(20_000)) for n in range(50))])
    more = [metadata(), group(2), *(message(n, 2, content=os.urandom(20_000)) for n in range(100, 150))]
    write(archive, KEY, more)
    *outcomes, unchanged, messages = child.run(_FULL_DISK, store, archive, target, str(limit)).splitlines()
    assert "done" not in outcomes
    assert (unchanged, messages) == ("True", "100")
    assert {entry.name for entry in tmp_path.iterdir()} <= {
        "store.db3",
        "store.db3-wal",
        "store.db3-shm",
        "in.xmtp",
        "out.xmtp",
    }


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_target_that_is_full(filled: History) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError, match="No space left"):
        filled.create_archive(full, KEY)


def test_pipes_can_be_sources_and_targets(filled: History) -> None:
    """Neither can seek."""
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as source, os.fdopen(write_end, "wb") as target:
        report = filled.create_archive(target, KEY)
        target.close()
        assert verify_archive(source, KEY) == report


def test_a_target_that_takes_nothing(filled: History) -> None:
    """Neither a busy loop nor an archive with a hole in it."""

    class Stuck(io.RawIOBase):
        calls = 0

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.calls += 1
            assert self.calls < 100, "asked again and again"
            return 0

    with pytest.raises(OSError, match=r".+"):
        filled.create_archive(Stuck(), KEY)


def test_a_target_that_does_not_wait(filled: History) -> None:
    """A pipe that is full: the file object says so by taking nothing, which must not pass for success."""
    import_elements(filled, [metadata(), *(message(n, 9, content=os.urandom(100_000)) for n in range(20))])
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with (
        os.fdopen(read_end, "rb"),
        os.fdopen(write_end, "wb", buffering=0) as target,
        pytest.raises(OSError, match=r".+"),
    ):
        filled.create_archive(target, KEY)


def test_a_target_that_takes_a_little_at_a_time(filled: History) -> None:
    class Slow(io.RawIOBase):
        def __init__(self) -> None:
            self.data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.data += bytes(data[:7])
            return min(7, len(data))

    target = Slow()
    report = filled.create_archive(target, KEY)
    assert verify_archive(target.data, KEY) == report


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody can write")
def test_folders_that_cannot_be_written_to(filled: History) -> None:
    with pytest.raises(OSError, match=r".+"):
        filled.create_archive("/proc/archive.xmtp", KEY)
    with pytest.raises(OSError, match=r".+"):
        rewrite_archive(_archive(), KEY, "/proc/archive.xmtp", KEY)
    with pytest.raises((OSError, StoreError)):
        History.open("/proc/store.db3", STORE_KEY)


# --- readers ---------------------------------------------------------------------------------------------------------


def test_a_reader_after_its_end(history: History) -> None:
    reader = open_archive(_archive(), KEY)
    assert len(list(reader)) == 7
    assert list(reader) == []
    reader.close()
    reader.close()


def test_a_closed_reader_says_so() -> None:
    with open_archive(_archive(), KEY) as reader:
        metadata_before = reader.metadata
        next(iter(reader))
    with pytest.raises(ValueError, match="closed"):
        next(iter(reader))
    assert reader.metadata == metadata_before


def test_a_reader_leaves_a_callers_file_open(tmp_path: Path) -> None:
    path = tmp_path / "a.xmtp"
    path.write_bytes(_archive())
    with path.open("rb") as file:
        with open_archive(file, KEY) as reader:
            list(reader)
        assert not file.closed
        verify_archive(path, KEY)
    target = io.BytesIO()
    rewrite_archive(path, KEY, target, KEY)
    assert not target.closed


def test_a_reader_gives_what_is_sound_before_it_fails() -> None:
    """A reader streams: records before the damage come, then the error, then nothing more."""
    elements = [metadata(), *(consent(f"{n}") for n in range(5000))]
    sealed = seal_all(KEY, NONCE, [encode_element(element) for element in elements])
    sealed[4000] = bytes(len(sealed[4000]))
    got: list[object] = []
    with pytest.raises(ArchiveCorrupted) as caught, open_archive(_join(sealed), KEY) as reader:
        got.extend(reader)
    assert caught.value.reason == "BadElementLength"
    assert len(got) <= 3999


def _open_files() -> int:
    gc.collect()
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_abandoned_readers_and_stores_do_not_leak(tmp_path: Path) -> None:
    """Forgetting to close is not nice, but keeps neither a file nor a lock."""
    before = _open_files()
    for _ in range(50):
        open_archive(fixture("many-pages").path, fixture("many-pages").key)
        History.open(tmp_path / "store.db3", STORE_KEY)
    assert _open_files() <= before
