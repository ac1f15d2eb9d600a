"""Steps of a real installation: conversations, who is in them, and what state they are in."""

from __future__ import annotations

from typing import Any

from interop.real_base import Steps, x

_UPDATES = {
    "name": "update_group_name",
    "description": "update_group_description",
    "image": "update_group_image_url_square",
    "app_data": "update_app_data",
}


class GroupSteps(Steps):
    """Making and changing groups and DMs."""

    async def group(self, members: list[str], **names: str) -> str:
        """Makes a group with other inboxes in it."""
        options = x.FfiCreateGroupOptions(
            permissions=None,
            group_name=names.get("name"),
            group_description=names.get("description"),
            group_image_url_square=names.get("image"),
            custom_permission_policy_set=None,
            message_disappearing_settings=None,
            app_data=names.get("app_data"),
        )
        return str((await self._client.conversations().create_group(members, options)).id().hex())

    async def dm(self, inbox: str) -> str:
        """Finds or makes the DM with an inbox."""
        options = x.FfiCreateDmOptions(message_disappearing_settings=None)
        return str((await self._client.conversations().find_or_create_dm(inbox, options)).id().hex())

    # --- members -------------------------------------------------------------------------------------------------------

    async def members(self, conversation_id: str) -> dict[str, list[str]]:
        """The installations of each inbox in a conversation."""
        members = await self._conversation(conversation_id).list_members()
        return {member.inbox_id: sorted(key.hex() for key in member.installation_ids) for member in members}

    async def is_active(self, conversation_id: str) -> bool:
        return bool(self._conversation(conversation_id).is_active())

    async def add(self, conversation_id: str, inboxes: list[str]) -> None:
        """Adds inboxes to a group."""
        await self.add_members(conversation_id, inboxes)

    async def add_members(self, conversation_id: str, inboxes: list[str]) -> dict[str, Any]:
        """Adds inboxes to a group, and says whom that added and removed and which installations cannot be added.

        For an inbox that is a member it looks at once for installations that have come or gone.
        """
        result = await self._conversation(conversation_id).add_members(inboxes)
        return {
            "added": dict(result.added_members),
            "removed": list(result.removed_members),
            "failed": sorted(key.hex() for key in result.failed_installations),
        }

    async def remove_members(self, conversation_id: str, inboxes: list[str]) -> None:
        """Takes inboxes out of a group."""
        await self._conversation(conversation_id).remove_members(inboxes)

    async def leave(self, conversation_id: str) -> None:
        """Asks to be taken out of a group, which a super admin's worker does."""
        await self._conversation(conversation_id).leave_group()

    # --- admins and metadata -------------------------------------------------------------------------------------------

    async def promote(self, conversation_id: str, inbox: str) -> None:
        """Lets an inbox do in a group whatever its creator can."""
        await self.add_super_admin(conversation_id, inbox)

    async def add_admin(self, conversation_id: str, inbox: str) -> None:
        await self._conversation(conversation_id).add_admin(inbox)

    async def remove_admin(self, conversation_id: str, inbox: str) -> None:
        await self._conversation(conversation_id).remove_admin(inbox)

    async def add_super_admin(self, conversation_id: str, inbox: str) -> None:
        await self._conversation(conversation_id).add_super_admin(inbox)

    async def remove_super_admin(self, conversation_id: str, inbox: str) -> None:
        await self._conversation(conversation_id).remove_super_admin(inbox)

    async def rename(self, conversation_id: str, name: str) -> None:
        await self.update_metadata(conversation_id, "name", name)

    async def update_metadata(self, conversation_id: str, field: str, value: str) -> None:
        """Changes the "name", "description", "image" or "app_data" of a group."""
        await getattr(self._conversation(conversation_id), _UPDATES[field])(value)

    async def set_disappearing(self, conversation_id: str, from_ns: int | None, in_ns: int = 0) -> None:
        """Lets messages that are sent from some time on disappear after some time; None: no more."""
        conversation = self._conversation(conversation_id)
        if from_ns is None:
            await conversation.remove_conversation_message_disappearing_settings()
        else:
            settings = x.FfiMessageDisappearingSettings(from_ns=from_ns, in_ns=in_ns)
            await conversation.update_conversation_message_disappearing_settings(settings)

    async def set_permission(self, conversation_id: str, what: str, policy: str, field: str | None = None) -> None:
        """Changes who may do what: "ADD_MEMBER" ... "UPDATE_METADATA" (of a field such as "GROUP_NAME"), and "ALLOW"
        ... "SUPER_ADMIN"."""
        await self._conversation(conversation_id).update_permission_policy(
            x.FfiPermissionUpdateType[what],
            x.FfiPermissionPolicy[policy],
            None if field is None else x.FfiMetadataField[field],
        )

    # --- state ---------------------------------------------------------------------------------------------------------

    async def state(self, conversation_id: str) -> dict[str, Any]:
        """All that the members of a group have to agree about, and whether the installation is one of them."""
        conversation = self._conversation(conversation_id)
        epoch, authenticator = self._database.epoch(conversation_id)
        disappearing = conversation.conversation_message_disappearing_settings()
        return {
            "is_active": conversation.is_active(),
            "epoch": epoch,
            "epoch_authenticator": authenticator,
            "members": await self.members(conversation_id),
            "name": conversation.group_name(),
            "description": conversation.group_description(),
            "image": conversation.group_image_url_square(),
            "app_data": conversation.app_data(),
            "admins": sorted(conversation.admin_list()),
            "super_admins": sorted(conversation.super_admin_list()),
            "disappearing": disappearing and [disappearing.from_ns, disappearing.in_ns],
        }

    async def debug_info(self, conversation_id: str) -> dict[str, Any]:
        """What the library thinks of a conversation's health, and how far it has read it."""
        info = await self._conversation(conversation_id).conversation_debug_info()
        return {
            "epoch": info.epoch,
            "maybe_forked": info.maybe_forked,
            "fork_details": info.fork_details,
            "is_commit_log_forked": info.is_commit_log_forked,
            "cursor": {str(cursor.originator_id): cursor.sequence_id for cursor in info.cursor},
            "paused_for_version": self._conversation(conversation_id).paused_for_version(),
        }

    async def commits(self, conversation_id: str) -> list[dict[str, Any]]:
        """What became of a conversation's commits (see :class:`interop.database.Commit`)."""
        return [commit._asdict() for commit in self._database.commits(conversation_id)]

    async def groups(self) -> dict[str, dict[str, Any]]:
        """All groups by id, those of devices as well: type, membership, epoch and its authenticator."""
        out = self._database.groups()
        for group_id, facts in out.items():
            if facts["membership"] != "restored":
                facts["epoch"], facts["epoch_authenticator"] = self._database.epoch(group_id)
        return out
