"""The user's preferences, which all installations of the inbox share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xmtp_history._types import Consent, ConsentEntityType, ConsentState
from xmtp_history.client._observer import consents
from xmtp_history.client._sync_types import ConsentUpdate, HmacKeyUpdate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from xmtp_history.client._core import Core
    from xmtp_history.client._events import EventStream, Hub
    from xmtp_history.client._groups import Groups
    from xmtp_history.client._observer import Observer
    from xmtp_history.client._types import GroupSyncSummary


class Preferences:
    """Decisions about consent, and the key of push notifications (device sync specification, section 5e).

    The last decision wins, by the time at which it was taken, on every installation and in whatever order they learn of it.
    """

    def __init__(
        self,
        core: Core,
        groups: Groups,
        hub: Hub,
        observer: Observer,
        *,
        device_sync: bool,
        on_change: Callable[[], object],
    ) -> None:
        self._core = core
        self._groups = groups
        self._hub = hub
        self._observer = observer
        self._device_sync = device_sync
        self._on_change = on_change

    async def set_consent_states(self, records: Iterable[Consent]) -> list[Consent]:
        """Takes decisions about conversations and inboxes, now, all or none of them.

        They are stored, and noted for the other installations in the same transaction; the worker sends them at once, and if
        the node cannot be reached, later. Without a worker, :meth:`sync` sends them.

        Args:
            records: the decisions; their ``consented_at_ns`` does not count.

        Returns:
            Those that changed something, with the time in ns at which they were taken.

        Raises:
            TypeError: one is not a :class:`Consent`.
            ValueError: one breaks the format's rules; nothing was stored.
            StoreLocked: another process writes to the store.
        """
        rows: list[tuple[int, str, int]] = []
        for record in records:
            if not isinstance(record, Consent):
                raise TypeError(f"a decision is a Consent, not {type(record).__name__}")
            rows.append((int(record.entity_type), record.entity, int(record.state)))
        if not rows:
            return []
        # Also whoever is cancelled here has taken them.
        return list(consents(await self._core.ask("set_consents", tell=self._decided, records=rows)))

    async def set_consent_state(
        self, entity_type: ConsentEntityType, entity: str, state: ConsentState
    ) -> list[Consent]:
        """Takes one decision; see :meth:`set_consent_states`.

        Args:
            entity_type: whether it is about a conversation or an inbox.
            entity: its id.
            state: the decision.
        """
        return await self.set_consent_states([Consent(entity_type, state, entity, 0)])

    async def get_consent_state(self, entity_type: ConsentEntityType, entity: str) -> ConsentState:
        """The decision about a conversation or an inbox, as far as it is known here; UNKNOWN where there is none."""
        found = await self._core.ask("get_consent", entity_type=int(entity_type), entity=entity)
        return ConsentState.UNKNOWN if found is None else ConsentState(found[0])

    async def sync(self) -> GroupSyncSummary:
        """Fetches what other installations have decided, and sends what was decided here.

        As :meth:`Client.sync_all_device_sync_groups`.

        Raises:
            NotRegistered: the installation was revoked.
            NetworkError: the node cannot be reached. What was done before stays.
        """
        return await self._groups.sync_sync_groups(create=self._device_sync)

    def stream_consent(self) -> EventStream[list[Consent]]:
        """Decisions about consent as they change, each once: those taken here when they are, others when they come.

        Lists are never empty. What archives bring is not among it.

        Raises:
            RuntimeError: the client is closed.
        """

        async def read(changed: tuple[Consent, ...] | None) -> list[Consent] | None:
            return None if changed is None else list(changed)

        return self._hub.preferences.stream(read)

    def stream_preferences(self) -> EventStream[list[ConsentUpdate | HmacKeyUpdate]]:
        """As :meth:`stream_consent`, with changes of the root key for HMACs as well. Lists are never empty.

        Where the key changes again before this is read, only the newest one comes.

        Raises:
            RuntimeError: the client is closed.
        """
        seen = -1

        async def read(changed: tuple[Consent, ...] | None) -> list[ConsentUpdate | HmacKeyUpdate] | None:
            nonlocal seen
            if changed is not None:
                return [ConsentUpdate(consent) for consent in changed]
            cycled_at_ns, key = await self._core.call("hmac_root")
            if cycled_at_ns is None or cycled_at_ns <= seen:
                return None
            seen = cycled_at_ns
            return [HmacKeyUpdate(key, cycled_at_ns)]

        return self._hub.preferences.stream(read)

    #: As SDKs for phones call it.
    stream_preference_updates = stream_preferences

    def _decided(self, rows: list[Any]) -> None:
        if rows:
            self._observer.decided(consents(rows))
            self._on_change()
