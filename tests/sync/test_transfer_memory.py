"""Memory stays bounded, however much goes through. Each measurement has a process of its own."""

from __future__ import annotations

import sys

import pytest

from support import child

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")

MEBIBYTES = 256

_TRANSFER = """
import asyncio, os, sys
from support.faulty_server import FaultyServer, Upload
from xmtp_history import download_archive, upload_archive
from xmtp_history.sync._stream import ArchiveStream

BLOCK = os.urandom(1 << 20)
COUNT = {count}

class Nothing(bytearray):
    # What has arrived is counted, not kept.
    size = 0
    def __iadd__(self, data):
        self.size += len(data)
        return self
    def __len__(self):
        return self.size

class Server(FaultyServer):
    async def append(self, exchange, upload, most=None):
        if not isinstance(upload.data, Nothing):
            upload.data = Nothing()
        await super().append(exchange, upload, most)
    def _store(self, data):
        return super()._store(b"")
    def tag(self, data):
        return {{}}

async def take(server, exchange):
    size = 0
    async for piece in exchange.body():
        size += len(piece)
    assert size == COUNT << 20
    await exchange.answer(200, {{}}, b"0123456789")

async def give(server, exchange):
    await exchange.answer(200, {{}}, length=COUNT << 20)
    for _ in range(COUNT):
        await exchange.send(BLOCK)

async def stream():
    for _ in range(COUNT):
        yield BLOCK

class Nowhere:
    def write(self, data):
        return len(data)

def used():
    # The peak of this program alone: getrusage counts what the parent had when it started us.
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM:")).split()[1])

async def main(what):
    server = Server(tus=what == "tus")
    async with server:
        await upload_archive(b"x", server.url)
        server.add(b"")
        before = used()
        if what == "download":
            server.faults.append(give)
            report = await download_archive(server.url + "/files/x", Nowhere())
            assert report.size == COUNT << 20
        elif what == "slow":
            server.faults.append(give)
            async with ArchiveStream(server.url + "/files/x") as archive:
                await asyncio.sleep(0.5)
                async for chunk in archive:
                    pass
        else:
            if what == "plain":
                from support.faulty_server import on
                server.faults.append(on("POST", take))
            uploaded = await upload_archive(stream(), server.url)
            assert uploaded.size == COUNT << 20
        print(used() - before)

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize(("what", "most"), [("tus", 40), ("plain", 40), ("download", 12), ("slow", 12)])
def test_a_transfer_holds_a_small_part_of_the_archive(what: str, most: int) -> None:
    grown = int(child.run(_TRANSFER.format(count=MEBIBYTES), what))
    assert grown > 0
    assert grown * 1024 < most * 1024 * 1024
