"""The process of an installation that gives or gets a history.

``history_sync_child.py SUBJECT NODE SERVER DATABASE ACCOUNT`` registers unless the database has it registered, says
that, and then answers the requests on standard input, each a line of JSON, until it ends. Times are on the clock that
all processes of a machine share. With ``quiet`` as a last argument there is no worker in the background: such a
process only gets an archive to begin with.

This library's clients are as an application has them that opens them and waits. libxmtp has to be told to fetch; so
what it is driven by is what an application would do that is in a hurry: ``sync_all_device_sync_groups`` again and
again.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import sys
import time
from typing import IO, Any

_KEY = bytes(range(32))
#: Between two looks for what others have sent: libxmtp stops at 5,000 requests a minute, and one look is several.
_PAUSE_SECONDS = 0.05
#: Between two looks for the last message in the database.
_LOOK_SECONDS = 0.02
_TIMEOUT_SECONDS = 600.0


class Library:
    """This library."""

    def __init__(self, client: Any) -> None:
        self._client = client

    @classmethod
    async def create(cls, node: str, server: str, database: str, account: str, *, works: bool) -> Library:
        """Opens or registers an installation, which asks for nothing by itself."""
        from xmtp_history import Client, EoaSigner

        client = await Client.create(
            EoaSigner.from_key(account),
            env="local",
            api_url=node,
            history_sync_url=server,
            db_path=database,
            db_encryption_key=_KEY,
            disable_device_sync=not works,
            auto_history_sync=False,
        )
        return cls(client)

    async def load(self, path: str, key: str) -> None:
        """Imports an archive from a file."""
        await self._client.import_archive(path, bytes.fromhex(key))

    async def ask(self, _last: str) -> None:
        """Asks for the history and waits until it is there."""
        await self._client.sync_history(timeout=_TIMEOUT_SECONDS)

    async def count(self) -> int:
        """How many messages there are."""
        return int(self._client.history.counts().messages)

    async def close(self) -> None:
        """Closes the client."""
        await self._client.aclose()


class Libxmtp:
    """The real one."""

    def __init__(self, client: Any, server: str) -> None:
        self._client = client
        self._server = server
        self._fetching: asyncio.Task[None] | None = None

    @classmethod
    async def create(cls, node: str, server: str, database: str, account: str, *, works: bool) -> Libxmtp:
        """Opens or registers an installation."""
        from xmtp_bindings import xmtpv3 as x

        key = bytes.fromhex(account)
        address = x.ethereum_address_from_pubkey(x.ethereum_generate_public_key(key)).lower()
        owner = x.FfiIdentifier(identifier=address, identifier_kind=x.FfiIdentifierKind.ETHEREUM)
        api = await x.connect_to_backend(node, None, False, None, "xmtp-history-benches/1", None, None)
        options = x.DbOptions(db=database, encryption_key=_KEY, max_db_pool_size=None, min_db_pool_size=None)
        inbox_id = await x.get_inbox_id_for_identifier(api, owner) or x.generate_inbox_id(owner, 1)
        mode = x.FfiDeviceSyncMode.ENABLED if works else x.FfiDeviceSyncMode.DISABLED
        client = await x.create_client(api, api, options, inbox_id, owner, 1, None, mode, False, None)
        request = client.signature_request()
        if request is not None:
            digest = x.ethereum_hash_personal(await request.signature_text())
            await request.add_ecdsa_signature(x.ethereum_sign_recoverable(digest, key, False))
            await client.register_identity(request)
        return cls(client, server)

    async def load(self, path: str, key: str) -> None:
        """Imports an archive from a file."""
        await self._client.import_archive(path, bytes.fromhex(key))

    async def fetch(self) -> None:
        """Begins to fetch what the inbox's other installations send, without an end."""
        self._fetching = asyncio.create_task(self._fetch())

    async def _fetch(self) -> None:
        while True:
            await self._client.sync_all_device_sync_groups()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def ask(self, last: str) -> None:
        """Asks for the history and waits until a message is there, the last one of the archive."""
        from xmtp_bindings import xmtpv3 as x

        elements = [x.FfiBackupElementSelection.MESSAGES, x.FfiBackupElementSelection.CONSENT]
        whole = x.FfiArchiveOptions(start_ns=None, end_ns=None, exclude_disappearing_messages=False, elements=elements)
        await self._client.send_sync_request(whole, self._server)
        message_id = bytes.fromhex(last)
        while True:
            try:
                self._client.message(message_id)
            except x.FfiError:
                await asyncio.sleep(_LOOK_SECONDS)
            else:
                break

    async def count(self) -> int:
        """How many messages there are."""
        from xmtp_bindings import xmtpv3 as x

        everything = x.FfiListConversationsOptions(
            **dict.fromkeys(("created_after_ns", "created_before_ns", "last_activity_before_ns")),
            **dict.fromkeys(("last_activity_after_ns", "order_by", "limit", "consent_states")),
            include_duplicate_dms=True,
        )
        texts = x.FfiListMessagesOptions(
            **dict.fromkeys(("sent_before_ns", "sent_after_ns", "limit", "delivery_status", "direction")),
            **dict.fromkeys(("exclude_content_types", "exclude_sender_inbox_ids", "sort_by")),
            **dict.fromkeys(("inserted_after_ns", "inserted_before_ns")),
            content_types=[x.FfiContentType.TEXT],
        )
        listed = self._client.conversations().list(everything)
        return sum(int(item.conversation().count_messages(texts)) for item in listed)

    async def close(self) -> None:
        """Ends what is going on."""
        if self._fetching is not None:
            self._fetching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._fetching


async def _serve(subject: str, arguments: list[str], answers: IO[str]) -> None:
    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    works = "quiet" not in arguments
    kind = Library if subject == "library" else Libxmtp
    try:
        who = await kind.create(*arguments[:4], works=works)
        say({})
        while line := await asyncio.to_thread(sys.stdin.readline):
            name, *given = json.loads(line)
            gc.collect()
            began = time.monotonic()
            value = await getattr(who, name)(*given)
            say({"value": value, "began": began, "ended": time.monotonic()})
        await who.close()
    except Exception as error:  # noqa: BLE001 whatever it is, it is the answer
        say({"error": f"{type(error).__name__}: {error}"[:300]})


if __name__ == "__main__":
    # The reference may print: keep the real standard output for the answers alone.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        asyncio.run(_serve(sys.argv[1], sys.argv[2:], answers))
    # Some threads do not end by themselves.
    os._exit(0)
