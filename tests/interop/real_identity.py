"""Steps of a real installation: who it is, who others are."""

from __future__ import annotations

from typing import Any

from interop.real_base import Steps, identifier, x


class IdentitySteps(Steps):
    """Inboxes, their installations and their accounts."""

    async def inbox_id(self) -> str:
        return str(self._client.inbox_id())

    async def installation_id(self) -> str:
        return str(self._client.installation_id().hex())

    async def inbox_of(self, account_key: str) -> str | None:
        """The inbox that an account's address leads to, as the node says."""
        found: str | None = await x.get_inbox_id_for_identifier(self._api, identifier(bytes.fromhex(account_key)))
        return found

    async def inbox_state(self, inbox: str | None = None) -> dict[str, Any]:
        """Installations, addresses and recovery address of an inbox, by default the own one, as the node's log says."""
        return _facts(
            await self._client.inbox_state(True) if inbox is None else await self._client.get_latest_inbox_state(inbox)
        )

    async def key_package_statuses(self, installation_ids: list[str]) -> dict[str, dict[str, Any]]:
        """Of each installation what is wrong with its key package, or None, and from when to when it is valid."""
        keys = [bytes.fromhex(installation_id) for installation_id in installation_ids]
        found = await self._client.get_key_package_statuses_for_installation_ids(keys)
        return {
            key.hex(): {
                "error": status.validation_error,
                "lifetime": status.lifetime and [status.lifetime.not_before, status.lifetime.not_after],
            }
            for key, status in found.items()
        }

    async def add_wallet(self, account_key: str) -> None:
        """Adds another account to the inbox."""
        wallet = bytes.fromhex(account_key)
        await self._apply(await self._client.add_identity(identifier(wallet)), wallet)

    async def revoke_wallet(self, account_key: str) -> None:
        """Takes an account from the inbox."""
        request = await self._client.revoke_identity(identifier(bytes.fromhex(account_key)))
        await self._apply(request, self._private_key)

    async def revoke_installation(self, installation_id: str) -> None:
        """Takes an installation from the inbox."""
        await self.revoke_installations([installation_id])

    async def revoke_installations(self, installation_ids: list[str]) -> None:
        """Takes installations from the inbox, with one update."""
        keys = [bytes.fromhex(installation_id) for installation_id in installation_ids]
        await self._apply(await self._client.revoke_installations(keys), self._private_key)

    async def revoke_all_others(self) -> None:
        """Takes every other installation from the inbox."""
        request = await self._client.revoke_all_other_installations_signature_request()
        if request is not None:
            await self._apply(request, self._private_key)

    async def change_recovery(self, account_key: str) -> None:
        """Lets another account have the last word about the inbox."""
        request = await self._client.change_recovery_identifier(identifier(bytes.fromhex(account_key)))
        await self._apply(request, self._private_key)


def _facts(state: Any) -> dict[str, Any]:
    return {
        "inbox_id": state.inbox_id,
        "installations": sorted(installation.id.hex() for installation in state.installations),
        "addresses": sorted(identity.identifier for identity in state.account_identities),
        "recovery": state.recovery_identity.identifier,
    }
