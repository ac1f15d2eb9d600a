"""A real libxmtp installation in a process of its own: ``python -m interop.real``.

The library may hang or abort on archives, its own included, so it never runs in the tests' process. What is said to the
process and what it answers is in interop.lines: who it is is the node, the database file, the account's private key; the
steps are the public methods of :class:`Installation`.
"""

from __future__ import annotations

import asyncio

from interop import lines
from interop.database import Database
from interop.real_base import identifier, sign, x
from interop.real_devices import DeviceSteps
from interop.real_identity import IdentitySteps
from interop.real_messages import MessageSteps


class Installation(IdentitySteps, MessageSteps, DeviceSteps):
    """One installation; every public method is a step."""

    @classmethod
    async def create(cls, node: str, db: str, account_key: str, *, device_sync: bool) -> Installation:
        """Opens the database, registering the installation where that has not been done."""
        private_key = bytes.fromhex(account_key)
        api = await x.connect_to_backend(node, None, False, None, "tests", None, None)
        who = identifier(private_key)
        inbox = await x.get_inbox_id_for_identifier(api, who) or x.generate_inbox_id(who, 1)
        # Not encrypted: some of what is to be checked is only in there.
        options = x.DbOptions(db=db, encryption_key=None, max_db_pool_size=None, min_db_pool_size=None)
        sync = x.FfiDeviceSyncMode.ENABLED if device_sync else x.FfiDeviceSyncMode.DISABLED
        client = await x.create_client(api, api, options, inbox, who, 1, None, sync, False, None)
        request = client.signature_request()
        if request is not None:
            await sign(request, private_key)
            await client.register_identity(request)
        return cls(api, client, private_key, Database(db))


if __name__ == "__main__":
    asyncio.run(lines.serve(Installation.create, x.FfiError))
