"""Two installations of an inbox exchange archives through history servers of all kinds (history server, section 4)."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from interop.account import Installation, RealFailsError
from interop.conftest import Start
from interop.devices import (
    MESSAGES,
    Talk,
    assert_all_is_there,
    has_all,
    meet,
    messages,
    request_archive,
    send_archive,
    sync_until,
)
from interop.front import Front, Passed
from support import command
from support.s3 import S3Server, s3_server
from xmtp_history import HistoryServer, LocalStorage, ObjectStorage, ServerLimits, UploadTokens, testing

TOKEN: Final = "nobody-guesses-this-one"  # noqa: S105 - nor need they
WRONG_TOKEN: Final = "nobody-has-this-one-here"  # noqa: S105 - nor this

GUARDED: Final = {"upload_tokens": UploadTokens({"ours": TOKEN}), "token_for_downloads": True}

#: Short texts, with which real clients have no trouble, for an archive of some size.
MANY: Final = 5_000


class Answer(NamedTuple):
    """What a server has answered."""

    method: str
    route: str
    status: int


class Answers:
    """What servers of this process have answered."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def all(self) -> list[Answer]:
        noted = [vars(record).get("fields") for record in self._caplog.get_records("call")]
        return [Answer(fields["method"], fields["route"], fields["status"]) for fields in noted if fields]

    def check(self, *expected: Answer) -> None:
        """A server notes a download when the client may have all of it already."""
        sync_until(lambda: len(self.all()) >= len(expected))
        assert self.all() == list(expected)


@pytest.fixture
def answers(caplog: pytest.LogCaptureFixture) -> Answers:
    caplog.set_level(logging.INFO, "xmtp_history.server.requests")
    return Answers(caplog)


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    with s3_server(tmp_path / "s3") as server:
        yield server


UPLOADED: Final = Answer("POST", "upload", 200)
DOWNLOADED: Final = Answer("GET", "file", 200)
SENT_ELSEWHERE: Final = Answer("GET", "file", 302)


@contextlib.contextmanager
def _serving(storage: Any, **options: Any) -> Iterator[HistoryServer]:
    server = HistoryServer(storage, **{"port": 0, "limits": ServerLimits(shutdown_seconds=1.0), **options})
    with testing._running(server):
        yield server


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


# --- storages --------------------------------------------------------------------------------------------------------


def test_an_archive_comes_from_a_directory(talk: Talk, second: Installation, answers: Answers, tmp_path: Path) -> None:
    with _serving(LocalStorage(tmp_path / "archives"), delete_after_download=True) as server:
        request_archive(talk, second, server.url)
        answers.check(UPLOADED, DOWNLOADED)
        sync_until(lambda: _files(tmp_path / "archives") == [])


@pytest.mark.parametrize("redirect", [False, True], ids=["proxied", "redirected"])
def test_an_archive_comes_from_a_bucket(
    talk: Talk, second: Installation, s3: S3Server, answers: Answers, redirect: bool
) -> None:
    """The token for the server is nothing for the bucket, which takes no request with two proofs."""
    with _serving(ObjectStorage(s3.url, options=s3.options(), redirect=redirect), **GUARDED) as server:
        request_archive(talk, second, server.url.replace("//", f"//user:{TOKEN}@"))
        answers.check(UPLOADED, SENT_ELSEWHERE if redirect else DOWNLOADED)
        assert len(s3.keys()) == 1


def test_what_goes_to_one_server_comes_from_another(talk: Talk, second: Installation, s3: S3Server) -> None:
    """Two processes that share nothing but a bucket, by turns."""
    arguments = ("serve", "--port", "0", "--no-metrics", "--storage", s3.url)
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(command.serving(*arguments, environment=s3.environment())) for _ in range(2)]
        ports = [_port(one.urls["history_sync_url"]) for one in running]
        front = Front(*ports)
        stack.enter_context(testing._running(front))
        meet(talk, second)
        pins = ["one", "two", "three"]
        for pin in pins:
            send_archive(talk, second, front.url, pin)
        for pin in pins:
            second.do("take_archive", pin)
        assert front.passed == [
            Passed(method, ports[number % 2]) for number, method in enumerate(["POST"] * 3 + ["GET"] * 3)
        ]
        assert len(s3.keys()) == len(pins)
        assert_all_is_there(talk, second)
        assert [one.stop()[0] for one in running] == [0, 0]


def test_a_large_archive_comes_whole(talk: Talk, second: Installation, answers: Answers, tmp_path: Path) -> None:
    meet(talk, second)
    # Not before, because they would be published, which takes long.
    talk.first.do("keep", talk.group, "short", MANY)
    with _serving(LocalStorage(tmp_path / "archives")) as server:
        send_archive(talk, second, server.url, "large")
        (file,) = _files(tmp_path / "archives")
        assert file.stat().st_size > 1_000_000
        second.do("take_archive", "large")
        answers.check(UPLOADED, DOWNLOADED)
    assert len(messages(second, talk.group)) == MESSAGES + MANY


# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "address"),
    [
        ("", "http://{host}/"),
        ("/some/path", "http://{host}/some/path"),
        ("/some/path", "http://{host}/some/path/"),
        ("", "http://{host}/t/{token}"),
        ("/some/path", "http://{host}/some/path/t/{token}/"),
        ("", "http://user:{token}@{host}"),
    ],
)
def test_addresses(
    talk: Talk, second: Installation, answers: Answers, tmp_path: Path, prefix: str, address: str
) -> None:
    """The address that one installation gives leads the others to the server, with all that is in it."""
    access = GUARDED if "{token}" in address else {}
    with _serving(LocalStorage(tmp_path / "archives"), prefix=prefix, **access) as server:
        host = server.url.removeprefix("http://").removesuffix(prefix)
        request_archive(talk, second, address.format(host=host, token=TOKEN))
        answers.check(UPLOADED, DOWNLOADED)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_whoever_sends_an_archive_hears_why_it_is_refused(start: Start, answers: Answers, tmp_path: Path) -> None:
    alice = start("alice", device_sync=True)
    for options, path, status in (
        (GUARDED, "", 401),
        (GUARDED, f"/t/{WRONG_TOKEN}", 401),
        ({"prefix": "/some/path"}, "/and/more", 404),
        ({"limits": ServerLimits(max_file_bytes=10)}, "", 413),
        ({"limits": ServerLimits(uploads_per_minute=0)}, "", 429),
        ({"limits": ServerLimits(max_uploads=0)}, "", 503),
        ({"limits": ServerLimits(max_total_bytes=10)}, "", 507),
    ):
        with _serving(LocalStorage(tmp_path / "archives"), **options) as server:
            _assert_refused(alice, server.url + path, status)
        assert answers.all()[-1].status == status
    assert len(answers.all()) == 7
    assert _files(tmp_path / "archives") == []


def test_an_archive_that_is_too_large_is_refused_while_it_comes(start: Start, answers: Answers, tmp_path: Path) -> None:
    alice = start("alice", device_sync=True)
    group = alice.do("group", [])
    for number in range(30):
        alice.do("keep", group, random.Random(number).randbytes(200_000).hex())
    with _serving(LocalStorage(tmp_path / "archives"), limits=ServerLimits(max_file_bytes=100_000)) as server:
        _assert_refused(alice, server.url, 413)
    assert [answer.status for answer in answers.all()] == [413]
    assert _files(tmp_path / "archives") == []


def _assert_refused(sender: Installation, server: str, status: int) -> None:
    with pytest.raises(RealFailsError, match=rf"error \({status} "):
        sender.do("send_archive", server, "a pin")


# --- servers that come and go ----------------------------------------------------------------------------------------


def test_an_archive_outlives_its_server(talk: Talk, second: Installation, answers: Answers, tmp_path: Path) -> None:
    folder = tmp_path / "archives"
    with _serving(LocalStorage(folder)) as server:
        port = _port(server.url)
        meet(talk, second)
        send_archive(talk, second, server.url, "a pin")
    with pytest.raises(RealFailsError, match="error sending request"):
        second.do("take_archive", "a pin")
    with (
        _serving(LocalStorage(tmp_path / "other archives"), port=port),
        pytest.raises(RealFailsError, match="404 Not Found"),
    ):
        second.do("take_archive", "a pin")
    with _serving(LocalStorage(folder), port=port):
        second.do("take_archive", "a pin")
    assert_all_is_there(talk, second)
    answers.check(UPLOADED, Answer("GET", "file", 404), DOWNLOADED)


@pytest.mark.parametrize("full", [False, True], ids=["away", "full"])
def test_who_answers_a_request_tries_until_the_server_takes_the_archive(
    talk: Talk, second: Installation, answers: Answers, tmp_path: Path, full: bool
) -> None:
    with contextlib.ExitStack() as stack:
        front = Front()
        stack.enter_context(testing._running(front))
        if full:
            limits = ServerLimits(max_total_bytes=100)
            front.ports = [_port(stack.enter_context(_serving(LocalStorage(tmp_path / "full"), limits=limits)).url)]
        good = _port(stack.enter_context(_serving(LocalStorage(tmp_path / "archives"))).url)
        meet(talk, second)
        second.do("request_archive", front.url)
        sync_until(lambda: bool(front.passed), talk.first)
        tried = Passed("POST", front.ports[0] if full else None)
        front.ports = [good]
        sync_until(lambda: has_all(talk, second), talk.first, second)
        assert_all_is_there(talk, second)
        *before, upload, download = front.passed
        assert set(before) == {tried}
        assert (upload, download) == (Passed("POST", good), Passed("GET", good))
        refused = [Answer("POST", "upload", 507)] * len(before) if full else []
        answers.check(*refused, UPLOADED, DOWNLOADED)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
