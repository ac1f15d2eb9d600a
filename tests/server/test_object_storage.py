"""What is special about keeping files in a bucket: a real S3 server, and a way to it on which everything may go wrong."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import random
import secrets
import socket
import sys
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession

from support import child
from support.faulty_http import Fault, FaultyProxy, faulty_proxy
from support.s3 import S3Server, free_port, s3_server
from xmtp_history.server.storage import _object_bucket
from xmtp_history.server.storage._base import NewFile, ResumableInfo, StoredFile, UploadBusy
from xmtp_history.server.storage._object import ObjectStorage

if TYPE_CHECKING:
    from collections.abc import Iterator

PART = 8 * 1024 * 1024

#: More than two parts, and no multiple of anything.
LARGE = 2 * PART + 1_234_567


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    with s3_server(tmp_path) as server:
        yield server


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage that gives up soon."""
    monkeypatch.setattr(_object_bucket, "_RETRY_SECONDS", 0.3)
    monkeypatch.setattr(_object_bucket, "_CLEAN_UP_SECONDS", 0.3)


@asynccontextmanager
async def _prepared(s3: S3Server, *, port: int | None = None, **options: Any) -> AsyncIterator[ObjectStorage]:
    storage = ObjectStorage(s3.url, options=s3.options(port=port), **options)
    await storage.prepare()
    try:
        yield storage
    finally:
        await storage.aclose()


@asynccontextmanager
async def _by_way_of(
    s3: S3Server, *faults: Fault, patience: float = 5
) -> AsyncIterator[tuple[ObjectStorage, FaultyProxy]]:
    async with faulty_proxy(s3.port) as proxy, _prepared(s3, port=proxy.port, timeout=patience) as storage:
        proxy.faults += faults
        yield storage, proxy


def _bytes(count: int) -> bytes:
    return random.Random(count).randbytes(count)


async def _store(storage: ObjectStorage, data: bytes) -> NewFile:
    upload, new = storage.create(), NewFile.random()
    for start in range(0, len(data), 100_000):
        await upload.write(data[start : start + 100_000])
    try:
        assert await upload.commit(new) == hashlib.sha256(data).digest()
    except BaseException:
        await upload.abort()
        raise
    return new


async def _read(file: StoredFile, start: int = 0, end: int | None = None) -> bytes:
    pieces = [piece async for piece in file.read(start, file.info.size if end is None else end)]
    assert all(0 < len(piece) <= 256 * 1024 for piece in pieces)
    return b"".join(pieces)


async def _content(storage: ObjectStorage, new: NewFile) -> bytes:
    file = await storage.open(new.file_id)
    assert file is not None
    content = await _read(file)
    assert file.info.size == len(content)
    assert file.info.sha256 == hashlib.sha256(content).digest()
    assert file.info.may_delete(new.capability)
    await file.aclose()
    return content


def _info() -> ResumableInfo:
    return ResumableInfo(NewFile.random(), None, "", 1.0)


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, PART, PART + 1, LARGE])
def test_sizes(s3: S3Server, tmp_path: Path, size: int) -> None:
    async def main() -> None:
        spool = tmp_path / "spool" / "here"
        async with _prepared(s3, spool=spool) as storage:
            data = _bytes(size)
            upload, new = storage.create(), NewFile.random()
            await upload.write(data[: size // 2])
            await upload.write(data[size // 2 :])
            assert list(spool.iterdir()) == []
            assert s3.keys() == []
            await upload.commit(new)
            assert s3.keys() == [f"files/{new.file_id}"]
            assert s3.unfinished() == []
            assert await _content(storage, new) == data
            file = await storage.open(new.file_id)
            known = await storage.open(new.file_id, content=False)
            assert file is not None
            assert known is not None
            assert file.info == known.info
            assert abs(file.info.committed - time.time()) < 60
            assert await _read(file, size // 3, size // 2) == data[size // 3 : size // 2]
            assert await _read(file) == data
            assert await _read(file) == data
            assert [[(entry.file_id, entry.size) for entry in batch] async for batch in storage.files()] == [
                [(new.file_id, size)]
            ]
            assert await storage.delete(new.file_id)
            assert s3.keys() == []
            assert not await storage.delete(new.file_id)

    asyncio.run(main())


def test_an_open_file_outlives_its_deletion(s3: S3Server) -> None:
    async def main() -> None:
        async with _prepared(s3) as storage:
            data = _bytes(LARGE)
            new = await _store(storage, data)
            whole, part = await storage.open(new.file_id), await storage.open(new.file_id)
            await storage.delete(new.file_id)
            assert whole is not None
            assert part is not None
            assert await _read(whole) == data
            assert await _read(part, PART - 5, PART + 300_000) == data[PART - 5 : PART + 300_000]
            with pytest.raises(FileNotFoundError):
                await _read(whole)

    asyncio.run(main())


def test_objects_of_others_are_no_files(s3: S3Server) -> None:
    async def main() -> None:
        async with _prepared(s3) as storage:
            new = NewFile.random()
            bucket = storage._ready.bucket
            for name in [str(new.file_id), new.file_id.hex, "readme", "deep/er"]:
                await bucket.put(f"files/{name}", b"x", {})
            await bucket.put("resumable/readme", b"x", {})
            assert await storage.open(new.file_id) is None
            assert not await storage.delete(new.file_id)
            assert [entry.file_id async for batch in storage.files() for entry in batch] == [new.file_id]
            assert [batch async for batch in storage.resumables()] == []
            assert len(s3.keys()) == 5

    asyncio.run(main())


def test_memory_is_bounded(s3: S3Server) -> None:
    script = """
import asyncio, json, sys
from xmtp_history.server.storage._base import NewFile
from xmtp_history.server.storage._object import ObjectStorage

def memory(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name)) * 1024

async def main():
    storage = ObjectStorage(sys.argv[1], options=json.loads(sys.argv[2]))
    await storage.prepare()
    await storage.probe()
    uploads = [storage.create() for _ in range(10)]
    piece = bytes(256 * 1024)
    before = memory("VmRSS")
    for upload in uploads:
        for _ in range(128):
            await upload.write(piece)
    new = [NewFile.random() for _ in uploads]
    await asyncio.gather(*(upload.commit(one) for upload, one in zip(uploads, new)))

    async def read(one):
        file = await storage.open(one.file_id)
        assert sum([len(piece) async for piece in file.read(0, file.info.size)]) == file.info.size == 32 * 1024 * 1024

    await asyncio.gather(*map(read, new))
    print(memory("VmHWM") - before)
    await storage.aclose()

asyncio.run(main())
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux tells how much memory a process had at most")
    used = int(child.run(script, s3.url, json.dumps(s3.options())))
    assert used < 64 * 1024 * 1024, used


@pytest.mark.parametrize(
    "fault",
    [
        Fault(r"PUT .*/files/", status=503, times=2),
        Fault(r"PUT .*/files/", status=500, skip=1, times=1),
        Fault(r"POST .*\?uploads", status=503, times=1),
        Fault(r"PUT .*partNumber=3", status=503, times=2),
        Fault(r"PUT .*/files/", delay=0.2),
        Fault(r"PUT .*partNumber=2", hang=True, times=1),
        Fault(r"PUT .*partNumber=2", lose_answer=True, times=1),
        Fault(r"PUT .*/files/", lose_answer=True, times=1),
        Fault(r"POST .*uploadId", lose_answer=True, times=1),
        Fault(r"POST .*uploadId", status=500, times=1),
    ],
    ids=lambda fault: f"{fault.request} {fault}"[:60],
)
@pytest.mark.parametrize("size", [1000, LARGE])
def test_faults_that_pass(s3: S3Server, fault: Fault, size: int) -> None:
    async def main() -> None:
        copy = Fault(**{name: getattr(fault, name) for name in Fault.__slots__})
        async with _by_way_of(s3, copy, patience=2) as (storage, _):
            new = await _store(storage, _bytes(size))
            assert await _content(storage, new) == _bytes(size)
            assert s3.keys() == [f"files/{new.file_id}"]
            assert s3.unfinished() == []

    asyncio.run(main())


def test_a_commit_whose_last_answers_are_all_lost_is_done(s3: S3Server, hasty: None) -> None:
    async def main() -> None:
        async with _by_way_of(s3, Fault(r"POST .*uploadId", lose_answer=True)) as (storage, _):
            new = await _store(storage, _bytes(LARGE))
            assert await _content(storage, new) == _bytes(LARGE)
            assert s3.keys() == [f"files/{new.file_id}"]

    asyncio.run(main())


@pytest.mark.parametrize("size", [1000, LARGE])
@pytest.mark.parametrize(
    "fault",
    [
        Fault(r"(PUT|POST) .*/files/", status=503),
        Fault(r"(PUT|POST) .*/files/", status=403),
        Fault(r"(PUT|POST) .*/files/", hang=True),
        Fault(r"PUT .*(partNumber=3|/files/[-0-9a-f]*$)", status=500),
        Fault(r"PUT .*(partNumber=2|/files/[-0-9a-f]*$)", hang=True),
        Fault(r"(POST .*uploadId|PUT .*/files/[-0-9a-f]*$)", status=500),
    ],
    ids=lambda fault: f"{fault.request} {fault}"[:60],
)
def test_faults_that_stay(s3: S3Server, hasty: None, fault: Fault, size: int) -> None:
    async def main() -> None:
        async with _by_way_of(s3, fault, patience=1) as (storage, proxy):
            upload, new = storage.create(), NewFile.random()
            await upload.write(_bytes(size))
            started = time.monotonic()
            with pytest.raises(OSError, match=r"the bucket (answers \d|does not answer)") as failed:
                await upload.commit(new)
            await upload.abort()
            assert time.monotonic() - started < 10
            assert failed.value.errno == (errno.ETIMEDOUT if fault.hang else errno.EIO)
            assert s3.keys() == []
            assert s3.unfinished() == []
            _assert_silent(failed.value, s3, str(new.file_id), f":{proxy.port}")
            proxy.faults.clear()
            assert await storage.open(new.file_id) is None
            assert await _content(storage, await _store(storage, _bytes(size))) == _bytes(size)

    asyncio.run(main())


def _assert_silent(error: BaseException, s3: S3Server, *others: str) -> None:
    told = "".join(traceback.format_exception(error))
    # The lines of this file may name them.
    told += f"{error} {error!r} {getattr(error, 'strerror', '')} {getattr(error, 'filename', '')}"
    for secret in [s3.access_key, s3.secret_key, "some/prefix", "X-Amz", "secret of the server", *others]:
        assert secret not in told


def test_after_a_lost_answer_to_a_failed_commit_nothing_stays(s3: S3Server, hasty: None) -> None:
    async def main() -> None:
        # It is done, but nobody can find that out.
        faults = [Fault(r"PUT .*/files/", lose_answer=True), Fault(r"HEAD", status=500)]
        async with _by_way_of(s3, *faults) as (storage, _):
            upload = storage.create()
            with pytest.raises(OSError, match="connection"):
                await upload.commit(NewFile.random(), b"data")
            assert s3.keys() == []
            await upload.abort()

    asyncio.run(main())


def test_an_abort_tells_what_it_cannot_remove(s3: S3Server, hasty: None) -> None:
    async def main() -> None:
        faults = [Fault(r"PUT .*/files/", lose_answer=True), Fault(r"(HEAD|DELETE|POST)", status=500)]
        async with _by_way_of(s3, *faults) as (storage, proxy):
            upload = storage.create()
            with pytest.raises(OSError, match="connection"):
                await upload.commit(NewFile.random(), b"data")
            assert len(s3.keys()) == 1
            with pytest.raises(OSError, match="may still have"):
                await upload.abort()
            proxy.faults.clear()
            await upload.abort()
            assert s3.keys() == []

    asyncio.run(main())


@pytest.mark.parametrize("size", [1000, LARGE])
def test_a_cancelled_commit_leaves_nothing(s3: S3Server, size: int) -> None:
    async def main() -> None:
        async with _by_way_of(s3, Fault(r"PUT .*/files/", delay=0.3)) as (storage, proxy):
            upload = storage.create()
            await upload.write(_bytes(size))
            commit = asyncio.ensure_future(upload.commit(NewFile.random()))
            await proxy.seen(r"PUT .*/files/")
            commit.cancel()
            with pytest.raises(asyncio.CancelledError):
                await commit
            await upload.abort()
            # A part on its way may still come in after the others were removed; only the bucket can remove that, later.
            assert s3.keys() == []
            with pytest.raises(RuntimeError):
                await upload.write(b"more")

    asyncio.run(main())


@pytest.mark.parametrize("retries", [1.0, 0.0], ids=["obstore asks for the rest", "the storage asks for the rest"])
@pytest.mark.parametrize(("size", "cut"), [(1000, 1), (LARGE, 0), (LARGE, 5_000_000)])
def test_an_answer_that_breaks_off_goes_on(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, retries: float, size: int, cut: int
) -> None:
    async def main() -> None:
        monkeypatch.setattr(_object_bucket, "_RETRY_SECONDS", retries)
        async with _by_way_of(s3, Fault(r"GET .*/files/", cut=cut, times=2)) as (storage, proxy):
            new = await _store(storage, _bytes(size))
            assert await _content(storage, new) == _bytes(size)
            assert proxy.count("GET .*/files/") == 3

    asyncio.run(main())


def test_the_rest_of_another_object_is_not_taken(s3: S3Server, hasty: None) -> None:
    async def main() -> None:
        async with _by_way_of(s3) as (storage, proxy):
            new = await _store(storage, _bytes(LARGE))
            proxy.faults.append(Fault(r"GET .*/files/", cut=5_000_000, times=1))
            file = await storage.open(new.file_id)
            assert file is not None
            await storage._ready.bucket.put(f"files/{new.file_id}", bytes(LARGE), {})
            with pytest.raises(OSError, match="bucket"):
                await _read(file)

    asyncio.run(main())


def test_reading_gives_up(s3: S3Server, hasty: None) -> None:
    async def main() -> None:
        async with _by_way_of(s3, patience=0.5) as (storage, proxy):
            new = await _store(storage, _bytes(LARGE))
            file = await storage.open(new.file_id)
            assert file is not None
            for fault in [Fault("GET", cut=0), Fault("GET", status=503), Fault("GET", hang=True)]:
                proxy.faults[:] = [fault]
                started = time.monotonic()
                with pytest.raises(OSError, match="bucket") as failed:
                    await _read(file, 1, LARGE)
                _assert_silent(failed.value, s3, str(new.file_id))
                assert time.monotonic() - started < 15
            with pytest.raises(TimeoutError):
                await storage.open(new.file_id)

    asyncio.run(main())


def test_a_slow_reader_is_no_failure(s3: S3Server, hasty: None) -> None:
    async def main() -> None:
        async with _by_way_of(s3, patience=0.3) as (storage, proxy):
            new = await _store(storage, _bytes(LARGE))
            file = await storage.open(new.file_id)
            assert file is not None
            content = bytearray()
            async for piece in file.read(0, LARGE):
                if len(content) < 1_000_000:
                    await asyncio.sleep(0.4)
                content += piece
            assert content == _bytes(LARGE)
            assert proxy.count("GET .*/files/") == 1

    asyncio.run(main())


@pytest.mark.parametrize("silent", [False, True], ids=["nobody listens", "nobody answers"])
def test_no_bucket(s3: S3Server, hasty: None, silent: bool) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1] if silent else free_port()
            storage = ObjectStorage(s3.url, options=s3.options(port=port), timeout=1)
            started = time.monotonic()
            with pytest.raises(OSError, match="the bucket") as failed:
                await storage.prepare()
            assert time.monotonic() - started < 10
            assert isinstance(failed.value, TimeoutError) == silent
            _assert_silent(failed.value, s3, str(port))
            await storage.aclose()

    asyncio.run(main())


def test_refused(s3: S3Server) -> None:
    async def main() -> None:
        for change in [{"secret_access_key": "wrong-secret"}, {"access_key_id": "nobody"}, {"bucket": "no-bucket"}]:
            storage = ObjectStorage(s3.url, options=s3.options() | change)
            with pytest.raises(OSError, match=r"^\[Errno 5\] the bucket answers 40\d \w+$") as failed:
                await storage.prepare()
            _assert_silent(failed.value, s3, *change.values())
            await storage.aclose()

    asyncio.run(main())


def test_the_environment_is_enough(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)

    async def main() -> None:
        storage = ObjectStorage(s3.url)
        await storage.prepare()
        await storage.probe()
        await storage.aclose()
        assert s3.keys() == []

    asyncio.run(main())


def test_probe(s3: S3Server, hasty: None) -> None:
    async def main() -> None:
        async with _by_way_of(s3) as (storage, proxy):
            await storage.probe()
            assert s3.keys() == []
            for fault in [Fault("PUT", status=507), Fault("GET", status=500), Fault("PUT", lose_answer=True)]:
                proxy.faults[:] = [fault]
                with pytest.raises(OSError, match="bucket"):
                    await storage.probe()
                assert s3.keys() == []

    asyncio.run(main())


def test_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ["", "bucket", "http://host/bucket", "file:///folder", "s3://"]:
        with pytest.raises(ValueError, match="s3://"):
            ObjectStorage(url)
    with pytest.raises(ValueError, match="sign"):
        ObjectStorage("memory:///", redirect=True)
    with pytest.raises(ValueError, match="redirect_seconds"):
        ObjectStorage("s3://bucket", redirect_seconds=0)
    with pytest.raises(ValueError, match="timeout"):
        ObjectStorage("s3://bucket", timeout=0)

    async def main() -> None:
        value = secrets.token_hex(16)
        for name in ["nonsense", "allow_http"]:
            with pytest.raises(ValueError, match="option") as failed:
                await ObjectStorage("s3://bucket", options={name: value}).prepare()
            assert value not in "".join(traceback.format_exception(failed.value))
        with pytest.raises(RuntimeError):
            ObjectStorage("memory:///").create()

    asyncio.run(main())
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ImportError, match=r"pip install 'xmtp-history\[s3\]'"):
        ObjectStorage("s3://bucket")


def test_redirect(s3: S3Server) -> None:
    async def main() -> None:
        async with _prepared(s3, redirect=True) as storage, ClientSession() as client:
            new = await _store(storage, b"content")
            url = await storage.location(new.file_id)
            assert url is not None
            assert "X-Amz-Expires=300" in url
            async with client.get(url) as answer:
                assert await answer.read() == b"content"
                assert answer.headers["Content-Type"] == "application/octet-stream"
                assert answer.headers["Content-Disposition"] == "attachment"
            async with client.get(url.partition("?")[0]) as answer:
                assert answer.status == 403
        async with _prepared(s3) as storage:
            assert await storage.location(new.file_id) is None

    asyncio.run(main())


def test_a_full_spool() -> None:
    script = """
import asyncio, errno, resource
from xmtp_history.server.storage._base import NewFile, ResumableInfo
from xmtp_history.server.storage._object import ObjectStorage

async def main():
    storage = ObjectStorage("memory:///")
    await storage.prepare()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    upload, _ = storage.create(), NewFile.random()
    _, resumable = await storage.create_resumable(ResumableInfo(NewFile.random(), None, "", 1.0))
    for target, fits in (upload, 900_000), (resumable, 500_000):
        await target.write(bytes(fits))
        try:
            await target.write(bytes(900_000))
        except OSError as error:
            assert error.errno == errno.EFBIG, error
        else:
            raise AssertionError
    await upload.abort()
    assert resumable.offset == 500_000
    await resumable.write(b"more")
    await resumable.flush()
    await resumable.commit()
    file = await storage.open(resumable.info.new.file_id)
    assert b"".join([piece async for piece in file.read(0, 500_004)]) == bytes(500_000) + b"more"
    await resumable.release()
    await storage.aclose()

asyncio.run(main())
"""
    child.run(script)


def test_killed_while_committing(s3: S3Server) -> None:
    script = """
import asyncio, json, sys
from xmtp_history.server.storage._base import NewFile
from xmtp_history.server.storage._object import ObjectStorage

async def main():
    storage = ObjectStorage(sys.argv[1], options=json.loads(sys.argv[2]))
    await storage.prepare()
    upload = storage.create()
    await upload.write(bytes(20_000_000))
    await upload.commit(NewFile.random())

asyncio.run(main())
"""

    async def main() -> None:
        for last in [r"PUT .*partNumber=1", r"PUT .*partNumber=3", r"POST .*uploadId"]:
            async with faulty_proxy(s3.port, Fault(last, hang=True)) as proxy:
                with child.start(script, s3.url, json.dumps(s3.options(port=proxy.port))) as process:
                    await asyncio.wait_for(proxy.seen(last), child.DEADLINE_SECONDS)
                    process.kill()
            assert s3.keys() == []
        async with _prepared(s3) as storage:
            assert [batch async for batch in storage.files() if batch] == []
            assert await _content(storage, await _store(storage, _bytes(LARGE))) == _bytes(LARGE)

    asyncio.run(main())


def test_resumable_segments(s3: S3Server) -> None:
    async def main() -> None:
        async with _prepared(s3) as storage:
            data, info = _bytes(LARGE), _info()
            upload_id, upload = await storage.create_resumable(info)
            await upload.write(data[: PART + 1000])
            assert upload.offset == PART + 1000
            await upload.release()
            # What was not flushed is gone.
            upload = await _resumed(storage, upload_id)
            assert upload.offset == PART
            await upload.write(data[PART : PART + 1000])
            await upload.flush()
            await upload.write(b"wrong" * 2_000_000)
            await upload.truncate(PART + 1000)
            assert upload.offset == PART + 1000
            await upload.truncate(PART + 1000)
            await upload.release()
            assert s3.keys() == [f"resumable/{upload_id}/{name}" for name in (f"{0:016}", f"{PART:016}", "info")]
            upload = await _resumed(storage, upload_id)
            await upload.write(data[PART + 1000 :])
            await upload.set_length(LARGE)
            entries = [entry async for batch in storage.resumables() for entry in batch]
            assert [entry.upload_id for entry in entries] == [upload_id]
            assert entries[0].size > PART + 1000
            assert abs(entries[0].touched - time.time()) < 60
            await upload.commit()
            await upload.commit()
            await upload.release()
            assert s3.keys() == [f"files/{info.new.file_id}", f"resumable/{upload_id}/info"]
            assert await _content(storage, info.new) == data
            upload = await _resumed(storage, upload_id)
            assert upload.committed
            assert upload.offset == LARGE
            assert upload.info.length == LARGE
            await upload.release()
            assert await storage.discard(upload_id)
            assert not await storage.discard(upload_id)
            assert s3.keys() == [f"files/{info.new.file_id}"]

    asyncio.run(main())


async def _resumed(storage: ObjectStorage, upload_id: str) -> Any:
    upload = await storage.resume(upload_id)
    assert upload is not None
    return upload


def test_of_two_servers_one_has_a_resumable_upload(s3: S3Server) -> None:
    async def main() -> None:
        async with _prepared(s3) as one, _prepared(s3) as two:
            upload_id, first = await one.create_resumable(_info())
            with pytest.raises(UploadBusy):
                await one.resume(upload_id)
            assert not await one.discard(upload_id)
            second = await _resumed(two, upload_id)
            await first.write(b"first")
            await first.flush()
            await second.write(b"second, and later")
            for _ in range(2):
                with pytest.raises(UploadBusy):
                    await second.flush()
            for step in [second.truncate(0), second.set_length(1), second.commit()]:
                with pytest.raises(UploadBusy):
                    await step
            await second.release()
            second = await _resumed(two, upload_id)
            assert second.offset == 5
            await second.write(b", then second")
            await second.commit()
            await second.release()
            await first.release()
            assert await _content(one, second.info.new) == b"first, then second"
            # The file does not go with the upload.
            assert await one.discard(upload_id)
            assert await two.resume(upload_id) is None
            assert await _content(two, second.info.new) == b"first, then second"

    asyncio.run(main())


def test_a_file_is_seen_by_all_servers_at_once(s3: S3Server) -> None:
    async def main() -> None:
        async with _prepared(s3) as one, _prepared(s3) as two:
            upload, new = one.create(), NewFile.random()
            await upload.write(_bytes(LARGE))
            assert await two.open(new.file_id) is None
            await upload.commit(new)
            assert await _content(two, new) == _bytes(LARGE)
            assert await two.delete(new.file_id)
            assert await one.open(new.file_id) is None

    asyncio.run(main())


def test_segments_after_a_gap_are_removed(s3: S3Server) -> None:
    async def main() -> None:
        async with _prepared(s3) as storage:
            upload_id, upload = await storage.create_resumable(_info())
            await upload.write(b"12345")
            await upload.flush()
            await upload.release()
            for begin in [3, 7, 12]:
                await storage._ready.bucket.put(f"resumable/{upload_id}/{begin:016}", b"12345", {})
            upload = await _resumed(storage, upload_id)
            assert upload.offset == 5
            assert len(s3.keys()) == 2
            await upload.write(b"67")
            await upload.flush()
            await upload.release()
            upload = await _resumed(storage, upload_id)
            assert upload.offset == 7
            await upload.discard()
            await upload.release()
            assert s3.keys() == []

    asyncio.run(main())


@pytest.mark.parametrize(
    "fault",
    [
        Fault(r"PUT .*/resumable/.*/0", lose_answer=True, times=1),
        Fault(r"PUT .*/resumable/.*/0", status=503, times=1),
        Fault(r"PUT .*/resumable/.*/0", hang=True, times=1),
    ],
    ids=["lost", "refused", "hangs"],
)
def test_a_segment_can_be_tried_again(s3: S3Server, hasty: None, fault: Fault) -> None:
    async def main() -> None:
        async with _by_way_of(s3, fault, patience=0.5) as (storage, _):
            upload_id, upload = await storage.create_resumable(_info())
            await upload.write(b"1234")
            try:
                await upload.flush()
            except OSError:
                assert fault.hang
                assert upload.offset == 4
                await upload.write(b"5678")
            else:
                await upload.write(b"5678")
            await upload.flush()
            await upload.release()
            upload = await _resumed(storage, upload_id)
            assert upload.offset == 8
            await upload.commit()
            await upload.release()
            assert await _content(storage, upload.info.new) == b"12345678"

    asyncio.run(main())


def test_what_may_have_been_stored_is_taken_back(s3: S3Server, hasty: None) -> None:
    async def main() -> None:
        lost, blind = Fault(r"PUT .*/resumable/.*/0", lose_answer=True), Fault("HEAD", status=500)
        async with _by_way_of(s3, lost, blind, patience=0.5) as (storage, proxy):
            upload_id, upload = await storage.create_resumable(_info())
            await upload.write(b"wrong")
            with pytest.raises(OSError, match="bucket"):
                await upload.flush()
            assert len(s3.keys()) == 2
            proxy.faults.clear()
            await upload.truncate(0)
            assert len(s3.keys()) == 1
            await upload.write(b"right")
            await upload.flush()
            await upload.release()
            upload = await _resumed(storage, upload_id)
            await upload.commit()
            await upload.release()
            assert await _content(storage, upload.info.new) == b"right"

    asyncio.run(main())


@pytest.mark.parametrize(
    "fault",
    [
        Fault(r"GET .*/resumable/.*/0", status=500),
        Fault(r"(PUT|POST) .*/files/", status=500),
        Fault(r"(PUT|POST .*uploadId).*/files/", lose_answer=True),
        Fault(r"PUT .*/info", status=500),
        Fault(r"PUT .*/info", lose_answer=True),
    ],
    ids=lambda fault: f"{fault.request} {fault}"[:60],
)
@pytest.mark.parametrize("size", [1000, LARGE])
def test_a_resumable_commit_can_be_tried_again(s3: S3Server, hasty: None, fault: Fault, size: int) -> None:
    async def main() -> None:
        async with _by_way_of(s3) as (storage, proxy):
            upload_id, upload = await storage.create_resumable(_info())
            await upload.write(_bytes(size))
            await upload.flush()
            proxy.faults += [fault, Fault("HEAD", status=500)]
            with pytest.raises(OSError, match="bucket"):
                await upload.commit()
            assert not upload.committed
            await upload.release()
            proxy.faults.clear()
            upload = await _resumed(storage, upload_id)
            assert upload.offset == size
            await upload.commit()
            await upload.release()
            assert await _content(storage, upload.info.new) == _bytes(size)
            assert s3.keys() == [f"files/{upload.info.new.file_id}", f"resumable/{upload_id}/info"]

    asyncio.run(main())


def test_a_cancelled_resumable_commit_goes_on(s3: S3Server) -> None:
    async def main() -> None:
        async with _by_way_of(s3, Fault(r"PUT .*/files/", delay=0.3)) as (storage, _):
            upload_id, upload = await storage.create_resumable(_info())
            await upload.write(_bytes(1000))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(upload.commit(), 0.1)
            await upload.release()
            assert upload.committed
            upload = await _resumed(storage, upload_id)
            assert upload.committed
            await upload.release()

    asyncio.run(main())


def test_closing_waits(s3: S3Server) -> None:
    async def main() -> None:
        async with _by_way_of(s3, Fault(r"PUT .*/(files/|0)", delay=0.3)) as (storage, _):
            upload_id, resumable = await storage.create_resumable(_info())
            await resumable.write(b"data")
            for step in [storage.create().commit(NewFile.random(), b"data"), resumable.flush()]:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(step, 0.1)
            await storage.aclose()
            await storage.aclose()
            # The one is not wanted any more, the other is.
            assert s3.keys() == [f"resumable/{upload_id}/{name}" for name in (f"{0:016}", "info")]
            await storage.prepare()
            await storage.probe()

    asyncio.run(main())


def test_old_probes_are_removed(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with _prepared(s3) as storage:
            await storage._ready.bucket.put("probe/left", b"x", {})
        async with _prepared(s3):
            assert s3.keys() == ["probe/left"]
        later = time.time() + 7200
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: later)
            storage = ObjectStorage("memory:///")
            await storage.prepare()
            await storage._ready.bucket.put("probe/left", b"x", {})
            await storage.prepare()
            listed = [one["path"] async for batch in storage._ready.bucket.objects("probe/") for one in batch]
            assert listed == []
            await storage.aclose()

    asyncio.run(main())
