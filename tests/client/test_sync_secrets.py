"""What must not be in logs, errors, events and states: keys, pins, ids of files, and what was said."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path
from typing import Any

import pytest

from client.clients import KEY
from client.sync_world import (
    REPLY,
    REQUEST,
    Following,
    World,
    fill,
    heard,
    late,
    meet,
    reply,
    request,
    run,
    say,
    until,
    world,
)
from support.build import group, message, text_content
from support.faulty_server import Fault, FaultyServer, cut, drop, lose, on, status
from support.node_client import quiet_port
from support.public import public
from xmtp_history import (
    ArchiveElement,
    ArchiveOptions,
    ArchivePolicy,
    ArchiveRequest,
    Client,
    Consent,
    ConsentEntityType,
    ConsentState,
)

SAID = "what nobody else may read"

#: What goes wrong on the way up or down, one after the other.
FAULTS: list[list[Fault]] = [
    [],
    [on("POST", status(413))],
    [on("POST", status(403, b"words of the server's"))],
    [on("POST", status(503))] * 20,
    [on("POST", drop(1000)), on("POST", lose)],
    [on("GET", status(410))],
    [on("GET", status(404))] * 3,
    [on("GET", status(302, Location="https://127.0.0.1:1/files/elsewhere"))],
    [on("GET", cut(100)), on("GET", status(403))],
    [on("GET", status(200, b"not an archive at all"))],
]


class Witness:
    """Everything that somebody could read in a log."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def saw(self, *things: Any) -> None:
        for thing in things:
            self.texts.append(f"{thing!r} {thing}")

    async def attempt(self, work: Any) -> None:
        """Does something that may fail."""
        try:
            self.saw(await work)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at
            self.texts.append("".join(traceback.format_exception(error)) + repr(error) + repr(vars(error)))


async def _everything(here: World, witness: Witness, secrets: dict[str, bytes | str]) -> None:
    requests: list[ArchiveRequest] = []

    def ask(request: ArchiveRequest) -> bool:
        requests.append(request)
        return len(requests) % 4 != 0

    old = await here.open("old", archive_policy=ArchivePolicy(ask=ask, burst=1000))
    fill(old.history)
    old.history.add_conversations([public(group(7000))])  # type: ignore[list-item]
    new = await here.open("new", archive_policy=ArchivePolicy(ask=ask, burst=1000))
    await meet(old, new)
    events = [Following(client.stream_events()) for client in (old, new)]
    preferences = [Following(client.preferences.stream_preferences()) for client in (old, new)]
    old.history.add_messages([public(message(7001, 7000, content=text_content(SAID)))])  # type: ignore[list-item]
    await until(lambda: list(new.history.messages(f"{7000:032x}")))
    for faults in FAULTS:
        here.server.faults = list(faults)
        with late():
            await witness.attempt(new.sync_history(timeout=5))
        witness.saw(new.sync_status(), old.sync_status())
    here.server.faults = []
    await witness.attempt(_by_hand(old, new, here, witness))
    for client in (old, new):
        decision = Consent(ConsentEntityType.INBOX_ID, ConsentState.DENIED, "cd" * 32, 0)
        await witness.attempt(client.preferences.set_consent_states([decision]))
        await client._parts.core.ask("cycle_hmac")
        await client.preferences.sync()
        witness.saw(await client.conversations.hmac_keys())
        witness.saw(client.metrics(), client, client.preferences, client.conversations, client.history)
    await meet(old, new)
    for each in await heard(new, REQUEST, REPLY):
        secrets[f"pin {len(secrets)}"] = each.fields[1].decode()
        if each.kind == REPLY:
            secrets[f"key {len(secrets)}"] = each.fields[3][2:]
            secrets[f"file {len(secrets)}"] = each.fields[2].decode().rpartition("/")[2]
    for client in (old, new):
        _, root = await client._parts.core.call("hmac_root")
        secrets[f"root {len(secrets)}"] = root
        for keys in (await client.conversations.hmac_keys()).values():
            secrets |= {f"HMAC {len(secrets)} {key.epoch}": key.key for key in keys}
    witness.saw(*requests)
    for following in [*events, *preferences]:
        assert following.all
        witness.saw(*following.all)
        await following.close()


async def _by_hand(old: Client, new: Client, here: World, witness: Witness) -> None:
    sent = await old.send_sync_archive("a pin by hand", ArchiveOptions(elements=(ArchiveElement.MESSAGES,)))
    witness.saw(sent)
    await say(old, reply("another pin by hand", sent.url, bytes(range(32))))
    await say(old, reply("a third pin by hand", f"http://127.0.0.1:{quiet_port()}/files/{'f11e' * 9}", KEY))
    await say(new, request("a fourth pin by hand", "nowhere"))
    await new.sync_all_device_sync_groups()
    witness.saw(new.list_available_archives())
    for pin in ("a pin by hand", "another pin by hand", "a third pin by hand", "a pin of nothing", None):
        await witness.attempt(new.process_sync_archive(pin))
    await witness.attempt(new.archive_metadata(here.path / "nothing", KEY))
    await witness.attempt(old.create_archive(here.path / "archive", KEY))
    await witness.attempt(new.import_archive(here.path / "archive", bytes(32)))
    for url in ("", "http://user:a secret password@127.0.0.1:1", "nowhere"):
        await witness.attempt(new.send_sync_request(server_url=url))
        await witness.attempt(old.send_sync_archive("a fifth pin by hand", server_url=url))


def test_secrets_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    witness = Witness()
    secrets: dict[str, bytes | str] = {
        "database": KEY,
        "said": SAID,
        "password": "a secret password",
        "pin of nothing": "a pin of nothing",
        "fifth pin": "a fifth pin by hand",
    }

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            secrets["wallet"] = bytes.fromhex(here.key)
            await _everything(here, witness, secrets)

    with caplog.at_level(logging.DEBUG):
        run(main, 60)
    logged = [
        f"{record.getMessage()} {record.args!r} {record.exc_text or ''}"
        + ("".join(traceback.format_exception(*record.exc_info)) if record.exc_info else "")
        for record in caplog.records
        # Of the test's own server, which runs in this process.
        if record.name != "asyncio"
    ]
    assert len(secrets) > 30
    assert any("xmtp_history" in record.name for record in caplog.records)
    found = {
        (name.partition(" ")[0], text[max(0, text.index(form) - 100) : text.index(form) + 50])
        for text in [*logged, *witness.texts]
        for name, secret in secrets.items()
        for form in _forms(secret)
        if form in text
    }
    assert not found


def _forms(secret: bytes | str) -> list[str]:
    if isinstance(secret, str):
        return [secret]
    return [secret.hex(), secret.hex().upper(), repr(secret)[2:-1], repr(list(secret))[1:-1]]
