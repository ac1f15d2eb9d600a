"""What every storage promises the server: a directory, a bucket in memory, and a bucket of a real S3 server."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from contextlib import AsyncExitStack, suppress

import pytest

from support.storages import (
    MOMENTS,
    Place,
    cancelled,
    check,
    content,
    exists,
    listed,
    new_info,
    prepared,
    read,
    resumed,
    store,
)
from xmtp_history.server.storage import NewFile

SMALL = 64 * 1024
SIZES = [0, 1, SMALL - 1, SMALL, SMALL + 1, 9 << 20, 20 << 20]


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_a_file_comes_back(place: Place, size: int) -> None:
    data = content(size)

    async def main() -> None:
        async with prepared(place) as storage:
            upload, new = storage.create(), NewFile.random()
            for start in range(0, size, 300_000):
                await upload.write(data[start : start + 300_000])
                assert not await exists(storage, new)
            assert await listed(storage) == ([], [])
            assert await upload.commit(new) == hashlib.sha256(data).digest()
            await check(storage, new, data)
            assert len(await place.traces()) == 1
            async with prepared(place) as other:
                await check(other, new, data)
                (batch,) = [batch async for batch in other.files() if batch]
                (entry,) = batch
                assert (entry.file_id, entry.size) == (new.file_id, size)
                assert abs(entry.committed - time.time()) < 60
                file = await other.open(new.file_id, content=False)
                assert file is not None
                assert file.info.size == size
                assert abs(file.info.committed - entry.committed) < 2
                await file.aclose()
                await file.aclose()

    asyncio.run(main())


def test_how_data_are_cut_does_not_matter(place: Place) -> None:
    async def main() -> None:
        async with prepared(place) as storage:
            for pieces in (
                [b"a" * 10, b"", b"b" * SMALL, b"c"],
                [bytearray(b"a" * 10), b"b", b"b" * (SMALL - 1), bytearray(b"c")],
                [b"", b"", b"a" * 10 + b"b" * SMALL + b"c"],
                [b"a" * 10 + b"b" * SMALL, b"c"],
            ):
                *first, last = pieces
                upload, new = storage.create(), NewFile.random()
                for piece in first:
                    await upload.write(piece)
                await upload.commit(new, last)
                await check(storage, new, b"a" * 10 + b"b" * SMALL + b"c")

    asyncio.run(main())


@pytest.mark.parametrize("size", [10, SMALL + 10, (9 << 20) + 10])
def test_ranges(place: Place, size: int) -> None:
    data = content(size)

    async def main() -> None:
        async with prepared(place) as storage:
            new = await store(storage, data)
            file = await storage.open(new.file_id, content=False)
            assert file is not None
            spans = [
                (0, 0),
                (0, 1),
                (3, 7),
                (size - 1, size),
                (size, size),
                (size // 2, size),
                (0, size),
                (1, size - 1),
            ]
            for start, end in spans:
                assert await read(file, start, end) == data[start:end], (start, end)
            # Several readers at once.
            parts = await asyncio.gather(*(read(file, start, end) for start, end in spans))
            assert parts == [data[start:end] for start, end in spans]
            await file.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("size", [10, SMALL + 10, (9 << 20) + 10])
def test_an_open_file_can_be_read_after_its_deletion(place: Place, size: int) -> None:
    async def main() -> None:
        async with prepared(place) as storage:
            new = await store(storage, content(size))
            file = await storage.open(new.file_id)
            assert file is not None
            assert await storage.delete(new.file_id)
            assert await place.traces() == []
            assert not await exists(storage, new)
            assert await read(file) == content(size)
            await file.aclose()

    asyncio.run(main())


def test_deleting(place: Place) -> None:
    async def main() -> None:
        async with prepared(place) as storage, prepared(place) as other:
            new, stays = await store(storage, b"one"), await store(other, b"two")
            both = (storage.delete(new.file_id), other.delete(new.file_id))
            # This S3 server now and then fails for one of the two.
            assert True in await asyncio.gather(*both, return_exceptions=True)
            assert not await storage.delete(new.file_id)
            assert not await storage.delete(uuid.uuid4())
            assert not await exists(storage, new)
            await check(storage, stays, b"two")

    asyncio.run(main())


def test_many_at_once(place: Place) -> None:
    async def main() -> None:
        async with prepared(place) as storage:
            sizes = [number * 3000 for number in range(40)]
            all_new = await asyncio.gather(*(store(storage, content(size), 7000) for size in sizes))
            await asyncio.gather(
                *(check(storage, new, content(size)) for new, size in zip(all_new, sizes, strict=True))
            )
            assert await listed(storage) == (sorted(str(new.file_id) for new in all_new), [])
            await asyncio.gather(*(storage.delete(new.file_id) for new in all_new))
            assert await listed(storage) == ([], [])
            assert await place.traces() == []

    asyncio.run(main())


# --- what is given up ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 10, SMALL + 10, 9 << 20])
def test_an_abort_leaves_nothing(place: Place, size: int) -> None:
    async def main() -> None:
        async with prepared(place) as storage:
            upload = storage.create()
            assert await place.traces() == []
            if size:
                await upload.write(content(size))
            await upload.abort()
            assert await place.traces() == []

    asyncio.run(main())


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("size", [10, 9 << 20])
def test_a_commit_that_fails_in_any_step(
    place: Place, size: int, killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = content(size)
    fuse = place.fuse(monkeypatch)

    async def main() -> None:
        for count in range(100):
            async with prepared(place) as storage:
                upload, new = storage.create(), NewFile.random()
                failed = False
                with fuse.after(count, stays=killed):
                    try:
                        await upload.write(data)
                        await upload.commit(new)
                    except OSError:
                        failed = True
                        with suppress(OSError):
                            await upload.abort()
            async with prepared(place) as storage:
                if not failed:
                    await check(storage, new, data)
                    assert count > 0
                    return
                if killed and await exists(storage, new):
                    # Killed after the last step but one: nobody was told, but it is whole.
                    await check(storage, new, data)
                    await storage.delete(new.file_id)
                assert await listed(storage) == ([], [])
                assert await place.traces() == []
        pytest.fail("there are not so many steps")

    asyncio.run(main())


@pytest.mark.parametrize("size", [10, SMALL + 10, 9 << 20])
@pytest.mark.parametrize("moment", MOMENTS)
def test_an_upload_that_iscancelled(place: Place, size: int, moment: float) -> None:
    data = content(size)

    async def main() -> None:
        async with prepared(place) as storage:
            upload, new = storage.create(), NewFile.random()

            async def whole() -> None:
                for start in range(0, size, 2 << 20):
                    await upload.write(data[start : start + (2 << 20)])
                await upload.commit(new)

            if await cancelled(whole(), moment):
                await upload.abort()
                assert not await exists(storage, new)
                assert await place.traces() == []
            else:
                await check(storage, new, data)

    asyncio.run(main())


@pytest.mark.parametrize("moment", MOMENTS)
def test_looking_that_iscancelled(place: Place, moment: float) -> None:
    """Nothing stays open or locked."""
    data = content(SMALL + 10)

    async def main() -> None:
        async with prepared(place) as storage:
            new = await store(storage, data)
            upload_id, upload = await storage.create_resumable(new_info())
            await upload.release()

            async def opening() -> None:
                file = await storage.open(new.file_id)
                assert file is not None
                try:
                    assert await read(file) == data
                finally:
                    await file.aclose()

            async def resuming() -> None:
                upload = await resumed(storage, upload_id)
                await asyncio.shield(upload.release())

            await cancelled(opening(), moment)
            await cancelled(resuming(), moment)
            await cancelled(storage.probe(), moment)
            await cancelled(listed(storage), moment)
            await check(storage, new, data)
            # What was cancelled may still be at work.
            upload = await resumed(storage, upload_id, patient=True)
            await upload.discard()
            await upload.release()
            assert await storage.delete(new.file_id)
        assert [name for name in await place.traces() if "probe" not in name] == []

    asyncio.run(main())


# --- the storage itself ----------------------------------------------------------------------------------------------


def test_preparing_and_closing_twice(place: Place) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            storage = place.new()
            await storage.aclose()
            stack.push_async_callback(storage.aclose)
            await storage.prepare()
            await storage.prepare()
            new = await store(storage, b"data")
            await storage.aclose()
            await storage.aclose()
            await storage.prepare()
            await check(storage, new, b"data")

    asyncio.run(main())


def test_a_probe_leaves_nothing(place: Place) -> None:
    async def main() -> None:
        async with prepared(place) as storage:
            await asyncio.gather(storage.probe(), storage.probe())
            assert await place.traces() == []

    asyncio.run(main())


def test_a_probe_tells_what_does_not_work(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        fuse = place.fuse(monkeypatch)
        async with prepared(place) as storage:
            with fuse.after(0, stays=True), pytest.raises(OSError):
                await storage.probe()
            await storage.probe()

    asyncio.run(main())


def test_free_bytes(place: Place) -> None:
    async def main() -> None:
        async with prepared(place) as storage:
            free = await storage.free_bytes()
            assert free is None or free > 0

    asyncio.run(main())


def test_nothing_is_anywhere_else(place: Place) -> None:
    async def main() -> None:
        async with prepared(place) as storage:
            new = await store(storage, b"data")
            assert await storage.location(new.file_id) is None

    asyncio.run(main())
