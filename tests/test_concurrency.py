"""Several users of one store: threads, processes, readers beside a writer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from independent import write
from support import child, public
from support.build import (
    KEY,
    STORE_KEY,
    T0,
    group,
    group_id,
    message,
    metadata,
    small,
)
from support.data import fixture
from support.store import import_elements, snapshot
from xmtp_history import (
    Consent,
    Counts,
    History,
    ImportReport,
    Message,
    StoreLocked,
    verify_archive,
)


def _message(number: int, of: int = 1, **changes: Any) -> Message:
    return public.message(message(number, of)[1], **changes)


# --- several users ---------------------------------------------------------------------------------------------------


class _Waits:
    """A source that stops in the middle until it is told to go on."""

    def __init__(self, data: bytes, stop_at: int) -> None:
        self._data, self._at, self._stop_at = data, 0, stop_at
        self.stopped, self.go_on = threading.Event(), threading.Event()

    def read(self, size: int = -1) -> bytes:
        if self._at == self._stop_at:
            self.stopped.set()
            assert self.go_on.wait(30)
        size = len(self._data) if size < 0 else size
        if self._at < self._stop_at:
            size = min(size, self._stop_at - self._at)
        self._at += size
        return self._data[self._at - size : self._at]


@pytest.fixture
def importing(history: History) -> Iterator[tuple[History, _Waits, threading.Thread]]:
    """An import that has got half-way through its archive."""
    import_elements(history, small())
    known = fixture("many-pages")
    source = _Waits(known.data, known.facts["file_size"] * 3 // 4)
    thread = threading.Thread(target=history.import_archive, args=(source, known.key))
    thread.start()
    assert source.stopped.wait(30)
    yield history, source, thread
    source.go_on.set()
    thread.join(30)
    assert not thread.is_alive()


def test_a_reader_sees_nothing_of_an_import_until_it_is_done(
    importing: tuple[History, _Waits, threading.Thread],
) -> None:
    history, source, thread = importing
    before = snapshot(history)
    assert before["counts"] == Counts(2, 3, 2)
    source.go_on.set()
    thread.join(30)
    assert history.counts() == Counts(107, 233, 127)


_COUNT = """
import sys
from xmtp_history import History
with History.open(sys.argv[1], bytes.fromhex(sys.argv[2])) as history:
    print(history.counts(), len(list(history.messages("00" * 15 + "01"))))
"""


def test_another_process_reads_during_an_import(
    importing: tuple[History, _Waits, threading.Thread], store_path: Path
) -> None:
    out = child.run(_COUNT, store_path, STORE_KEY.hex())
    assert out.strip() == f"{Counts(2, 3, 2)} 2"


def test_a_second_writer_waits_and_gives_up(
    importing: tuple[History, _Waits, threading.Thread], store_path: Path
) -> None:
    history, source, thread = importing
    with History.open(store_path, STORE_KEY, timeout=0.05) as other:
        for call in (
            lambda: other.set_consents([Consent(1, 2, "x", T0)]),
            lambda: other.add_messages([_message(77)]),
            lambda: import_elements(other, small()),
        ):
            with pytest.raises(StoreLocked):
                call()
        assert other.counts() == Counts(2, 3, 2)
        source.go_on.set()
        thread.join(30)
        assert other.set_consents([Consent(1, 2, "x", T0)]).new == Counts(consents=1)
    assert history.counts() == Counts(107, 233, 128)


def test_a_second_writer_gets_its_turn_in_time(
    importing: tuple[History, _Waits, threading.Thread], store_path: Path
) -> None:
    _, source, _ = importing
    with History.open(store_path, STORE_KEY, timeout=30) as other:
        threading.Timer(0.1, source.go_on.set).start()
        assert other.set_consents([Consent(1, 2, "x", T0)]).new == Counts(consents=1)


def test_closing_during_an_import(importing: tuple[History, _Waits, threading.Thread], store_path: Path) -> None:
    """Whatever becomes of the import: no crash, and all or nothing."""
    history, source, thread = importing
    threading.Timer(0.1, source.go_on.set).start()
    history.close()
    thread.join(30)
    with History.open(store_path, STORE_KEY) as again:
        assert again.counts() in {Counts(2, 3, 2), Counts(107, 233, 127)}


def test_an_export_sees_one_moment(history: History) -> None:
    """Records written while an export runs are in none of its sections."""
    known = fixture("many-pages")
    history.import_archive(known.path, known.key)
    added: list[ImportReport] = []

    class Target:
        def __init__(self) -> None:
            self.data = b""

        def write(self, data: Any) -> int:
            if not added:
                added.append(history.add_messages([_message(n, 1) for n in range(100)]))
                added.append(history.set_consents([Consent(1, 2, f"{n}", T0) for n in range(100)]))
            self.data += bytes(data)
            return len(data)

    target = Target()
    report = history.create_archive(target, KEY)
    assert added
    assert report.counts == Counts(105, 230, 125)
    assert verify_archive(target.data, KEY).counts == Counts(105, 230, 125)


_WRITE = """
import sys
from xmtp_history import Consent, History
store, key, name, count = sys.argv[1:5]
with History.open(store, bytes.fromhex(key), timeout=60) as history:
    sys.stdin.readline()
    for number in range(int(count)):
        history.set_consents([Consent(1, 2, f"{name} {number}", number)])
"""


def test_two_processes_write_at_once(history: History, store_path: Path) -> None:
    names, count = ("one", "two"), 40
    children = [child.start(_WRITE, store_path, STORE_KEY.hex(), name, str(count)) for name in names]
    for process in children:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in children:
        _, err = process.communicate(timeout=child.DEADLINE_SECONDS)
        assert process.returncode == 0, err
    expected = {f"{name} {number}" for name in names for number in range(count)}
    assert {entry.entity for entry in history.consents()} == expected


def test_threads_share_one_store(history: History) -> None:
    import_elements(history, small())
    failures: list[BaseException] = []

    def work(name: int) -> None:
        try:
            for number in range(20):
                history.set_consents([Consent(1, 2, f"{name} {number}", T0)])
                assert len(list(history.messages(group_id(1)))) == 2
                assert len(list(history.conversations())) == 2
        except BaseException as error:  # noqa: BLE001 - told to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert history.counts().consents == 122


def test_archives_of_two_stores_can_be_merged(history: History, tmp_path: Path) -> None:
    """The everyday case: two installations, one archive each."""
    for number in (1, 2):
        data = write(None, KEY, [metadata(), group(1), group(1 + number), message(number), message(9, 1 + number)])
        (tmp_path / f"{number}.xmtp").write_bytes(data)
        history.import_archive(tmp_path / f"{number}.xmtp", KEY)
    assert history.counts() == Counts(3, 3)
