"""Becoming an installation of an inbox, coming back, and being revoked."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from eth_account.messages import encode_defunct

from client.clients import KEY, Wallet, additions, build, create, key_package, log_of, said, sync_groups
from network.faulty_node import FaultyNode
from network.requests import publication
from support import child
from support.node_client import assoc, mls_api, quiet_port
from xmtp_history import (
    EoaSigner,
    IdentityError,
    InstallationInUse,
    LocalNode,
    NetworkError,
    NotRegistered,
    StoreKeyError,
    TooManyInstallations,
)
from xmtp_history.network import NodeApi

# --- registering ------------------------------------------------------------------------------------------------------


def test_a_new_inbox_and_a_second_installation(tmp_path: Path) -> None:
    async def main() -> None:
        wallet = Wallet()
        async with LocalNode(port=0) as node, await create(node.url, wallet, tmp_path / "a") as first:
            assert len(wallet.signed) == 1
            assert "- Create inbox" in wallet.signed[0]
            assert first.installation_id in wallet.signed[0]
            assert await first.get_inbox_id(wallet.address) == first.inbox_id
            async with await create(node.url, wallet, tmp_path / "b") as second:
                assert len(wallet.signed) == 2
                assert "- Create inbox" not in wallet.signed[1]
                assert second.inbox_id == first.inbox_id
                assert second.installation_id != first.installation_id
                installed = [first.installation_id, second.installation_id]
                assert await additions(node, first.inbox_id) == installed
                for client in (first, second):
                    state = await client.inbox_state()
                    assert [info.id for info in state.installations] == installed
                    assert (state.identifiers, state.recovery_identifier) == ((wallet.address,), wallet.address)
                    assert await key_package(node, client.installation_id)

    asyncio.run(main())


def test_the_key_package_goes_first() -> None:
    async def main() -> None:
        async with LocalNode(port=0) as behind, FaultyNode(behind.url) as node:
            async with await create(node.url, Wallet(), disable_device_sync=True):
                methods = [call.method for call in node.calls]
            assert methods == [
                "GetInboxIds",
                "GetIdentityUpdates",
                "UploadKeyPackage",
                "PublishIdentityUpdate",
                "GetIdentityUpdates",
            ]

    asyncio.run(main())


def test_nonces_make_other_inboxes() -> None:
    async def main() -> None:
        wallet = EoaSigner.create()
        async with (
            LocalNode(port=0) as node,
            await create(node.url, wallet, nonce=7) as first,
            await create(node.url, wallet) as second,
        ):
            # The inbox is looked up, so that the nonce does not matter any more.
            assert second.inbox_id == first.inbox_id

    asyncio.run(main())


def test_reopening_asks_for_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        wallet = Wallet()
        async with LocalNode(port=0) as behind, FaultyNode(behind.url) as node:
            async with await create(node.url, wallet, tmp_path / "a") as client:
                ids, groups = (client.inbox_id, client.installation_id), await client.groups()
            node.calls.clear()
            for _ in range(3):
                async with await create(node.url, wallet, tmp_path / "a") as client:
                    assert (client.inbox_id, client.installation_id) == ids
                    assert await client.groups() == groups
            async with await build(node.url, tmp_path / "a") as client:
                assert (client.inbox_id, client.installation_id) == ids
                await client.sync_all_device_sync_groups()
            assert len(wallet.signed) == 1
            methods = {call.method for call in node.calls}
            assert not methods & {"PublishIdentityUpdate", "UploadKeyPackage", "SendGroupMessages"}
            assert len(await log_of(behind, ids[0])) == 1

    asyncio.run(main())


def test_reopening_without_the_node(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{quiet_port()}"

    async def main() -> None:
        wallet = Wallet()
        async with LocalNode(port=0) as node, await create(node.url, wallet, tmp_path / "a") as client:
            ids = client.inbox_id, client.installation_id
            await client.send_sync_message(b"said before")
        for opening in (create(url, wallet, tmp_path / "a"), build(url, tmp_path / "a")):
            async with await opening as client:
                assert (client.inbox_id, client.installation_id) == ids
                assert await said(client) == [b"said before"]
                assert (await client.inbox_state(refresh=False)).inbox_id == ids[0]
                with pytest.raises(NetworkError):
                    await client.sync_all_device_sync_groups()
                with pytest.raises(NetworkError):
                    await client.inbox_state()
        assert len(wallet.signed) == 1

    asyncio.run(main())


def test_without_the_node_there_is_no_new_installation(tmp_path: Path) -> None:
    port = quiet_port()
    url = f"http://127.0.0.1:{port}"

    async def main() -> None:
        wallet = Wallet()
        for _ in range(2):
            with pytest.raises(NetworkError, match="UNAVAILABLE"):
                await create(url, wallet, tmp_path / "a")
        assert wallet.signed == []
        with pytest.raises(NotRegistered):
            await build(url, tmp_path / "a")
        async with LocalNode(port=port) as node, await create(url, wallet, tmp_path / "a") as client:
            assert await additions(node, client.inbox_id) == [client.installation_id]
            assert len(wallet.signed) == 1

    asyncio.run(main())


def test_what_cannot_be_done_without_a_wallet(tmp_path: Path) -> None:
    async def main() -> None:
        async with LocalNode(port=0) as node:
            with pytest.raises(NotRegistered):
                await build(node.url, tmp_path / "a")
            wallet = Wallet()
            async with await create(node.url, wallet, tmp_path / "a"):
                pass
            async with await build(node.url, tmp_path / "a") as client, await create(node.url, wallet) as other:
                with pytest.raises(IdentityError, match=r"Client\.create"):
                    await client.revoke_installations([other.installation_id])
                await client.rotate_key_package()
                await client.send_sync_message(b"this can")
                await other.sync_all_device_sync_groups()
                assert b"this can" in await said(other)

    asyncio.run(main())


# --- databases --------------------------------------------------------------------------------------------------------


def test_keys_of_databases(tmp_path: Path) -> None:
    async def main() -> None:
        wallet = EoaSigner.create()
        async with LocalNode(port=0) as node:
            async with await create(node.url, wallet, tmp_path / "a", db_encryption_key=KEY.hex()) as client:
                installation_id = client.installation_id
            for key in ("0x" + KEY.hex(), KEY.hex().upper(), KEY, bytearray(KEY), memoryview(KEY)):
                async with await create(node.url, wallet, tmp_path / "a", db_encryption_key=key) as client:
                    assert client.installation_id == installation_id
            for wrong in (bytes(32), "00" * 32):
                with pytest.raises(StoreKeyError):
                    await create(node.url, wallet, tmp_path / "a", db_encryption_key=wrong)
                with pytest.raises(StoreKeyError):
                    await build(node.url, tmp_path / "a", db_encryption_key=wrong)
            for short in (bytes(31), "00" * 31, b"", "", "no key, but a secret", None):
                with pytest.raises(ValueError) as caught:
                    await create(node.url, wallet, tmp_path / "b", db_encryption_key=short)
                assert "secret" not in str(caught.value)
            with pytest.raises(TypeError):
                await create(node.url, wallet, tmp_path / "b", db_encryption_key=7)
            async with await create(node.url, wallet, tmp_path / "a") as client:
                assert client.installation_id == installation_id

    asyncio.run(main())


def test_a_database_of_another_inbox(tmp_path: Path) -> None:
    async def main() -> None:
        owner, stranger = Wallet(), Wallet()
        async with LocalNode(port=0) as node:
            async with await create(node.url, owner, tmp_path / "a"):
                pass
            async with await create(node.url, stranger, tmp_path / "b"):
                pass
            for path in (tmp_path / "a", lambda _: tmp_path / "a"):
                with pytest.raises(ValueError, match="another inbox"):
                    await create(node.url, stranger, path, db_encryption_key=KEY)
            assert len(stranger.signed) == 1
            url = node.url
        with pytest.raises(ValueError, match="another inbox"):
            await create(url, stranger, tmp_path / "a")
        async with await create(url, owner, tmp_path / "a"), await build(url, tmp_path / "b"):
            pass

    asyncio.run(main())


def test_a_function_names_the_database(tmp_path: Path) -> None:
    async def main() -> None:
        wallet, asked = EoaSigner.create(), []

        def path(inbox_id: str) -> str:
            asked.append(inbox_id)
            return str(tmp_path / f"{inbox_id}.db3")

        async with LocalNode(port=0) as node:
            ids = set()
            for _ in range(2):
                async with await create(node.url, wallet, db_path=path, db_encryption_key=KEY) as client:
                    ids.add(client.installation_id)
            assert asked == [client.inbox_id] * 2
            assert len(ids) == 1
            assert (tmp_path / f"{client.inbox_id}.db3").exists()

    asyncio.run(main())


def test_a_temporary_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def left() -> list[Path]:
        return list(tmp_path.iterdir())

    async def main() -> None:
        wallet = EoaSigner.create()
        async with LocalNode(port=0) as node:
            async with await create(node.url, wallet) as first, await create(node.url, wallet) as second:
                assert first.installation_id != second.installation_id
                assert len(left()) == 2
            assert left() == []
        with pytest.raises(NetworkError):
            await create("http://127.0.0.1:1", wallet)
        assert left() == []

    asyncio.run(main())


# --- one at a time ----------------------------------------------------------------------------------------------------

_HOLDER = """
import asyncio, sys
from client.clients import build

async def main():
    async with await build("http://127.0.0.1:1", sys.argv[1]):
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


def test_one_client_at_a_time(tmp_path: Path) -> None:
    async def main() -> None:
        wallet = Wallet()
        async with LocalNode(port=0) as node:
            async with await create(node.url, wallet, tmp_path / "a") as client:
                for opening in (create(node.url, wallet, tmp_path / "a"), build(node.url, tmp_path / "a")):
                    with pytest.raises(InstallationInUse, match="only once at a time"):
                        await opening
                # The first one is not disturbed.
                await client.send_sync_message(b"still here")
            async with await create(node.url, wallet, tmp_path / "a") as client:
                assert await said(client) == [b"still here"]
            assert len(wallet.signed) == 1

    asyncio.run(main())


def test_one_process_at_a_time(tmp_path: Path) -> None:
    async def main() -> None:
        wallet = Wallet()
        async with LocalNode(port=0) as node:
            async with await create(node.url, wallet, tmp_path / "a"):
                pass
            for kill in (False, True):
                with child.start(_HOLDER, tmp_path / "a") as process:
                    assert process.stdout is not None
                    assert await asyncio.to_thread(process.stdout.readline) == "open\n"
                    with pytest.raises(InstallationInUse):
                        await create(node.url, wallet, tmp_path / "a")
                    if kill:
                        process.kill()
                        assert await asyncio.to_thread(process.wait) == -signal.SIGKILL
                    else:
                        await asyncio.to_thread(process.communicate, "\n")
                        assert process.returncode == 0
                async with await create(node.url, wallet, tmp_path / "a"):
                    pass
            assert len(wallet.signed) == 1

    asyncio.run(main())


def test_a_closed_client(tmp_path: Path) -> None:
    async def main() -> None:
        async with LocalNode(port=0) as node:
            client = await create(node.url, EoaSigner.create(), tmp_path / "a")
            await client.aclose()
            await client.aclose()
            for call in (
                client.sync_all_device_sync_groups,
                client.conversations.sync,
                client.conversations.sync_all,
                lambda: client.send_sync_message(b"x"),
                client.groups,
                client.sync_group_messages,
                lambda: client.inbox_state(refresh=False),
                client.rotate_key_package,
                lambda: client.get_inbox_id("0x" + "ab" * 20),
                lambda: client.revoke_installations(["ab" * 32]),
            ):
                with pytest.raises(RuntimeError, match="closed"):
                    await call()
            async with await build(node.url, tmp_path / "a"):
                pass

    asyncio.run(main())


# --- wallets ----------------------------------------------------------------------------------------------------------


class Sdk:
    """A signer as those of the package xmtp are: a type, and bytes."""

    type = "EOA"

    def __init__(self, signer: EoaSigner) -> None:
        self._signer = signer

    async def get_identifier(self) -> Any:
        return SimpleNamespace(kind=SimpleNamespace(name="ETHEREUM"), value=self._signer.address)

    async def sign_message(self, message: bytes) -> bytes:
        return await self._signer.sign_message(message)


class Plain:
    """The least that a wallet can be: no coroutines, hexadecimal digits, an address in capitals."""

    def __init__(self, signer: EoaSigner) -> None:
        self._account = signer._account

    def get_identifier(self) -> str:
        return "0x" + self._account.address[2:].upper()

    def sign_message(self, message: str) -> str:
        return str("0x" + self._account.sign_message(encode_defunct(text=message)).signature.hex())


@pytest.mark.parametrize("kind", [Sdk, Plain])
def test_wallets_of_others(kind: Any) -> None:
    async def main() -> None:
        signer = EoaSigner.create()
        async with (
            LocalNode(port=0) as node,
            await create(node.url, kind(signer)) as client,
            await create(node.url, signer) as other,
        ):
            assert client.inbox_id == other.inbox_id
            await client.revoke_installations([other.installation_id])

    asyncio.run(main())


@pytest.mark.parametrize("existing", [False, True])
def test_the_signature_of_another_wallet(tmp_path: Path, existing: bool) -> None:
    class Wrong(Wallet):
        other = EoaSigner.create()

        async def sign_message(self, message: str) -> bytes:
            return await self.other.sign_message(message)

    async def main() -> None:
        wallet = Wrong()
        async with LocalNode(port=0) as node:
            if existing:
                async with await create(node.url, wallet.signer) as client:
                    inbox_id = client.inbox_id
            with pytest.raises(IdentityError):
                await create(node.url, wallet, tmp_path / "a")
            if existing:
                assert len(await additions(node, inbox_id)) == 1
            # The same database goes on when the wallet is in order.
            async with await create(node.url, wallet.signer, tmp_path / "a") as client:
                assert len(await additions(node, client.inbox_id)) == 1 + existing

    asyncio.run(main())


@pytest.mark.parametrize("error", [ValueError("no"), KeyError("no"), TimeoutError(), asyncio.CancelledError()])
def test_a_wallet_that_refuses(tmp_path: Path, error: BaseException) -> None:
    class Refusing(Wallet):
        async def sign_message(self, message: str) -> bytes:
            raise error

    async def main() -> None:
        wallet = Refusing()
        async with LocalNode(port=0) as node:
            with pytest.raises(type(error)):
                await create(node.url, wallet, tmp_path / "a")
            async with await create(node.url, wallet.signer, tmp_path / "a") as client:
                assert await additions(node, client.inbox_id) == [client.installation_id]

    asyncio.run(main())


@pytest.mark.parametrize("signature", [b"", bytes(64), bytes(65), b"\xff" * 65, "zz", None])
def test_what_is_no_signature(tmp_path: Path, signature: Any) -> None:
    class Wrong(Wallet):
        async def sign_message(self, message: str) -> Any:
            return signature

    async def main() -> None:
        wallet = Wrong()
        async with LocalNode(port=0) as node:
            with pytest.raises((IdentityError, ValueError, TypeError)):
                await create(node.url, wallet, tmp_path / "a")
            async with await create(node.url, wallet.signer, tmp_path / "a") as client:
                assert len(await log_of(node, client.inbox_id)) == 1

    asyncio.run(main())


# --- how many there may be --------------------------------------------------------------------------------------------


def test_ten_installations_and_no_more(tmp_path: Path) -> None:
    async def main() -> None:
        wallet = Wallet()
        async with LocalNode(port=0) as behind, FaultyNode(behind.url) as node, AsyncExitStack() as stack:
            opening = [create(node.url, wallet, disable_device_sync=True) for _ in range(10)]
            clients = [await stack.enter_async_context(await client) for client in opening]
            ids = tuple(client.installation_id for client in clients)
            node.calls.clear()
            for _ in range(2):
                with pytest.raises(TooManyInstallations, match="10 installations") as caught:
                    await create(node.url, wallet, tmp_path / "a")
                assert caught.value.installation_ids == ids
            assert {call.method for call in node.calls} == {"GetInboxIds", "GetIdentityUpdates"}
            assert len(wallet.signed) == 10
            with pytest.raises(NotRegistered):
                await build(node.url, tmp_path / "a")
            # Those that there are come and go as before.
            await clients[3].revoke_installations(ids[:1])
            async with await create(node.url, wallet, tmp_path / "a") as client:
                state = await client.inbox_state()
                assert [info.id for info in state.installations] == [*ids[1:], client.installation_id]

    asyncio.run(main())


# --- revoking ---------------------------------------------------------------------------------------------------------


def test_a_revoked_installation(tmp_path: Path) -> None:
    async def main() -> None:
        wallet = Wallet()
        async with LocalNode(port=0) as node, await create(node.url, wallet) as first:
            async with await create(node.url, wallet, tmp_path / "b") as second:
                await second.send_sync_message(b"while it could")
                await first.revoke_installations([second.installation_id])
                signed = len(wallet.signed)
                for call in (
                    second.sync_all_device_sync_groups,
                    second.conversations.sync_all,
                    lambda: second.send_sync_message(b"not any more"),
                ):
                    with pytest.raises(NotRegistered, match="revoked"):
                        await call()
                state = await second.inbox_state()
                assert [info.id for info in state.installations] == [first.installation_id]
            with pytest.raises(NotRegistered, match="revoked"):
                await create(node.url, wallet, tmp_path / "b")
            # Without asking the node it can be opened, and its history read.
            async with await build(node.url, tmp_path / "b") as second:
                assert await said(second) == [b"while it could"]
                with pytest.raises(NotRegistered):
                    await second.sync_all_device_sync_groups()
            with pytest.raises(NotRegistered, match="revoked"):
                await create(node.url, wallet, tmp_path / "b")
            assert len(wallet.signed) == signed

    asyncio.run(main())


def test_revoking_all_others() -> None:
    async def main() -> None:
        wallet = Wallet()
        async with LocalNode(port=0) as node, AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(await create(node.url, wallet)) for _ in range(3)]
            first, second, third = clients
            assert await second.revoke_all_other_installations() == (first.installation_id, third.installation_id)
            assert await second.revoke_all_other_installations() == ()
            assert len(wallet.signed) == 4
            assert len(await log_of(node, first.inbox_id)) == 4
            for client in (first, third):
                with pytest.raises(NotRegistered):
                    await client.conversations.sync_all()
            await second.sync_all_device_sync_groups()
            group = await second.group((await sync_groups(second))[-1])
            assert group is not None
            assert group.members == ((second.inbox_id, second.installation_id),)

    asyncio.run(main())


def test_revoking_oneself(tmp_path: Path) -> None:
    async def main() -> None:
        wallet = Wallet()
        async with LocalNode(port=0) as node, await create(node.url, wallet) as client:
            await client.revoke_installations([client.installation_id])
            with pytest.raises(NotRegistered):
                await client.conversations.sync_all()

    asyncio.run(main())


def test_what_cannot_be_revoked() -> None:
    async def main() -> None:
        wallet, stranger = Wallet(), Wallet()
        async with (
            LocalNode(port=0) as node,
            await create(node.url, wallet) as client,
            await create(node.url, wallet) as other,
            await create(node.url, stranger) as strange,
        ):
            for ids in (
                [],
                [strange.installation_id],
                ["00" * 32],
                [other.installation_id, "ab" * 32],
                ["no id"],
                [""],
                [other.installation_id.upper()],
            ):
                with pytest.raises(ValueError):
                    await client.revoke_installations(ids)
            assert len(wallet.signed) == 2
            assert len((await client.inbox_state()).installations) == 2
            # Naming one twice is revoking it once.
            await client.revoke_installations([other.installation_id] * 2)
            assert len((await client.inbox_state()).installations) == 1

    asyncio.run(main())


def test_only_the_recovery_address_revokes(tmp_path: Path) -> None:
    async def main() -> None:
        wallet, linked = Wallet(), Wallet()
        async with LocalNode(port=0) as node, await create(node.url, wallet) as first:
            await link(node, first.inbox_id, wallet, linked)
            async with await create(node.url, linked, tmp_path / "b") as second:
                assert second.inbox_id == first.inbox_id
                state = await first.inbox_state()
                assert set(state.identifiers) == {wallet.address, linked.address}
                signed = len(linked.signed)
                with pytest.raises(IdentityError, match="recovery"):
                    await second.revoke_installations([first.installation_id])
                assert len(linked.signed) == signed
                await first.revoke_installations([second.installation_id])
            # Either wallet opens the installations of their inbox.
            async with await create(node.url, linked, tmp_path / "c"):
                pass
            async with await create(node.url, wallet, tmp_path / "c") as third:
                assert len((await third.inbox_state()).installations) == 2

    asyncio.run(main())


async def link(node: LocalNode, inbox_id: str, wallet: Wallet, other: Wallet) -> None:
    """Links another wallet to an inbox."""
    moment = time.time_ns()
    lines = [
        "XMTP : Authenticate to inbox",
        "",
        f"Inbox ID: {inbox_id}",
        f"Current time: {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(moment // 10**9))}",
        "",
        "- Link address to inbox",
        f"  (Address: {other.address})",
        "",
        "For more info: https://xmtp.org/signatures",
    ]
    existing, new = [
        assoc.Signature(erc_191=assoc.RecoverableEcdsaSignature(bytes=await signer.sign_message("\n".join(lines))))
        for signer in (wallet.signer, other.signer)
    ]
    added = assoc.AddAssociation(
        new_member_identifier=assoc.MemberIdentifier(ethereum_address=other.address),
        existing_member_signature=existing,
        new_member_signature=new,
    )
    update = assoc.IdentityUpdate(
        actions=[assoc.IdentityAction(add=added)], client_timestamp_ns=moment, inbox_id=inbox_id
    )
    async with NodeApi(node.url) as api:
        await api.publish_identity_update(publication(update))


# --- other inboxes ----------------------------------------------------------------------------------------------------


def test_looking_up_inboxes() -> None:
    async def main() -> None:
        wallet, other, nobody = EoaSigner.create(), EoaSigner.create(), EoaSigner.create()
        async with (
            LocalNode(port=0) as node,
            await create(node.url, wallet) as client,
            await create(node.url, other) as second,
        ):
            capitals = "0x" + other.address[2:].upper()
            wanted = [nobody.address, other.address, capitals, other.address]
            assert await client.can_message(wanted) == {nobody.address: False, other.address: True, capitals: True}
            assert await client.can_message([]) == {}
            assert await client.get_inbox_id(capitals) == second.inbox_id
            assert await client.get_inbox_id(nobody.address) is None
            unknown = "ab" * 32
            states = await client.inbox_states([unknown, second.inbox_id, client.inbox_id, second.inbox_id])
            assert [state and state.inbox_id for state in states] == [
                None,
                second.inbox_id,
                client.inbox_id,
                second.inbox_id,
            ]
            assert await client.inbox_states([]) == []
            assert await client.inbox_states([unknown], refresh=False) == [None]
            for wrong in ("", "0x", other.address[2:], "vitalik.eth"):
                with pytest.raises(ValueError):
                    await client.can_message([wrong])
                with pytest.raises(ValueError):
                    await client.get_inbox_id(wrong)
            for wrong in ("", "ab", "AB" * 32):
                for refresh in (True, False):
                    try:
                        states = await client.inbox_states([wrong], refresh=refresh)
                    except ValueError:
                        continue
                    assert states == [None]

    asyncio.run(main())


# --- key packages -----------------------------------------------------------------------------------------------------


def test_key_packages_are_replaced(tmp_path: Path) -> None:
    async def main() -> None:
        wallet = EoaSigner.create()
        async with LocalNode(port=0) as behind, FaultyNode(behind.url) as node:
            async with await create(node.url, wallet, tmp_path / "a") as first:
                packages = [await key_package(node, first.installation_id)]
                for _ in range(2):
                    await first.rotate_key_package()
                    packages.append(await key_package(node, first.installation_id))
                assert len(set(packages)) == 3
                assert all(packages)
                # One who has fetched the first one can still add us.
                old = mls_api.FetchKeyPackagesResponse.KeyPackage(key_package_tls_serialized=packages[0])
                answer = mls_api.FetchKeyPackagesResponse(key_packages=[old]).SerializeToString()
                node.answer("FetchKeyPackages", answer)
                async with await create(node.url, wallet) as second:
                    node.script.clear()
                    await second.send_sync_message(b"to the old package")
                    await first.sync_all_device_sync_groups()
                    assert await said(first) == [b"to the old package"]
                # And now there is a new one again.
                assert await key_package(node, first.installation_id) not in packages
            async with await build(node.url, tmp_path / "a") as first:
                assert await said(first) == [b"to the old package"]

    asyncio.run(main())
