"""Clients of one inbox, their wallet, and what a node knows of them."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from network.faulty_node import FaultyNode, Script
from support.node_client import identity_api, mls_api
from xmtp_history import Client, EoaSigner, LocalNode
from xmtp_history.client import SyncGroupMessage
from xmtp_history.network import NodeApi

KEY = bytes(range(32))
IDENTITY = "/xmtp.identity.api.v1.IdentityApi/"
MLS = "/xmtp.mls.api.v1.MlsApi/"


class Wallet:
    """A signer that notes what it was asked to sign."""

    def __init__(self, signer: EoaSigner | None = None) -> None:
        self.signer = signer or EoaSigner.create()
        self.signed: list[str] = []

    @property
    def address(self) -> str:
        return self.signer.address

    async def get_identifier(self) -> Any:
        return await self.signer.get_identifier()

    async def sign_message(self, message: str) -> bytes:
        self.signed.append(message)
        return await self.signer.sign_message(message)


#: How preference updates begin: field 4 of a DeviceSyncContent.
PREFERENCES = b"\x22"
#: No worker in the background, so that only what a test calls happens.
QUIET: dict[str, Any] = {"sync_interval": None}


async def create(url: str, wallet: Any, path: str | os.PathLike[str] | None = None, **options: Any) -> Client:
    """Opens a client with the tests' key."""
    options = QUIET | {"db_path": path, "db_encryption_key": None if path is None else KEY} | options
    return await Client.create(wallet, env="local", api_url=url, **options)


async def build(url: str, path: str | os.PathLike[str], **options: Any) -> Client:
    """Opens a client without a wallet."""
    options = QUIET | {"db_encryption_key": KEY} | options
    return await Client.build(env="local", api_url=url, db_path=path, **options)


async def said(client: Client, group_id: str | None = None) -> list[bytes]:
    """What was said, as contents, in the node's order."""
    return [message.content for message in await all_messages(client, group_id)]


async def all_messages(client: Client, group_id: str | None = None) -> list[SyncGroupMessage]:
    """What tests have said in the inbox's sync groups. Clients themselves say preferences, such as new keys of HMACs."""
    messages = await client.sync_group_messages(group_id)
    return [message for message in messages if not message.content.startswith(PREFERENCES)]


async def sync_groups(client: Client) -> list[str]:
    """The sync groups, the first first."""
    return [group.id for group in await client.groups() if group.is_sync_group]


async def log_of(node: LocalNode | FaultyNode, inbox_id: str) -> list[Any]:
    """An inbox's log at a node."""
    async with NodeApi(node.url) as api:
        (answer,) = await api.get_identity_updates([(inbox_id, 0)])
    return list(identity_api.GetIdentityUpdatesResponse.FromString(answer).responses[0].updates)


async def additions(node: LocalNode | FaultyNode, inbox_id: str) -> list[str]:
    """The installations that an inbox's log adds, in its order."""
    actions = [action for entry in await log_of(node, inbox_id) for action in entry.update.actions]
    added = [action.add.new_member_identifier for action in actions if action.HasField("add")]
    return [member.installation_public_key.hex() for member in added if member.installation_public_key]


async def key_package(node: LocalNode | FaultyNode, installation_id: str) -> bytes:
    """An installation's key package at a node; empty if there is none."""
    async with NodeApi(node.url) as api:
        answer = await api.fetch_key_packages([bytes.fromhex(installation_id)])
    (package,) = mls_api.FetchKeyPackagesResponse.FromString(answer).key_packages
    return bytes(package.key_package_tls_serialized)


async def group_messages(node: LocalNode | FaultyNode, group_id: str) -> list[bytes]:
    """The payloads that a node has of a group."""
    async with NodeApi(node.url) as api:
        answer = await api.query_group_messages(bytes.fromhex(group_id), 0)
    return [message.v1.data for message in mls_api.QueryGroupMessagesResponse.FromString(answer).messages]


async def welcomes(node: LocalNode | FaultyNode, installation_id: str) -> list[Any]:
    """The welcomes that a node has of an installation."""
    async with NodeApi(node.url) as api:
        answer = await api.query_welcome_messages(bytes.fromhex(installation_id), 0)
    return list(mls_api.QueryWelcomeMessagesResponse.FromString(answer).messages)


def path_of(method: str) -> str:
    """The whole name of a method."""
    identity = {"GetIdentityUpdates", "GetInboxIds", "PublishIdentityUpdate", "VerifySmartContractWalletSignatures"}
    return (IDENTITY if method in identity else MLS) + method


def rewritten(node: FaultyNode, method: str, change: Any) -> Script:
    """The answer of the node behind, changed."""

    async def answer(request: bytes, context: Any) -> bytes:
        return bytes(change(await node.forward(path_of(method), request, context)))

    return answer


def handed_on(node: FaultyNode, method: str) -> Script:
    """The answer of the node behind."""
    return rewritten(node, method, lambda answer: answer)


def held(node: FaultyNode, method: str, arrived: asyncio.Event, *, after: bool) -> Script:
    """No answer; the node behind does its work, or does not."""

    async def answer(request: bytes, context: Any) -> bytes:
        if after:
            await node.forward(path_of(method), request, context)
        arrived.set()
        await asyncio.Event().wait()
        return b""

    return answer
