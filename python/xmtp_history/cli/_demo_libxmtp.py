"""The real library in the demo, as the old installation: ``python -m xmtp_history.cli._demo_libxmtp``.

It runs in a process of its own, because it may end its process. Standard input has one line of JSON: where node, database
and archive are, and the keys. Standard output has a line once the archive is imported; then it syncs until its input ends,
as an application does that is open. Further lines of input name inboxes that are to be blocked.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

os.environ.setdefault("RUST_LOG", "off")

#: It lets through 5,000 requests a minute, and hangs when there are more.
_PAUSE_SECONDS = 0.05
_NONCE = 1


async def _open(node: str, db: str, wallet_key: str, **_others: str) -> Any:
    from xmtp_bindings import xmtpv3 as x

    key = bytes.fromhex(wallet_key)
    api = await x.connect_to_backend(node, None, False, None, "xmtp-history", None, None)  # noqa: FBT003
    address = x.ethereum_address_from_pubkey(x.ethereum_generate_public_key(key)).lower()
    who = x.FfiIdentifier(identifier=address, identifier_kind=x.FfiIdentifierKind.ETHEREUM)
    inbox = await x.get_inbox_id_for_identifier(api, who) or x.generate_inbox_id(who, _NONCE)
    options = x.DbOptions(db=db, encryption_key=None, max_db_pool_size=None, min_db_pool_size=None)
    sync = x.FfiDeviceSyncMode.ENABLED
    client = await x.create_client(api, api, options, inbox, who, _NONCE, None, sync, False, None)  # noqa: FBT003
    request = client.signature_request()
    if request is not None:
        digest = x.ethereum_hash_personal(await request.signature_text())
        await request.add_ecdsa_signature(x.ethereum_sign_recoverable(digest, key, False))  # noqa: FBT003
        await client.register_identity(request)
    return client


async def _consent(client: Any, inbox_id: str) -> None:
    from xmtp_bindings import xmtpv3 as x

    record = x.FfiConsent(entity_type=x.FfiConsentEntityType.INBOX_ID, state=x.FfiConsentState.DENIED, entity=inbox_id)
    await client.set_consent_states([record])


async def _main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())
    client = await _open(**request)
    await client.import_archive(request["archive"], bytes.fromhex(request["archive_key"]))
    print(json.dumps({"installation_id": client.installation_id().hex()}), file=answers)
    following = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
    while True:
        await client.sync_all_device_sync_groups()
        done, _ = await asyncio.wait([following], timeout=_PAUSE_SECONDS)
        if done:
            line = following.result()
            if not line:
                # Some of its threads do not end by themselves.
                os._exit(0)
            await _consent(client, json.loads(line))
            following = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))


if __name__ == "__main__":
    asyncio.run(_main())
