"""Resumable uploads in every kind of storage: steps that fail, are cancelled, or have no next one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from support.storages import (
    MOMENTS,
    Place,
    append,
    cancelled,
    check,
    content,
    listed,
    new_info,
    prepared,
    resumed,
)
from xmtp_history.server.storage import Storage


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
                upload_id, upload = await storage.create_resumable(new_info(size))
                await append(upload, data, 4 << 20)
                await upload.flush()
                with fuse.after(count, stays=killed):
                    failed = await _fails(upload.commit)
                    changes = fuse.changes
                assert upload.committed or failed
                if not killed:
                    await upload.commit()
                    assert upload.committed
                await upload.release()
            async with prepared(place) as storage:
                upload = await resumed(storage, upload_id)
                assert upload.offset == size
                await upload.commit()
                assert upload.committed
                await upload.release()
                await check(storage, upload.info.new, data)
                assert await storage.delete(upload.info.new.file_id)
                assert await storage.discard(upload_id)
                assert await place.traces() == []
            if changes <= count:
                assert count > 0
                return
        pytest.fail("there are not so many steps")

    asyncio.run(main())


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("name", ["write", "flush", "truncate", "set_length"])
def test_a_step_that_fails(place: Place, name: str, killed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there before stays, and the offset tells what is there."""
    data = content(10 << 20)
    fuse = place.fuse(monkeypatch)

    async def main() -> None:
        for count in range(100):
            async with prepared(place) as storage:
                upload_id, upload = await storage.create_resumable(new_info())
                await upload.write(data[:1000])
                await upload.flush()
                await upload.write(data[1000:2000])
                steps: dict[str, Callable[[], Awaitable[None]]] = {
                    "write": lambda upload=upload: upload.write(data[2000 : 9 << 20]),
                    "flush": upload.flush,
                    "truncate": lambda upload=upload: upload.truncate(500),
                    "set_length": lambda upload=upload: upload.set_length(len(data)),
                }
                with fuse.after(count, stays=killed):
                    await _fails(steps[name])
                    changes = fuse.changes
                if not killed and name != "write":
                    await steps[name]()
                    assert upload.offset == (500 if name == "truncate" else 2000)
                elif not killed:
                    assert upload.offset >= 2000
                    await upload.flush()
                told = upload.offset
                await upload.release()
            async with prepared(place) as storage:
                upload = await resumed(storage, upload_id)
                if killed or name in {"truncate", "set_length"}:
                    assert (500 if name == "truncate" else 1000) <= upload.offset <= 9 << 20
                else:
                    assert upload.offset == told
                assert upload.info.length in {None, len(data)}
                await upload.set_length(len(data))
                await append(upload, data[upload.offset :], 4 << 20)
                await upload.commit()
                await upload.release()
                await check(storage, upload.info.new, data)
                await storage.delete(upload.info.new.file_id)
                assert await storage.discard(upload_id)
                assert await place.traces() == []
            if changes <= count:
                return
        pytest.fail("there are not so many steps")

    asyncio.run(main())


async def _fails(step: Callable[[], Awaitable[None]]) -> bool:
    try:
        await step()
    except OSError:
        return True
    return False


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("name", ["create", "set_length", "discard"])
def test_what_is_half_made_or_half_removed_can_be_removed(
    place: Place, name: str, killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fuse = place.fuse(monkeypatch)

    async def half(storage: Storage, left: int) -> None:
        fuse.left = left if name == "create" else None
        upload_id, upload = await storage.create_resumable(new_info())
        try:
            await upload.write(b"1234")
            await upload.flush()
            fuse.left = left if name == "set_length" else fuse.left
            await upload.set_length(10)
        finally:
            await upload.release()
        fuse.left = left if name == "discard" else fuse.left
        await storage.discard(upload_id)

    async def main(left: int) -> None:
        async with prepared(place) as storage:
            with fuse.after(1000, stays=killed), suppress(OSError):
                await half(storage, left)
        async with prepared(place) as storage:
            _, unfinished = await listed(storage)
            assert len(unfinished) <= 1
            for one in unfinished:
                assert await storage.discard(one)
            assert await listed(storage) == ([], [])
            assert await place.traces() == []

    for left in range(13):
        asyncio.run(main(left))


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", ["write", "flush", "truncate", "set_length", "commit"])
def test_a_step_that_is_cancelled(place: Place, name: str, moment: float) -> None:
    data = content(9 << 20)

    async def main() -> None:
        async with prepared(place) as storage:
            upload_id, upload = await storage.create_resumable(new_info())
            await upload.write(data[:1000])
            await upload.flush()
            await upload.write(data[1000:2000])

            async def step() -> None:
                if name == "write":
                    await append(upload, data[2000:], 4 << 20)
                elif name == "truncate":
                    await upload.truncate(500)
                elif name == "set_length":
                    await upload.set_length(len(data))
                elif name == "commit":
                    await upload.set_length(2000)
                    await upload.commit()
                else:
                    await upload.flush()

            await cancelled(step(), moment)
            await upload.release()
            upload = await resumed(storage, upload_id)
            if name == "commit":
                assert 1000 <= upload.offset <= 2000
                await upload.write(data[upload.offset : 2000]) if upload.offset < 2000 else None
                await upload.commit()
            else:
                assert (500 if name == "truncate" else 1000) <= upload.offset <= len(data)
                await append(upload, data[upload.offset :], 4 << 20)
                await upload.set_length(len(data))
                await upload.commit()
            await upload.release()
            await check(storage, upload.info.new, data[:2000] if name == "commit" else data)
            assert await storage.delete(upload.info.new.file_id)
            assert await storage.discard(upload_id)
            assert await place.traces() == []

    asyncio.run(main())


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_creation_that_is_cancelled(place: Place, moment: float) -> None:
    async def main() -> None:
        async with prepared(place) as storage:

            async def create() -> None:
                _, upload = await storage.create_resumable(new_info())
                try:
                    await asyncio.shield(upload.discard())
                finally:
                    await asyncio.shield(upload.release())

            await cancelled(create(), moment)
        async with prepared(place) as storage:
            _, unfinished = await listed(storage)
            for one in unfinished:
                assert await storage.discard(one)
            assert await place.traces() == []

    asyncio.run(main())
