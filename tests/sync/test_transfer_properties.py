"""Any interplay of interruptions and resumes: everything arrives, once and in order, or an error says that it did not."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.faulty_server import Exchange, FaultyServer, cut, drop, early, lose, on, raw, status
from xmtp_history import NetworkError, UploadedArchive, download_archive, upload_archive

BYTES = random.Random(4).randbytes(20_000)

transient = st.sampled_from([408, 425, 429, 500, 502, 503, 504])
any_method = st.sampled_from(["OPTIONS", "POST", "PATCH", "HEAD"])


async def partly(server: FaultyServer, exchange: Exchange) -> None:
    """Takes a part of a piece, and says so."""
    upload = server.uploads[exchange.name]
    data = b"".join([piece async for piece in exchange.body()])
    upload.data += data[: 1 + len(data) // 3]
    await exchange.answer(204, server.state(upload))


upload_faults = st.lists(
    st.one_of(
        st.builds(lambda after: on("PATCH", drop(after)), st.integers(0, 1100)),
        st.builds(lambda method: on(method, lose), any_method),
        st.builds(lambda method, code: on(method, status(code)), any_method, transient),
        st.builds(lambda method, code: on(method, early(code)), any_method, transient),
        st.builds(lambda method: on(method, raw()), any_method),
        st.builds(lambda code: on("PATCH", status(code)), st.sampled_from([409, 423, 460])),
        st.just(on("PATCH", partly)),
    ),
    # One fault less than there are tries without progress.
    max_size=7,
)


async def stream(data: bytes, steps: list[int]) -> AsyncIterator[bytes]:
    at, number = 0, 0
    while at < len(data):
        step = steps[number % len(steps)]
        yield data[at : at + step]
        at += step
        number += 1


@pytest.mark.usefixtures("small_pieces")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    size=st.integers(0, 6000),
    steps=st.lists(st.integers(1, 2500), min_size=1, max_size=5),
    faults=upload_faults,
    streamed=st.booleans(),
)
def test_uploads(size: int, steps: list[int], faults: list[Any], streamed: bool) -> None:
    data = BYTES[:size]

    async def main() -> UploadedArchive:
        async with FaultyServer(*faults) as server:
            uploaded = await upload_archive(stream(data, steps) if streamed else data, server.url)
            await server.settled()
            assert server.files[uploaded.url.rpartition("/")[2]] == data
            # Whatever was tried again: more than once there can only be files whose answers were lost.
            assert len(server.files) <= 1 + len(faults)
            return uploaded

    assert asyncio.run(main()).size == size


@pytest.mark.usefixtures("small_pieces")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(size=st.integers(1000, 6000), steps=st.lists(st.integers(1, 2500), min_size=1), faults=upload_faults)
def test_streams_to_a_server_without_tus(size: int, steps: list[int], faults: list[Any]) -> None:
    """Nothing is ever stored that is not the whole."""
    data = BYTES[:size]

    async def main() -> None:
        async with FaultyServer(*faults, tus=False) as server:
            try:
                await upload_archive(stream(data, steps), server.url)
            except NetworkError as error:
                assert "cannot be sent again" in str(error)
            await server.settled()
            assert set(server.files.values()) <= {data}

    asyncio.run(main())


download_faults = st.lists(
    st.one_of(
        st.builds(
            lambda after, reset, chunked: cut(after, reset=reset, chunked=chunked),
            st.integers(0, 21_000),
            st.booleans(),
            st.booleans(),
        ),
        st.builds(status, transient),
        st.just(raw()),
        st.just(drop()),
        st.just(raw(b"HTTP/1.1 200 OK\r\nContent-Le")),
    ),
    max_size=7,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(size=st.integers(0, 20_000), faults=download_faults, ranges=st.booleans(), tags=st.booleans())
def test_downloads(size: int, faults: list[Any], ranges: bool, tags: bool) -> None:
    data = BYTES[:size]

    async def main() -> None:
        async with FaultyServer(*faults, ranges=ranges, tags=tags) as server:
            target = io.BytesIO()
            try:
                report = await download_archive(server.add(data), target)
            except NetworkError:
                # Without any answer there are fewer tries.
                assert len(faults) >= 4
                assert data.startswith(target.getvalue())
            else:
                assert target.getvalue() == data
                assert (report.size, report.verified) == (size, tags)
            await server.settled()

    asyncio.run(main())


changes = st.lists(st.tuples(st.integers(0, 20_000), st.booleans()), min_size=1, max_size=4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=changes, ranges=st.booleans(), tags=st.booleans())
def test_a_file_that_changes_never_comes_mixed(steps: list[tuple[int, bool]], ranges: bool, tags: bool) -> None:
    """Each connection is cut, and before some the file is another one."""
    from xmtp_history import SyncError

    versions = [BYTES, BYTES[:10_000] + BYTES[:10_000]]

    def step(after: int, change: bool) -> Any:
        async def fault(server: FaultyServer, exchange: Exchange) -> None:
            if change:
                server.files[exchange.name] = versions[versions[0] is server.files[exchange.name]]
            await cut(after)(server, exchange)

        return fault

    async def main() -> None:
        async with FaultyServer(*(step(*one) for one in steps), ranges=ranges, tags=tags) as server:
            target = io.BytesIO()
            try:
                await download_archive(server.add(BYTES), target)
            except SyncError:
                assert any(change for _, change in steps)
            else:
                assert target.getvalue() in versions

    asyncio.run(main())
