"""Commands for an installation: register, sync, status."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from xmtp_history import ArchiveElement, ArchiveOptions, History, InstallationInUse
from xmtp_history.cli import _client_options as client_options
from xmtp_history.cli import _options as options
from xmtp_history.cli._client_records import status_json, sync_report_json
from xmtp_history.cli._client_text import print_status, print_sync_report
from xmtp_history.cli._output import print_fields, print_json, print_line
from xmtp_history.cli._progress import SyncBar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from xmtp_history import ArchiveRequest, Client, Counts, EoaSigner, InboxState, SyncReport
    from xmtp_history.cli._client_options import Place

#: How long installations that are asleep may take is anybody's guess; a person gives up about now.
_TIMEOUT_SECONDS = 300
_LONGER_THAN_ANY_SYNC = 1e9


@click.command
@client_options.installation
@click.option(
    "--wallet-key-file",
    type=options.FILE,
    metavar="FILE",
    help="File with the wallet's private key; else XMTP_WALLET_KEY holds it.",
)
@options.as_json
def register(*, at: Place, wallet_key_file: Path | None, as_json: bool) -> None:
    """Make an installation of a wallet's inbox.

    The database is made with it. If the installation is there already, it is opened, and nothing is changed. The
    wallet signs once; no other command needs it.
    """
    chosen, wallet = at.options(), client_options.wallet(wallet_key_file)
    client_options.run(_register(at, wallet, at.new(), chosen, as_json=as_json))


async def _register(
    at: Place, wallet: EoaSigner, path: Path | Callable[[str], Path], chosen: dict[str, Any], *, as_json: bool
) -> None:
    from xmtp_history import Client

    # It only registers: what is asked for, and when, is for "sync" or "keep" to say.
    quiet: dict[str, Any] = {"auto_history_sync": False, "sync_interval": None}
    async with await Client.create(wallet, db_path=path, **chosen, **quiet) as client:
        others = _others(client, await client.inbox_state(refresh=False))
        database = str(path(client.inbox_id) if callable(path) else path)
        inbox_id, installation_id = client.inbox_id, client.installation_id
    if as_json:
        print_json(
            {
                "inbox_id": inbox_id,
                "installation_id": installation_id,
                "other_installations": others,
                "database": database,
                "env": at.env,
            }
        )
        return
    print_fields(
        [
            ("Inbox", inbox_id),
            ("Installation", installation_id),
            ("Other installations", f"{len(others)}"),
            ("Database", database),
        ]
    )
    if others:
        print_line("Fetch their history with: xmtp-history sync")
    else:
        print_line("There is nobody to fetch history from. Keep what comes with: xmtp-history keep")


@click.command
@client_options.installation
@click.option("--messages", is_flag=True, help="Only conversations and messages.")
@click.option("--consent", is_flag=True, help="Only consent.")
@click.option("--start", type=options.iso_time_ns, metavar="TIME", help="Only what is later than this time.")
@click.option("--end", type=options.iso_time_ns, metavar="TIME", help="Only what is no later than this time.")
@click.option("--exclude-disappearing", is_flag=True, help="Leave out messages that disappear.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=_TIMEOUT_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the other installations.",
)
@options.as_json
def sync(
    *,
    at: Place,
    messages: bool,
    consent: bool,
    start: int | None,
    end: int | None,
    exclude_disappearing: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Fetch the history that the other installations have.

    Reads what is new in all conversations, asks the other installations for their history, waits for what they send,
    and adds it: all of an archive, or nothing. Doing it again adds what is missing.
    """
    kinds = [ArchiveElement.MESSAGES] * messages + [ArchiveElement.CONSENT] * consent
    wanted = ArchiveOptions(
        elements=tuple(kinds or ArchiveElement),
        start_ns=start,
        end_ns=end,
        exclude_disappearing_messages=exclude_disappearing,
    )
    report, counts = client_options.run(_sync(at, at.options(), wanted, timeout))
    if as_json:
        print_json(sync_report_json(report, counts))
    else:
        print_sync_report(report, counts)


async def _sync(at: Place, chosen: dict[str, Any], wanted: ArchiveOptions, seconds: float) -> tuple[SyncReport, Counts]:
    from xmtp_history import ArchivePolicy

    # Whoever asks meanwhile waits for "keep", whose policy decides.
    policy = ArchivePolicy(ask=_not_now, ask_timeout=_LONGER_THAN_ANY_SYNC)
    async with await client_options.build(at, chosen, auto_history_sync=False, archive_policy=policy) as client:
        with SyncBar() as bar:
            async with bar.working("Reading conversations"):
                await client.conversations.sync_all()
            async with bar.following(client.sync_status):
                report = await client.sync_history(timeout=seconds, options=wanted)
        return report, client.history.counts()


async def _not_now(_request: ArchiveRequest) -> bool:
    await asyncio.Event().wait()
    return False


@click.command
@client_options.installation
@click.option("--offline", is_flag=True, help="Do not ask the node.")
@options.as_json
def status(*, at: Place, offline: bool, as_json: bool) -> None:
    """Show how an installation is doing.

    Nothing is fetched and nothing is sent. While another process has the installation open, such as "keep", only what
    is stored can be shown.
    """
    shown: dict[str, Any] = {
        "database": str(at.existing()),
        "env": at.env,
        "node": at.node,
        "history_server": at.history_server,
    }
    chosen = at.options()
    try:
        shown |= client_options.run(_status(at, chosen, offline=offline))
    except InstallationInUse:
        with History.open(at.existing(), chosen["db_encryption_key"]) as history:
            shown |= status_json(history.counts())
    if as_json:
        print_json(shown)
    else:
        print_status(shown)


async def _status(at: Place, chosen: dict[str, Any], *, offline: bool) -> dict[str, Any]:
    async with await client_options.build(at, chosen, auto_history_sync=False, sync_interval=None) as client:
        state = await client.inbox_state(refresh=not offline)
        groups = await client.groups()
        return status_json(
            client.history.counts(),
            inbox_id=client.inbox_id,
            installation_id=client.installation_id,
            registered=any(info.id == client.installation_id for info in state.installations),
            other_installations=_others(client, state),
            conversations=Counter(group.state for group in groups if not group.is_sync_group),
            sync_groups=Counter(group.state for group in groups if group.is_sync_group),
            pending_requests=client.sync_status().pending_requests,
            outbox=await client.outbox(),
        )


def _others(client: Client, state: InboxState) -> list[str]:
    return [info.id for info in state.installations if info.id != client.installation_id]


COMMANDS = (register, sync, status)
