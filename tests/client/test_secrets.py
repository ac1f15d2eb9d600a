"""What must not be in logs and errors: keys, signatures, and what was said."""

from __future__ import annotations

import asyncio
import logging
import traceback
from pathlib import Path
from typing import Any

import grpc
import pytest

from client.clients import KEY, Wallet, build, create, rewritten
from network.faulty_node import FaultyNode, fail
from xmtp_history import EoaSigner, LocalNode

WALLET_KEY = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
SECRET = b"what nobody else may read"
METHODS = [
    "GetInboxIds",
    "GetIdentityUpdates",
    "UploadKeyPackage",
    "PublishIdentityUpdate",
    "QueryWelcomeMessages",
    "GetNewestGroupMessage",
    "FetchKeyPackages",
    "SendGroupMessages",
    "QueryGroupMessages",
    "SendWelcomeMessages",
]


class Noting(Wallet):
    """A wallet that notes its signatures."""

    def __init__(self) -> None:
        super().__init__(EoaSigner.from_key(WALLET_KEY))
        self.signatures: list[bytes] = []

    async def sign_message(self, message: str) -> bytes:
        self.signatures.append(await super().sign_message(message))
        return self.signatures[-1]


def test_logs_and_errors_keep_secrets(tmp_path: Path, caplog: pytest.LogCaptureFixture, impatient: None) -> None:
    texts: list[str] = []
    wallet = Noting()

    async def attempt(work: Any) -> None:
        try:
            client = await work
        except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at
            texts.append("".join(traceback.format_exception(error)) + repr(error) + repr(vars(error)))
        else:
            if hasattr(client, "aclose"):
                await client.aclose()

    async def main() -> None:
        async with (
            LocalNode(port=0) as behind,
            FaultyNode(behind.url) as node,
            await create(behind.url, wallet, tmp_path / "a") as first,
        ):
            for method in METHODS:
                for script in (
                    fail(grpc.StatusCode.INVALID_ARGUMENT, "no"),
                    rewritten(node, method, lambda answer: answer[:-1] + b"\xff"),
                    rewritten(node, method, lambda answer: answer.replace(b"\x0a", b"\x12")),
                ):
                    path = tmp_path / method
                    node.answer(method, script)
                    await attempt(create(node.url, wallet, path))
                    node.script.clear()
                    async with await create(node.url, wallet, path) as second:
                        node.answer(method, script)
                        await attempt(second.send_sync_message(SECRET))
                        await attempt(second.sync_all_device_sync_groups())
                        texts.append(repr(await second.sync_group_messages()))
                        texts.append(f"{second!r} {await second.groups()} {await second.inbox_state(refresh=False)}")
                    node.script.clear()
                await first.revoke_all_other_installations()
                await attempt(build(node.url, tmp_path / method, db_encryption_key=bytes(31)))
                await attempt(create(node.url, wallet, tmp_path / method))
                await attempt(create(node.url, wallet, tmp_path / method, db_encryption_key="ab" + KEY.hex()))

    with caplog.at_level(logging.DEBUG):
        asyncio.run(main())
    secrets = {"wallet": bytes.fromhex(WALLET_KEY), "database": KEY, "content": SECRET}
    secrets |= {f"signature {number}": signature for number, signature in enumerate(wallet.signatures)}
    texts += [record.getMessage() + repr(record.args) + (record.exc_text or "") for record in caplog.records]
    assert len(texts) > 50
    everything = "\n".join(texts)
    for name, secret in secrets.items():
        for form in (secret.hex(), secret.hex().upper(), repr(secret)[2:-1], repr(list(secret))[1:-1]):
            assert form not in everything, name
    assert SECRET.decode() not in everything
