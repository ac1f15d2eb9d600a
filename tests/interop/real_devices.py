"""Steps of a real installation: consent, archives, and the groups in which an inbox's installations talk."""

from __future__ import annotations

from typing import Any, Self

from interop.following import Following
from interop.real_base import x
from interop.real_groups import GroupSteps

_STATES = {"unknown": "UNKNOWN", "allowed": "ALLOWED", "denied": "DENIED"}
_ENTITIES = {"conversation": x.FfiConsentEntityType.CONVERSATION_ID, "inbox": x.FfiConsentEntityType.INBOX_ID}
_WHOLE_ARCHIVE = x.FfiArchiveOptions(
    start_ns=None,
    end_ns=None,
    exclude_disappearing_messages=False,
    elements=[x.FfiBackupElementSelection.MESSAGES, x.FfiBackupElementSelection.CONSENT],
)


class DeviceSteps(GroupSteps):
    """What an inbox's installations share."""

    _preferences: Following

    # --- consent -------------------------------------------------------------------------------------------------------

    async def consent(self, kind: str, entity: str, state: str) -> None:
        """Sets a consent; the kind is "conversation" or "inbox"."""
        record = x.FfiConsent(entity_type=_ENTITIES[kind], state=x.FfiConsentState[_STATES[state]], entity=entity)
        await self._client.set_consent_states([record])

    async def get_consent(self, kind: str, entity: str) -> str:
        """A consent as the library knows it."""
        return str((await self._client.get_consent_state(_ENTITIES[kind], entity)).name.lower())

    # --- archives ------------------------------------------------------------------------------------------------------

    async def export_archive(self, path: str, key: str) -> None:
        """Writes an archive with all sections."""
        await self._client.create_archive(path, _WHOLE_ARCHIVE, bytes.fromhex(key))

    async def import_archive(self, path: str, key: str) -> None:
        """Imports an archive."""
        await self._client.import_archive(path, bytes.fromhex(key))

    async def archive_metadata(self, path: str, key: str) -> dict[str, Any]:
        """An archive's metadata."""
        found = await self._client.archive_metadata(path, bytes.fromhex(key))
        return {
            "backup_version": found.backup_version,
            "elements": [element.name for element in found.elements],
            "exported_at_ns": found.exported_at_ns,
            "start_ns": found.start_ns,
            "end_ns": found.end_ns,
        }

    # --- device sync ---------------------------------------------------------------------------------------------------

    async def sync_devices(self) -> None:
        """Fetches what the inbox's other installations have sent."""
        await self._client.sync_all_device_sync_groups()

    async def sync_groups(self) -> dict[str, dict[str, Any]]:
        """The groups of the inbox's devices: epoch, authenticator, members; what is sent goes to the last one."""
        groups = await self.groups()
        return {
            group_id: {**facts, "members": await self.members(group_id)}
            for group_id, facts in groups.items()
            if facts["type"] == "sync"
        }

    async def device_messages(self) -> dict[str, int]:
        """The messages of these groups: 0 to be dealt with, 1 done, 2 given up."""
        return self._database.device_messages()

    async def hmac_root(self) -> list[Any] | None:
        """The key that the inbox's installations share, and when it was made."""
        root = self._database.hmac_root()
        return root and list(root)

    async def hmac_keys(self) -> dict[str, list[list[Any]]]:
        """What the library derives from it: for each conversation key and epoch, three times."""
        found = self._client.conversations().get_hmac_keys()
        return {group.hex(): [[key.epoch, key.key.hex()] for key in keys] for group, keys in found.items()}

    async def follow_preferences(self) -> None:
        """Opens a stream of preferences."""
        self._preferences = await _Preferences.begin(self._client.conversations())

    async def followed_preferences(self, count: int, seconds: float) -> list[list[str]]:
        """What has come, once there are so many or the time is over."""
        return await self._preferences.until(count, seconds)

    async def request_archive(self, server: str) -> None:
        """Asks the other installations for what they have."""
        await self._client.send_sync_request(_WHOLE_ARCHIVE, server)

    async def send_archive(self, server: str, pin: str) -> None:
        """Sends the other installations what there is here."""
        await self._client.send_sync_archive(_WHOLE_ARCHIVE, server, pin)

    async def archives(self) -> list[list[str]]:
        """Pin and sender of each archive that can be imported."""
        found = self._client.list_available_archives(30)
        return [[archive.pin, archive.sent_by_installation.hex()] for archive in found]

    async def take_archive(self, pin: str | None) -> None:
        """Imports an archive that another installation has sent; None: the newest one."""
        await self._client.process_sync_archive(pin)


class _Preferences(Following):
    """A stream of preferences, of which the bindings tell that the inbox has a new key."""

    @classmethod
    async def begin(cls, conversations: Any) -> Self:
        following = cls()
        following._closer = await conversations.stream_preferences(_Updates(following))
        await following._closer.wait_for_ready()
        return following


class _Updates(x.FfiPreferenceCallback):
    def __init__(self, following: Following) -> None:
        self._following = following

    def on_preference_update(self, preference: Any) -> None:
        # Updates of other kinds arrive as empty lists.
        self._following.note(items=tuple(["hmac", update.key.hex()] for update in preference))

    def on_error(self, error: Any) -> None:
        self._following.note(errors=(str(error),))

    def on_close(self) -> None:
        self._following.note(closed=True)
