"""A server that is killed at any moment: nothing half-way is ever served or kept, and what was acknowledged is there."""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientError, ClientSession

from support import child, tus
from support.history_server import files, partial, serving, some_bytes, stored, until
from support.storages import LocalPlace as Place
from support.storages import check, content, exists, listed, prepared
from xmtp_history.server.storage import NewFile

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and counts on Linux's ways to lock files")

# --- at random moments -----------------------------------------------------------------------------------------------

_SERVER = """
import asyncio, sys
from support.history_server import make_server

async def main():
    async with make_server(sys.argv[1], uploads_per_minute=None) as server:
        print(server.url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""

_BLOCK = some_bytes(1 << 20)
_GONE = (ClientError, OSError)


class _Resumable:
    """A resumable upload, and what its client knows of it."""

    def __init__(self, path: str, data: bytes) -> None:
        self.path = path
        self.data = data
        self.acknowledged = 0
        self.file_id: str | None = None


class _Clients:
    """What clients have sent, and what of it they know to be stored."""

    def __init__(self, seed: int) -> None:
        self.choice = random.Random(seed)
        self.acknowledged: dict[str, bytes] = {}
        self.resumables: list[_Resumable] = []
        #: Of each request that had no answer, what the file would be.
        self.in_doubt: set[bytes] = set()
        self.in_doubt_created = 0
        self.answers = 0

    def data(self) -> bytes:
        size = self.choice.choice([0, 10, 3000, 70_000, 300_000, 1_000_000])
        start = self.choice.randrange(len(_BLOCK) - size)
        return _BLOCK[start : start + size]

    async def upload(self, client: ClientSession) -> None:
        """Uploads until the server is gone."""
        while True:
            data = self.data()
            try:
                async with client.post("/upload", data=io.BytesIO(data)) as response:
                    assert response.status == 200
                    file_id = await response.text()
            except _GONE:
                self.in_doubt.add(data)
                return
            self.acknowledged[file_id] = data
            self.answers += 1

    async def upload_by_tus(self, client: ClientSession) -> None:
        """Uploads in pieces until the server is gone."""
        while True:
            data = self.data()
            try:
                answer = await tus.create(client, len(data))
            except _GONE:
                self.in_doubt_created += 1
                # An empty one is complete at once.
                self.in_doubt.add(b"")
                return
            assert answer.status == 201
            one = _Resumable(answer.headers["Location"], data)
            self.resumables.append(one)
            self._acknowledge(one, answer)
            while one.file_id is None:
                end = min(len(data), one.acknowledged + self.choice.choice([1, 5000, 100_000, 500_000]))
                try:
                    answer = await tus.patch(client, one.path, one.acknowledged, data[one.acknowledged : end])
                except _GONE:
                    return
                assert answer.status == 204
                self._acknowledge(one, answer)
                assert one.acknowledged == end

    def _acknowledge(self, one: _Resumable, answer: tus.Answer) -> None:
        one.acknowledged = answer.offset
        self.answers += 1
        if "Content-Location" in answer.headers:
            one.file_id = answer.file_id

    async def check(self, client: ClientSession, folder: Path) -> None:
        assert partial(folder) == [], "what was half-way takes up no room"
        sent = {*self.acknowledged.values(), *self.in_doubt, *(one.data for one in self.resumables)}
        assert {found for number in range(256) for found in stored(folder / f"{number:02x}")} <= sent
        for file_id, data in self.acknowledged.items():
            await tus.check_file(client, file_id, data)
        ids = {path.stem for path in (folder / "resumable").iterdir()}
        known = {one.path.rpartition("/")[2] for one in self.resumables}
        assert known <= ids
        assert len(ids - known) <= self.in_doubt_created
        for one in self.resumables:
            answer = await tus.head(client, one.path)
            assert one.acknowledged <= answer.offset <= len(one.data)
            if one.file_id is None:
                assert (tus.part(folder, one.path).exists()) == ("Content-Location" not in answer.headers)
                one.file_id = await tus.resume(client, one.path, one.data, answer.offset)
                one.acknowledged = len(one.data)
            assert (await tus.head(client, one.path)).file_id == one.file_id
            await tus.check_file(client, one.file_id, one.data)


@contextlib.asynccontextmanager
async def _mortal(folder: Path) -> AsyncIterator[str]:
    """The URL of a server that is killed in the end."""
    with child.start(_SERVER, folder) as process:
        try:
            assert process.stdout is not None
            yield (await asyncio.to_thread(process.stdout.readline)).strip()
        finally:
            process.kill()
            await asyncio.to_thread(process.communicate)


@pytest.mark.parametrize("seed", range(3))
def test_at_a_random_moment(tmp_path: Path, seed: int) -> None:
    clients = _Clients(seed)

    async def main() -> None:
        for _ in range(2):
            async with contextlib.AsyncExitStack() as stack:
                async with _mortal(tmp_path) as url:
                    client = await stack.enter_async_context(ClientSession(url))
                    enough = clients.answers + clients.choice.randrange(100)
                    senders = [clients.upload, clients.upload, clients.upload_by_tus, clients.upload_by_tus]
                    tasks = [asyncio.create_task(send(client)) for send in senders]
                    await until(lambda enough=enough: clients.answers >= enough)
                    await asyncio.sleep(clients.choice.random() * 0.02)
                await asyncio.gather(*tasks)
            async with serving(tmp_path) as (_, client):
                await clients.check(client, tmp_path)

    asyncio.run(main())


# --- before each step ------------------------------------------------------------------------------------------------

#: Does something again and again, each time in another process, that kills itself before a later step than the last one;
#: until one gets to the end.
_STEPS = """
import asyncio, os, signal, sys, time, uuid
from pathlib import Path
import pytest
from support.storages import Fuse, LocalPlace, content, new_info, prepared, resumed
from xmtp_history.server.storage import NewFile

folder, name, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
data, new = content(size), NewFile(uuid.UUID(int=1), "capability")

def die_or_not(fuse):
    if fuse.left is not None:
        fuse.left -= 1
        if fuse.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

async def do(number):
    place = LocalPlace(folder / str(number))
    fuse = place.fuse(pytest.MonkeyPatch())
    async with prepared(place) as storage:
        fuse.left = number
        if name == "upload":
            upload = storage.create()
            await upload.write(data[:size // 2])
            await upload.commit(new, data[size // 2:])
            return
        if name == "delete":
            fuse.left = None
            upload = storage.create()
            await upload.commit(new, data)
            fuse.left = number
            await storage.delete(new.file_id)
            return
        upload_id, upload = await storage.create_resumable(new_info(new=new, created=time.time()))
        for piece in (data[:size // 2], data[size // 2:]):
            await upload.write(piece)
            await upload.flush()
            (folder / str(number) / "offset").write_text(str(upload.offset))
        if name == "discard":
            await upload.discard()
        else:
            await upload.set_length(size)
            await upload.commit()
        await upload.release()

Fuse.change = die_or_not
for number in range(100):
    pid = os.fork()
    if not pid:
        asyncio.run(do(number))
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status == 0:
        break
    assert status == signal.SIGKILL, status
print(number)
"""
_NEW = NewFile(uuid.UUID(int=1), "capability")


def _each_step(folder: Path, name: str, size: int) -> list[Path]:
    """What is left by processes that got one step further each; the last one was not killed."""
    last = int(child.run(_STEPS, folder, name, str(size)))
    assert last >= (2 if name == "delete" else 5)
    return [folder / str(number) / "local" for number in range(last + 1)]


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_before_each_step_of_an_upload(tmp_path: Path, size: int) -> None:
    async def main() -> None:
        *killed, last = _each_step(tmp_path, "upload", size)
        served = 0
        for folder in (*killed, last):
            async with serving(folder) as (_, client):
                assert partial(folder) == []
                async with client.get(f"/files/{_NEW.file_id}") as response:
                    found = response.status == 200
                    assert found or folder != last
                    served += found
                if found:
                    # Nobody was told, but it is whole.
                    await tus.check_file(client, str(_NEW.file_id), content(size))
                else:
                    assert files(folder) == []
        assert served == 2

    asyncio.run(main())


def test_before_each_step_of_a_deletion(tmp_path: Path) -> None:
    async def main() -> None:
        *killed, last = _each_step(tmp_path, "delete", 10)
        for folder in (*killed, last):
            async with prepared(Place(folder.parent)) as storage:
                if await exists(storage, _NEW):
                    assert folder != last
                    await check(storage, _NEW, content(10))
                    assert await storage.delete(_NEW.file_id)
                assert files(folder) == []

    asyncio.run(main())


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_before_each_step_of_a_resumable_upload(tmp_path: Path, size: int) -> None:
    async def main() -> None:
        *killed, last = _each_step(tmp_path, "finish", size)
        committed = 0
        for folder in (*killed, last):
            async with prepared(Place(folder.parent)) as storage:
                _, uploads = await listed(storage)
            for upload_id in uploads:
                async with serving(folder) as (_, client):
                    path = f"/upload/{upload_id}"
                    answer = await tus.head(client, path)
                    acknowledged = folder.with_name("offset")
                    if answer.status == 404:
                        # It was not created quite.
                        assert not acknowledged.exists()
                        continue
                    if acknowledged.exists():
                        assert answer.offset >= int(acknowledged.read_text())
                    assert answer.offset <= size
                    if "Upload-Length" not in answer.headers:
                        answer = await tus.patch(
                            client, path, answer.offset, content(size)[answer.offset :], upload_length=str(size)
                        )
                    elif "Content-Location" in answer.headers:
                        committed += 1
                    assert answer.file_id == str(_NEW.file_id)
                    await tus.check_file(client, answer.file_id, content(size))
                    assert sorted(path.suffix for path in files(folder)) == ["", ".json"]
        # Between all steps of the end there was nothing left to be sent.
        assert committed >= 6

    asyncio.run(main())


def test_before_each_step_of_a_discarded_upload(tmp_path: Path) -> None:
    async def main() -> None:
        for folder in _each_step(tmp_path, "discard", 10):
            async with serving(folder, resumable_seconds=0.001, sweep_seconds=0.01):
                await until(lambda folder=folder: not files(folder))

    asyncio.run(main())
