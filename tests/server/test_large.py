"""Large files, by way of a server in a process of its own, whose memory does not grow with them."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import random
import re
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from support import command
from support.build import ALICE, KEY, T0, group_id, message_id, text_content
from support.history_server import files
from support.s3 import S3Server
from xmtp_history import Conversation, Counts, History, Message, verify_archive

MIB: Final = 1 << 20

#: What a server may have in memory at its peak, the interpreter and all modules included. What speaks to a bucket takes a
#: lot of it to begin with, and sends 8 MiB at a time.
MEMORY_BYTES: Final = 80 * MIB
MEMORY_BYTES_WITH_A_BUCKET: Final = 128 * MIB

#: As the real library sends.
CHUNK_BYTES: Final = 4_096

_BLOCK: Final = random.Random(1).randbytes(64 * 1024)
_TIMEOUT: Final = 60


def _blocks(start: int, end: int) -> Iterator[bytes]:
    """A part of a file that is nowhere the same and costs little: a block with its number in it, again and again."""
    for number in range(start // len(_BLOCK), -(-end // len(_BLOCK))):
        block = number.to_bytes(8) + _BLOCK[8:]
        at = number * len(_BLOCK)
        yield block[max(0, start - at) : end - at]


def _sha256(blocks: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def _chunked(blocks: Iterator[bytes]) -> Iterator[bytes]:
    for block in blocks:
        chunks = [block[start : start + CHUNK_BYTES] for start in range(0, len(block), CHUNK_BYTES)]
        yield b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    yield b"0\r\n\r\n"


@dataclass(frozen=True)
class Answer:
    """An answer of the server."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    pid: int
    url: str
    memory_bytes: int
    redirects: bool

    def ask(self, method: str, path: str, headers: dict[str, Any], body: Iterator[bytes] | None = None) -> Answer:
        """Sends a request, with a body that is framed already."""
        with contextlib.closing(
            http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=_TIMEOUT)
        ) as connection:
            connection.putrequest(method, path)
            for name, value in headers.items():
                connection.putheader(name, str(value))
            connection.endheaders()
            for piece in body or ():
                connection.send(piece)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def upload(self, size: int, *, chunked: bool = True) -> Answer:
        """Uploads as much."""
        framing = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": size}
        blocks = _blocks(0, size)
        answer = self.ask("POST", "/upload", framing, _chunked(blocks) if chunked else blocks)
        assert answer.status == 200, answer.body
        return answer

    def download(self, path: str) -> Iterator[bytes]:
        """Downloads a file, from wherever the server sends to."""
        with urllib.request.urlopen(self.url + path, timeout=_TIMEOUT) as response:  # noqa: S310 - a URL of ours
            while piece := response.read(len(_BLOCK)):
                yield piece

    def check_memory(self) -> None:
        """At its peak until now, the server had no more memory than it may have."""
        if sys.platform == "linux":
            found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
            assert found is not None
            assert int(found[1]) * 1024 <= self.memory_bytes


@contextlib.contextmanager
def _serving(*arguments: str, environment: dict[str, str] | None = None) -> Iterator[Server]:
    with command.serving("serve", "--port", "0", "--no-metrics", *arguments, environment=environment) as running:
        memory_bytes = MEMORY_BYTES_WITH_A_BUCKET if "--spool" in arguments else MEMORY_BYTES
        yield Server(running.process.pid, running.urls["history_sync_url"], memory_bytes, "--redirect" in arguments)
        assert running.stop()[0] == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archives"


@pytest.fixture
def local(folder: Path) -> Iterator[Server]:
    with _serving("--storage", str(folder)) as server:
        yield server


@pytest.fixture(params=["local", "proxied", "redirected"])
def server(request: pytest.FixtureRequest, folder: Path, shared_s3: S3Server, tmp_path: Path) -> Iterator[Server]:
    """With all kinds of storage."""
    arguments = ["--storage", str(folder)]
    if request.param != "local":
        arguments = ["--storage", f"s3://{shared_s3.folder.name}/{tmp_path.name}", "--spool", str(folder)]
    if request.param == "redirected":
        arguments.append("--redirect")
    with _serving(*arguments, environment=shared_s3.environment()) as running:
        yield running


def _check_and_remove(server: Server, path: str, size: int, capability: str) -> None:
    assert server.ask("GET", path, {"Range": "bytes=0-0"}).status == (302 if server.redirects else 206)
    expected = _sha256(_blocks(0, size))
    assert _sha256(server.download(path)) == expected
    about = server.ask("HEAD", path, {})
    assert (about.headers["Content-Length"], about.headers["ETag"]) == (str(size), f'"{expected}"')
    assert server.ask("DELETE", path, {"Delete-Capability": capability}).status == 204
    server.check_memory()


@pytest.mark.parametrize(
    ("size", "chunked"), [(1024 * MIB, True), (256 * MIB + 1, False)], ids=["in chunks", "with its length"]
)
def test_a_very_large_file(local: Server, folder: Path, size: int, chunked: bool) -> None:
    sent = local.upload(size, chunked=chunked)
    _check_and_remove(local, f"/files/{sent.body.decode()}", size, sent.headers["Delete-Capability"])
    assert files(folder) == []


def test_a_large_file_in_one_go(server: Server, folder: Path) -> None:
    size = 64 * MIB + 12_345
    sent = server.upload(size)
    _check_and_remove(server, f"/files/{sent.body.decode()}", size, sent.headers["Delete-Capability"])
    assert files(folder) == []


def test_a_large_file_in_parts(server: Server) -> None:
    """By tus, in parts of which one is broken off."""
    size, ends = 64 * MIB + 12_345, [MIB + 1, 20 * MIB, 50 * MIB, 64 * MIB + 12_345]
    tus = {"Tus-Resumable": "1.0.0"}
    upload = server.ask("POST", "/upload", {**tus, "Upload-Length": size, "Content-Length": 0}).headers["Location"]
    offset = 0
    for number, end in enumerate(ends):
        headers = {**tus, "Upload-Offset": offset, "Content-Type": "application/offset+octet-stream"}
        headers["Content-Length"] = end - offset
        if number == 2:
            # The connection is closed before there is an answer.
            with pytest.raises(http.client.HTTPException):
                server.ask("PATCH", upload, headers, _raising(_blocks(offset, end - MIB)))
            reached = int(server.ask("HEAD", upload, tus).headers["Upload-Offset"])
            assert offset < reached <= end - MIB
            headers |= {"Upload-Offset": reached, "Content-Length": end - reached}
            offset = reached
        answer = server.ask("PATCH", upload, headers, _blocks(offset, end))
        assert (answer.status, answer.headers["Upload-Offset"]) == (204, str(end)), answer.body
        offset = end
    about = server.ask("HEAD", upload, tus).headers
    _check_and_remove(server, about["Content-Location"], size, about["Delete-Capability"])


def _raising(blocks: Iterator[bytes]) -> Iterator[bytes]:
    yield from blocks
    raise http.client.HTTPException


def test_a_large_archive(local: Server, tmp_path: Path) -> None:
    """One that is an archive, and larger than the reference server takes."""
    archive, count = tmp_path / "archive", 100_000
    with History.open(tmp_path / "history.db3", KEY) as history:
        history.add_conversations([Conversation(id=group_id(1), name="large")])
        history.add_messages(map(_message, range(count)))
        history.create_archive(archive, KEY)
    size = archive.stat().st_size
    assert size > 15_000_000
    with archive.open("rb") as file:
        answer = local.ask(
            "POST", "/upload", {"Transfer-Encoding": "chunked"}, _chunked(iter(lambda: file.read(MIB), b""))
        )
    received = tmp_path / "received"
    with received.open("wb") as file:
        file.writelines(local.download(f"/files/{answer.body.decode()}"))
    assert received.stat().st_size == size
    report = verify_archive(received, KEY)
    assert report.counts == Counts(conversations=1, messages=count)
    assert report.invalid_records == ()
    local.check_memory()


def _message(number: int) -> Message:
    return Message(
        id=message_id(number),
        conversation_id=group_id(1),
        sent_at_ns=T0 + number,
        kind=1,
        sender_inbox_id=ALICE,
        sender_installation_id="17" * 32,
        delivery_status=2,
        content_type="text",
        content=text_content(random.Random(number).randbytes(150).hex()),
    )
