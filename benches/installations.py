"""What an installation does, measured in ``installation.rs``; and installations that follow a group on a node.

Both run in processes of their own. What the peers of a group say is made by ``installation.rs``, which has real MLS
members; here it goes to the node.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import native_limits
from lines import Child, Unavailable

_DEADLINE_S = 600.0
_PROGRAM = Path(__file__).with_name("follower_child.py")
_ids = itertools.count(time.time_ns())


@dataclass(frozen=True, slots=True)
class Figure:
    """What a task took, over how much, what all cores worked meanwhile, and the most memory of the process so far."""

    seconds: float
    count: int
    right: bool
    processor: float
    peak: int


class Native:
    """The program; its inputs stay in the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._program = native_limits.build("installation")
        self._child = self._start()
        self._peers: dict[str, list[tuple[str, int]]] = {}

    def _start(self) -> Child:
        return Child([str(self._program), str(self._folder), "-"], self._folder)

    def close(self) -> None:
        """Ends the program."""
        self._child.close()

    def figure(self, task: str) -> Figure:
        """Does a task."""
        return _figure(self._child, task)

    def alone(self, task: str) -> Figure:
        """Does a task in a new process, for which the inputs are there already."""
        self.figure(task)
        with closing(self._start()) as child:
            return _figure(child, task)

    def crowded(self) -> tuple[Path, bytes]:
        """A database with an installation in many groups, and its key."""
        self.figure("open")
        return self._folder / "installation-groups.db", bytes([7]) * 32

    def _ask(self, **request: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._child.ask(json.dumps(request), _DEADLINE_S))
        return answer

    def invite(self, node: str, follower: Follower, members: int) -> str:
        """Has a group of so many members made on a node, one of them the follower; returns its id."""
        return asyncio.run(self._invite(node, follower, members))

    async def _invite(self, node: str, follower: Follower, members: int) -> str:
        from xmtp_history._proto.mls_api_pb2 import FetchKeyPackagesResponse
        from xmtp_history.network import NodeApi

        async with NodeApi(node) as api:
            known = self._peers.setdefault(node, [])
            if len(known) < members - 1:
                peers = self._ask(do="peers", count=members - 1)
                for update in peers["updates"][len(known) :]:
                    await api.publish_identity_update(bytes.fromhex(update))
                new = peers["inbox_ids"][len(known) :]
                known += zip(new, await _sequence_ids(api, new), strict=True)
            (sequence_id,) = await _sequence_ids(api, [follower.inbox_id])
            answer = await api.fetch_key_packages([bytes.fromhex(follower.installation_id)])
            (package,) = FetchKeyPackagesResponse.FromString(answer).key_packages
            guest = {
                "inbox_id": follower.inbox_id,
                "sequence_id": sequence_id,
                "key_package": package.key_package_tls_serialized.hex(),
            }
            sequence_ids = [number for _, number in known[: members - 1]]
            made = self._ask(do="invite", id=next(_ids), sequence_ids=sequence_ids, guests=[guest])
            await api.send_welcome_messages(bytes.fromhex(made["welcomes"]))
            return str(made["group_id"])

    def say(self, node: str, count: int) -> None:
        """Has so many messages said in the group that was made last."""
        said = Path(self._ask(do="say", count=count)["file"])
        asyncio.run(_send(node, said.read_bytes()))
        said.unlink()


class Follower:
    """An installation on a node, in a process of its own; close it when done."""

    def __init__(self, subject: str, node: str, database: Path) -> None:
        command = [sys.executable, str(_PROGRAM), subject, node, str(database)]
        self._child = Child(command, database.parent, {"RUST_LOG": "off"})
        who = self._answer(self._child.line(_DEADLINE_S))
        self.inbox_id: str = who["inbox_id"]
        self.installation_id: str = who["installation_id"]

    def close(self) -> None:
        """Ends the process."""
        self._child.close()

    def _answer(self, line: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            self.close()
            raise Unavailable(answer["error"])
        return answer

    def join(self) -> tuple[float, int]:
        """Fetches welcomes; the time of it, and how many groups there are."""
        answer = self._answer(self._child.ask(json.dumps(["join"]), _DEADLINE_S))
        return answer["seconds"], answer["count"]

    def sync(self, group_id: str) -> tuple[float, int, int]:
        """Fetches the messages of a group; the time of it, how many there are, and the most memory of the process."""
        answer = self._answer(self._child.ask(json.dumps(["sync", group_id]), _DEADLINE_S))
        return answer["seconds"], answer["count"], answer["peak"]


def build_seconds(database: Path, key: bytes) -> tuple[float, int]:
    """The time of ``Client.build`` and of listing the groups, in a new process that has imported everything; how many."""
    with closing(Child([sys.executable, str(_PROGRAM), "build", key.hex(), str(database)], database.parent)) as child:
        answer = json.loads(child.line(_DEADLINE_S))
    return answer["seconds"], answer["count"]


def _figure(child: Child, task: str) -> Figure:
    answer = json.loads(child.ask(task, _DEADLINE_S))
    return Figure(**{name: answer[name] for name in Figure.__slots__})


async def _send(node: str, requests: bytes) -> None:
    from xmtp_history.network import NodeApi

    async with NodeApi(node) as api:
        start = 0
        while start < len(requests):
            end = start + 4 + int.from_bytes(requests[start : start + 4], "little")
            await api.send_group_messages(requests[start + 4 : end])
            start = end


async def _sequence_ids(api: Any, inbox_ids: list[str]) -> list[int]:
    from xmtp_history._proto.identity_api_pb2 import GetIdentityUpdatesResponse

    found: dict[str, int] = {}
    for answer in await api.get_identity_updates([(inbox_id, 0) for inbox_id in inbox_ids]):
        for response in GetIdentityUpdatesResponse.FromString(answer).responses:
            found[response.inbox_id] = response.updates[-1].sequence_id
    return [found[inbox_id] for inbox_id in inbox_ids]
