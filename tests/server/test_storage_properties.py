"""Resumable uploads against a model that is bytes: whatever is done in whatever order, nothing durable is lost."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.history_server import some_bytes
from support.storages import LocalPlace, MemoryPlace, Place, check, exists, listed, new_info, prepared, resumed
from xmtp_history.server.storage import ResumableUpload, Storage, _object_resumable

_BYTES = some_bytes(1 << 20)

#: A bucket's segments end here instead of after megabytes.
_SEGMENT = 5000

_SIZES = st.sampled_from([0, 1, 10, _SEGMENT - 1, _SEGMENT, _SEGMENT + 1, 2 * _SEGMENT, 65_536, 70_000]) | st.integers(
    0, 3 * _SEGMENT
)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), _SIZES),
        st.tuples(st.just("write"), _SIZES),
        st.tuples(st.just("flush"), st.none()),
        # A share of what may be taken back.
        st.tuples(st.just("truncate"), st.sampled_from([0.0, 0.01, 0.5, 0.99, 1.0])),
        st.tuples(st.just("resume"), st.booleans()),
        st.tuples(st.just("busy"), st.none()),
    ),
    max_size=30,
)


@pytest.fixture(params=["local", "memory"], scope="module")
def lasting_place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """One for all examples."""
    kind = {"local": LocalPlace, "memory": MemoryPlace}[request.param]
    with pytest.MonkeyPatch.context() as patching, tempfile.TemporaryDirectory() as folder:
        patching.setattr(_object_resumable, "PART_BYTES", _SEGMENT)
        yield kind(Path(folder))


class _Model:
    """An upload, what it should have, and how much of that nothing may take away."""

    def __init__(self, upload_id: str, upload: ResumableUpload) -> None:
        self.upload_id = upload_id
        self.upload = upload
        self.data = b""
        self.durable = 0
        self._used = 0

    async def write(self, size: int) -> None:
        # Never the same bytes twice: those that were taken back would not be told from those that replace them.
        start = self._used % (len(_BYTES) - size)
        self._used += size + 1
        self.data += _BYTES[start : start + size]
        await self.upload.write(self.data[len(self.data) - size :])

    async def flush(self, _nothing: None) -> None:
        await self.upload.flush()
        self.durable = len(self.data)

    async def truncate(self, share: float) -> None:
        offset = self.durable + int((len(self.data) - self.durable) * share)
        await self.upload.truncate(offset)
        self.data = self.data[:offset]

    async def resume(self, storage: Storage) -> None:
        await self.upload.release()
        self.upload = await resumed(storage, self.upload_id)
        assert self.durable <= self.upload.offset <= len(self.data)
        self.data = self.data[: self.upload.offset]
        self.durable = self.upload.offset

    def check(self) -> None:
        assert self.upload.offset == len(self.data)
        assert not self.upload.committed


@settings(max_examples=settings().max_examples // 2)
@given(steps=_STEPS)
def test_a_resumable_upload_is_what_was_written(lasting_place: Place, steps: list[tuple[str, Any]]) -> None:
    async def main() -> None:
        async with prepared(lasting_place) as storage, prepared(lasting_place) as other:
            model = _Model(*await storage.create_resumable(new_info()))
            new = model.upload.info.new
            for name, argument in steps:
                if name == "resume":
                    await model.resume(other if argument else storage)
                elif name == "busy":
                    assert not await exists(storage, new)
                    assert await listed(other) == ([], [model.upload_id])
                else:
                    await getattr(model, name)(argument)
                model.check()
            await model.upload.set_length(len(model.data))
            await model.upload.commit()
            await model.upload.release()
            await check(other, new, model.data)
            assert await listed(storage) == ([str(new.file_id)], [model.upload_id])
            assert await other.discard(model.upload_id)
            assert await storage.delete(new.file_id)
            assert await lasting_place.traces() == []

    asyncio.run(main())
