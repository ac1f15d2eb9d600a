"""What every storage promises of resumable uploads: a directory, a bucket in memory, and a bucket of a real S3 server."""

from __future__ import annotations

import asyncio
import re
import time

import pytest

from support.storages import (
    Place,
    append,
    check,
    content,
    exists,
    listed,
    new_info,
    prepared,
    resumed,
    store,
)
from xmtp_history.server.storage import UploadBusy

SMALL = 64 * 1024
LARGE = (20 << 20) + 5


# --- from beginning to end -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, SMALL - 1, SMALL, SMALL + 1, 9 << 20, LARGE])
def test_an_upload_goes_on_where_it_was(place: Place, size: int) -> None:
    data, info = content(size), new_info(size, metadata="a Yg==,c", created=123.25)

    async def main() -> None:
        async with prepared(place) as storage:
            upload_id, upload = await storage.create_resumable(info)
            assert re.fullmatch("[0-9a-f]{32}", upload_id)
            assert (upload.offset, upload.committed, upload.info) == (0, False, info)
            await append(upload, data[: size // 3])
            assert upload.offset == size // 3
            await upload.flush()
            await upload.flush()
            assert upload.offset == size // 3
            await upload.release()
            assert not await exists(storage, info.new)
        async with prepared(place) as storage:
            upload = await resumed(storage, upload_id)
            assert (upload.offset, upload.committed, upload.info) == (size // 3, False, info)
            await append(upload, data[size // 3 :])
            assert not await exists(storage, info.new)
            await upload.commit()
            await upload.commit()
            assert (upload.offset, upload.committed, upload.info) == (size, True, info)
            await upload.release()
            await check(storage, info.new, data)
            for _ in range(2):
                upload = await resumed(storage, upload_id)
                assert (upload.offset, upload.committed, upload.info) == (size, True, info)
                await upload.commit()
                await upload.release()
            assert await listed(storage) == ([str(info.new.file_id)], [upload_id])
            # Its file does not go with it.
            assert await storage.discard(upload_id)
            assert not await storage.discard(upload_id)
            assert await storage.resume(upload_id) is None
            await check(storage, info.new, data)
            assert len(await place.traces()) == 1

    asyncio.run(main())


def test_a_length_that_is_told_later(place: Place) -> None:
    async def main() -> None:
        info = new_info(metadata="a")
        async with prepared(place) as storage:
            upload_id, upload = await storage.create_resumable(info)
            await upload.write(b"1234")
            await upload.flush()
            assert upload.info.length is None
            await upload.release()
        async with prepared(place) as storage:
            upload = await resumed(storage, upload_id)
            assert upload.info.length is None
            await upload.set_length(6)
            assert upload.info.length == 6
            await upload.release()
        async with prepared(place) as storage:
            upload = await resumed(storage, upload_id)
            assert upload.info == new_info(6, new=info.new, metadata="a")
            assert upload.offset == 4
            await upload.write(b"56")
            await upload.commit()
            await upload.release()
            await check(storage, info.new, b"123456")

    asyncio.run(main())


def test_what_was_not_flushed_may_be_lost_but_not_altered(place: Place) -> None:
    data = content(LARGE)

    async def main() -> None:
        async with prepared(place) as storage:
            upload_id, upload = await storage.create_resumable(new_info(LARGE))
            await append(upload, data[:1000])
            await upload.flush()
            await append(upload, data[1000 : 9 << 20])
            await upload.release()
            upload = await resumed(storage, upload_id)
            assert 1000 <= upload.offset <= 9 << 20
            await append(upload, data[upload.offset :])
            await upload.commit()
            await upload.release()
            await check(storage, upload.info.new, data)

    asyncio.run(main())


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("offset", [0, 1000, SMALL + 1, (8 << 20) - 1, 8 << 20, (8 << 20) + 1, (9 << 20) - 1, 9 << 20])
def test_taking_back(place: Place, offset: int, flushed: bool) -> None:
    data = content(9 << 20)

    async def main() -> None:
        async with prepared(place) as storage:
            upload_id, upload = await storage.create_resumable(new_info())
            await append(upload, data)
            if flushed:
                await upload.flush()
            await upload.truncate(offset)
            assert upload.offset == offset
            await upload.truncate(offset)
            await upload.write(b"other")
            await upload.flush()
            await upload.release()
            upload = await resumed(storage, upload_id)
            assert upload.offset == offset + 5
            await upload.truncate(offset)
            await upload.set_length(offset + 3)
            await upload.write(b"end")
            await upload.commit()
            await upload.release()
            await check(storage, upload.info.new, data[:offset] + b"end")
            await storage.delete(upload.info.new.file_id)
            # The upload knows.
            assert await storage.resume(upload_id) is None
            assert await storage.discard(upload_id)
            assert await place.traces() == []

    asyncio.run(main())


# --- who has it ------------------------------------------------------------------------------------------------------


def test_one_has_it_alone(place: Place) -> None:
    async def main() -> None:
        async with prepared(place) as storage:
            upload_id, upload = await storage.create_resumable(new_info())
            for _ in range(2):
                with pytest.raises(UploadBusy):
                    await storage.resume(upload_id)
                assert not await storage.discard(upload_id)
                await upload.write(b"1")
                await upload.release()
                upload = await resumed(storage, upload_id)
            await upload.discard()
            await upload.release()
            assert await place.traces() == []
            # All at once: one gets it.
            upload_id, upload = await storage.create_resumable(new_info())
            await upload.release()
            got = await asyncio.gather(*(storage.resume(upload_id) for _ in range(8)), return_exceptions=True)
            assert sum(isinstance(one, UploadBusy) for one in got) == 7
            (upload,) = (one for one in got if not isinstance(one, BaseException) and one is not None)
            await upload.release()
            assert await storage.discard(upload_id)
            assert await listed(storage) == ([], [])
            assert await place.traces() == []

    asyncio.run(main())


def test_of_two_servers_one_has_it(place: Place) -> None:
    async def main() -> None:
        async with prepared(place) as storage, prepared(place) as other:
            upload_id, first = await storage.create_resumable(new_info(6))
            await first.write(b"12")
            await first.flush()
            try:
                second = await resumed(other, upload_id)
            except UploadBusy:
                await first.write(b"3456")
                await first.flush()
            else:
                # Whoever comes first wins, and the other one is told.
                await first.write(b"3456")
                await second.write(b"wrong")
                await first.flush()
                for step in (second.flush, second.commit):
                    with pytest.raises(UploadBusy):
                        await step()
                await second.release()
            await first.release()
            upload = await resumed(other, upload_id)
            assert upload.offset == 6
            await upload.commit()
            await upload.release()
            for one in (storage, other):
                await check(one, upload.info.new, b"123456")
            assert await storage.discard(upload_id)
            assert await other.resume(upload_id) is None

    asyncio.run(main())


@pytest.mark.parametrize(
    "upload_id",
    ["", "0" * 31, "0" * 33, "A" * 32, "g" * 32, "../" + "0" * 29, "0" * 32 + "\n", "0" * 31 + "٠", "0" * 32 + "/info"],
)
def test_an_id_that_is_none(place: Place, upload_id: str) -> None:
    async def main() -> None:
        async with prepared(place) as storage:
            _, upload = await storage.create_resumable(new_info())
            await upload.release()
            before = await place.traces()
            assert await storage.resume(upload_id) is None
            assert not await storage.discard(upload_id)
            assert await storage.resume("0" * 32) is None
            assert not await storage.discard("0" * 32)
            assert await place.traces() == before

    asyncio.run(main())


def test_many_are_listed(place: Place) -> None:
    """More objects than a bucket lists at once."""

    async def main() -> None:
        async with prepared(place) as storage:
            new = await store(storage, b"data")
            ids = []
            for size in range(350):
                upload_id, upload = await storage.create_resumable(new_info())
                for _ in range(2):
                    await upload.write(bytes(size))
                    await upload.flush()
                await upload.release()
                ids.append(upload_id)
            assert await listed(storage) == ([str(new.file_id)], sorted(ids))
            found = {entry.upload_id: entry async for batch in storage.resumables() for entry in batch}
            for size, upload_id in enumerate(ids):
                assert 2 * size <= found[upload_id].size <= 2 * size + 1000
                assert abs(found[upload_id].touched - time.time()) < 60

    asyncio.run(main())
