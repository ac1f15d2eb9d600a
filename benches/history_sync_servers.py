"""The process of a node and a history server between which histories are synced: ``history_sync_servers.py FOLDER``.

Prints a line once both listen: their addresses. After that it answers every line on standard input with all that has come
by, each with its time on the clock that all processes of a machine share. It ends with standard input.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from xmtp_history import HistoryServer, LocalNode, LocalStorage
from xmtp_history.node._mls_api import MlsApi
from xmtp_history.node._payloads import group_message_header

#: What has come by: a name and a time.
_noted: list[tuple[str, float]] = []


def _note(name: str) -> None:
    _noted.append((name, time.monotonic()))


class NotingMlsApi(MlsApi):
    """Notes when commits and other messages of groups are stored."""

    async def send_group_messages(self, request: Any) -> Any:
        answer = await super().send_group_messages(request)
        for message in request.messages:
            _note("commit" if group_message_header(message.v1.data).is_commit else "message")
        return answer


class _Noting:
    """An upload or a stored file that notes how it ends."""

    def __init__(self, noted: Any, end: str, name: str) -> None:
        self._noted = noted
        setattr(self, end, self._end)
        self._ends = getattr(noted, end)
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._noted, name)

    async def _end(self, *arguments: Any) -> Any:
        answer = await self._ends(*arguments)
        _note(self._name)
        return answer


class NotingStorage(LocalStorage):
    """Notes when uploads begin and are durable, and when downloads begin and are over."""

    def create(self) -> Any:
        _note("upload")
        return _Noting(super().create(), "commit", "uploaded")

    async def create_resumable(self, *arguments: Any) -> Any:
        _note("upload")
        upload_id, upload = await super().create_resumable(*arguments)
        return upload_id, _Noting(upload, "commit", "uploaded")

    async def resume(self, upload_id: str, /) -> Any:
        upload = await super().resume(upload_id)
        return upload and _Noting(upload, "commit", "uploaded")

    async def open(self, *arguments: Any, **options: Any) -> Any:
        stored = await super().open(*arguments, **options)
        _note("download")
        return stored and _Noting(stored, "aclose", "downloaded")


async def main(folder: str) -> None:
    """Serves until standard input ends."""
    from xmtp_history.node import _node

    # A node has no other way to let somebody look at what comes in.
    _node.MlsApi = NotingMlsApi  # type: ignore[misc]
    path = Path(folder)
    async with LocalNode(path / "node", port=0) as node, HistoryServer(NotingStorage(path / "files"), port=0) as server:
        print(json.dumps({"node": node.url, "server": server.url}), flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(_noted), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
