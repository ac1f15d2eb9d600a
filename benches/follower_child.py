"""The process of an installation that follows a group: ``follower_child.py SUBJECT NODE DATABASE``.

Registers, says who it is, and then answers the requests on standard input, each a line of JSON, until it ends. Only the
calls themselves are timed: fetching, decrypting and storing, with the data on the disk. With ``build KEY DATABASE`` it
times opening an installation that is there, says that and ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import time
from pathlib import Path
from typing import IO, Any

KEY = bytes(range(32))


def _peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


class Library:
    """This library."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.inbox_id, self.installation_id = client.inbox_id, client.installation_id

    @classmethod
    async def create(cls, node: str, database: str) -> Library:
        """Registers a new account."""
        from xmtp_history import Client, EoaSigner

        options = {"db_path": database, "db_encryption_key": KEY, "disable_device_sync": True}
        return cls(await Client.create(EoaSigner.create(), env="local", api_url=node, **options))

    async def join(self) -> None:
        """Fetches welcomes."""
        await self._client.conversations.sync()

    async def sync(self, group_id: str) -> None:
        """Fetches messages."""
        await self._client.conversations.sync_all([group_id])

    async def groups(self) -> int:
        """How many groups it is in."""
        return len(await self._client.groups())

    async def messages(self, group_id: str) -> int:
        """How many texts it has."""
        return sum(message.kind.name == "APPLICATION" for message in self._client.history.messages(group_id))


class Libxmtp:
    """The real one."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.inbox_id, self.installation_id = client.inbox_id(), client.installation_id().hex()

    @classmethod
    async def create(cls, node: str, database: str) -> Libxmtp:
        """Registers a new account."""
        from xmtp_bindings import xmtpv3 as x

        key = secrets.token_bytes(32)
        address = x.ethereum_address_from_pubkey(x.ethereum_generate_public_key(key)).lower()
        owner = x.FfiIdentifier(identifier=address, identifier_kind=x.FfiIdentifierKind.ETHEREUM)
        api = await x.connect_to_backend(node, None, False, None, "xmtp-history-benches/1", None, None)
        options = x.DbOptions(db=database, encryption_key=KEY, max_db_pool_size=None, min_db_pool_size=None)
        inbox_id, off = x.generate_inbox_id(owner, 1), x.FfiDeviceSyncMode.DISABLED
        client = await x.create_client(api, api, options, inbox_id, owner, 1, None, off, False, None)
        request = client.signature_request()
        digest = x.ethereum_hash_personal(await request.signature_text())
        await request.add_ecdsa_signature(x.ethereum_sign_recoverable(digest, key, False))
        await client.register_identity(request)
        return cls(client)

    async def join(self) -> None:
        """Fetches welcomes."""
        await self._client.conversations().sync()

    async def sync(self, group_id: str) -> None:
        """Fetches messages."""
        await self._client.conversation(bytes.fromhex(group_id)).sync()

    async def groups(self) -> int:
        """How many groups it is in."""
        from xmtp_bindings import xmtpv3 as x

        everything = x.FfiListConversationsOptions(
            **dict.fromkeys(("created_after_ns", "created_before_ns", "last_activity_before_ns")),
            **dict.fromkeys(("last_activity_after_ns", "order_by", "limit", "consent_states")),
            include_duplicate_dms=True,
        )
        return len(self._client.conversations().list(everything))

    async def messages(self, group_id: str) -> int:
        """How many texts it has."""
        from xmtp_bindings import xmtpv3 as x

        texts = x.FfiListMessagesOptions(
            **dict.fromkeys(("sent_before_ns", "sent_after_ns", "limit", "delivery_status", "direction")),
            **dict.fromkeys(("exclude_content_types", "exclude_sender_inbox_ids", "sort_by")),
            **dict.fromkeys(("inserted_after_ns", "inserted_before_ns")),
            content_types=[x.FfiContentType.TEXT],
        )
        return int(self._client.conversation(bytes.fromhex(group_id)).count_messages(texts))


async def _serve(subject: str, node: str, database: str, answers: IO[str]) -> None:
    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    try:
        who = await (Library if subject == "library" else Libxmtp).create(node, database)
        say({"inbox_id": who.inbox_id, "installation_id": who.installation_id})
        while line := await asyncio.to_thread(sys.stdin.readline):
            name, *arguments = json.loads(line)
            started = time.perf_counter()
            await getattr(who, name)(*arguments)
            seconds, peak = time.perf_counter() - started, _peak_bytes()
            count = await (who.messages(*arguments) if name == "sync" else who.groups())
            say({"seconds": seconds, "count": count, "peak": peak})
    except Exception as error:  # noqa: BLE001 whatever it is, it is the answer
        say({"error": f"{type(error).__name__}: {error}"[:300]})


async def _build(key: str, database: str, answers: IO[str]) -> None:
    from xmtp_history import Client

    started = time.perf_counter()
    # The address is not used: the node is not asked.
    options = {"env": "local", "api_url": "http://127.0.0.1:9", "db_path": database}
    client = await Client.build(db_encryption_key=bytes.fromhex(key), **options)
    count = len(await client.groups())
    print(json.dumps({"seconds": time.perf_counter() - started, "count": count}), file=answers, flush=True)
    await client.aclose()


if __name__ == "__main__":
    # The reference may print: keep the real standard output for the answers alone.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        if sys.argv[1] == "build":
            asyncio.run(_build(*sys.argv[2:], answers))
        else:
            asyncio.run(_serve(*sys.argv[1:], answers))
    os._exit(0)
