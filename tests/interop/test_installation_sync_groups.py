"""Sync groups of this library and real clients (identity specification, section 9, steps 5 to 7, 9 and 11).

What is said in them is the device sync specification's; here it is put together and taken apart by hand.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from independent.protobuf import field_bytes, wire_fields
from interop import logs
from interop.account import OURS, Installation, RealFailsError, account_key
from interop.conftest import Start
from interop.devices import DEADLINE_SECONDS, sync_until
from interop.proxy import Proxy
from support.node_client import wait_until
from xmtp_history import Client, EoaSigner, download_archive, open_archive, verify_archive
from xmtp_history.testing import LocalXmtp

#: Numbers in DeviceSyncContent, PreferenceUpdate and ConsentSave.
REQUEST, REPLY, PREFERENCES = 1, 3, 4
CONSENT, HMAC = 1, 2
INBOX, DENIED = 2, 3


def _request(pin: str, server: str) -> str:
    elements = field_bytes(4, field_bytes(1, b"\x01\x02"))
    return field_bytes(REQUEST, field_bytes(1, pin.encode()) + field_bytes(2, server.encode()) + elements).hex()


def _denial(inbox: str) -> str:
    consent = field_bytes(1, INBOX) + field_bytes(2, DENIED) + field_bytes(3, inbox.encode())
    consent += field_bytes(4, time.time_ns())
    return field_bytes(PREFERENCES, field_bytes(1, field_bytes(CONSENT, consent))).hex()


def _fields(data: bytes) -> dict[int, Any]:
    """The values of a message's fields, of which none comes twice."""
    fields = [(number, value) for number, _, value, _ in wire_fields(data)]
    assert len(dict(fields)) == len(fields)
    return dict(fields)


class Said(NamedTuple):
    """Something that was said to the inbox's devices."""

    sender: str
    kind: int
    fields: dict[int, Any]


def _said(device: Installation, group: str | None = None) -> list[Said]:
    out = []
    for message in device.do("device_said", group):
        assert message["sender_inbox_id"] == device.do("inbox_id")
        ((kind, content),) = _fields(bytes.fromhex(message["content"])).items()
        out.append(Said(message["sender_installation_id"], kind, _fields(content)))
    return out


def _hmac_root(said: Said) -> list[Any]:
    """The key that an update of the preferences holds, and its time, as a real client tells them."""
    assert said.kind == PREFERENCES
    update = _fields(_fields(said.fields[1])[HMAC])
    return [update[1].hex(), update[2]]


def _last_group(device: Installation) -> tuple[str, dict[str, Any]]:
    """The sync group that a device has made or joined last."""
    return max(device.do("sync_groups").items(), key=lambda item: item[1]["created_at_ns"])


def _installations(facts: dict[str, Any]) -> set[str]:
    """Who is in a sync group, all of whom are of one inbox. Real ones have nobody in it until it is sent."""
    assert len(facts["members"]) <= 1
    return {key for keys in facts["members"].values() for key in keys}


def _everything(device: Installation) -> bytes:
    """What was said to a device, to look for something in it."""
    return b"".join(bytes.fromhex(each["content"]) for each in device.do("device_said"))


def _agree(group: str, *devices: Installation) -> dict[str, Any]:
    """Waits until devices are in the same epoch of a sync group, as its members."""
    facts: list[dict[str, Any]] = []

    def agreed() -> bool:
        facts[:] = [device.do("sync_groups")[group] for device in devices]
        return len({(each["epoch"], each["epoch_authenticator"], str(each["members"])) for each in facts}) == 1

    sync_until(agreed, *devices)
    assert {device.do("installation_id") for device in devices} <= _installations(facts[0])
    return facts[0]


def _ours(start: Start, db: str = "ours", *, device_sync: bool = True) -> Installation:
    return start("alice", db, module=OURS, device_sync=device_sync)


def _founder(start: Start) -> Installation:
    """Starts a real installation, which is the first one of its inbox, and waits until it is alone in its sync group.

    It makes it in the background once it is registered, with whoever has come by then.
    """
    real = start("alice", device_sync=True)
    real.do("installation_id")
    sync_until(lambda: [facts["epoch"] for facts in real.do("sync_groups").values()] == [1], real)
    return real


def test_they_make_a_sync_group_and_we_join(node: LocalXmtp, start: Start, tmp_path: Path) -> None:
    """And ask there for an archive, which is made, uploaded and announced, and is what it should be."""
    ours, bob = _ours(start, device_sync=False), start("bob")
    inbox, key = ours.do("inbox_id"), ours.do("installation_id")
    assert ours.do("sync_groups") == {}
    real = start("alice", device_sync=True)
    real_key = real.do("installation_id")
    conversation = bob.do("group", [inbox], {"name": "to be archived"})
    sent = {bob.do("send", conversation, text): text for text in ("one", "two")}
    real.do("sync")
    sync_until(lambda: bool(ours.do("sync_groups")), ours)
    group, facts = _last_group(ours)
    assert facts["epoch"] == 1
    assert facts["adder"] == inbox
    assert facts["members"] == {inbox: sorted([key, real_key])}
    _agree(group, real, ours)

    request = ours.do("say_to_devices", _request("Pin42", node.history_sync_url))
    # Its leaf is fresh before it says anything.
    assert ours.do("sync_groups")[group]["epoch"] == 2
    sync_until(lambda: len(ours.do("device_said")) > 1, real, ours)
    own, reply = _said(ours, group)
    assert (own.sender, own.kind, own.fields[1]) == (key, REQUEST, b"Pin42")
    assert (reply.sender, reply.kind, reply.fields[1]) == (real_key, REPLY, b"Pin42")
    _agree(group, real, ours)
    assert ours.do("sync_groups")[group]["undecryptable"] == 0
    # Both know both messages by the same ids, and the real one has dealt with the request.
    assert real.do("device_messages") == {message["id"]: 1 for message in ours.do("device_said")}
    assert ours.do("device_said")[0]["id"] == request

    url, archive_key = reply.fields[2].decode(), _fields(reply.fields[3])[1]
    assert url.startswith(f"{node.history_sync_url}/files/")
    archive = tmp_path / "archive.xmtp"
    asyncio.run(download_archive(url, archive))
    assert not verify_archive(archive, archive_key).invalid_records
    with open_archive(archive, archive_key) as records:
        messages = {record.id: record for record in records if type(record).__name__ == "Message"}
    assert {key: messages[key].decoded().body for key in sent} == sent

    # What push services go by.
    at_node = {message.id: message for message in logs.group_messages(node.node_url, group)}
    ours_there = [at_node[message["sequence_id"]] for message in ours.do("device_said")[:1]]
    ours_there += [message for message in at_node.values() if message.is_commit][1:]
    assert len(ours_there) == 2
    for message in ours_there:
        assert len(message.sender_hmac) == 32
        assert message.should_push is False
    assert len({message.sender_hmac for message in at_node.values()}) == len(at_node)


def test_we_make_a_sync_group_and_they_join(node: LocalXmtp, start: Start) -> None:
    """Each of two answers with a fresh leaf and the key that all share; what either side says then has an effect."""
    first = _founder(start)
    inbox = first.do("inbox_id")
    second = start("alice", "second", device_sync=True)
    devices = [first, second]
    keys = [device.do("installation_id") for device in devices]
    sync_until(lambda: len(first.do("sync_groups")) == 2, *devices)
    ours = _ours(start)
    group, facts = _last_group(ours)
    assert list(ours.do("sync_groups")) == [group]
    assert facts["epoch"] == 1
    assert facts["members"] == {inbox: sorted([*keys, ours.do("installation_id")])}
    sync_until(lambda: len(ours.do("device_said")) == 2, *devices, ours)
    sync_until(lambda: ours.do("sync_groups")[group]["epoch"] == 3, *devices, ours)
    assert _agree(group, *devices, ours)["epoch"] == 3
    assert ours.do("sync_groups")[group]["undecryptable"] == 0
    said = _said(ours, group)
    assert {each.sender for each in said} == set(keys)
    newest = max((_hmac_root(each) for each in said), key=lambda root: root[1])
    sync_until(lambda: all(device.do("hmac_root") == newest for device in devices), *devices)

    somebody, somebody_else = "b0" * 32, "e1" * 32
    ours.do("say_to_devices", _denial(somebody))
    sync_until(lambda: all(device.do("get_consent", "inbox", somebody) == "denied" for device in devices), *devices)
    first.do("consent", "inbox", somebody_else, "denied")
    sync_until(lambda: len(ours.do("device_said")) == 4, first, ours)
    consent = _fields(_fields(_said(ours)[-1].fields[1])[CONSENT])
    assert (consent[1], consent[2], consent[3].decode()) == (INBOX, DENIED, somebody_else)
    assert _agree(group, *devices, ours)["epoch"] == 3


def test_both_make_one_at_the_same_time(start: Start) -> None:
    """Whose group is the last one, and for whom, is up to chance; all the same everything arrives."""
    first = start("alice", device_sync=True)
    first.do("inbox_id")
    second, ours = start("alice", "second", device_sync=True), _ours(start)
    for device in (second, ours):
        device.do("installation_id")
    devices = [first, second, ours]
    meeting = {device.do("installation_id") for device in devices}

    def have_met() -> bool:
        """Whether everybody is in a group with everybody, which whoever came last has made."""
        groups = [device.do("sync_groups") for device in devices]
        return all(any(meeting <= _installations(facts) for facts in each.values()) for each in groups)

    sync_until(have_met, *devices)
    somebody, somebody_else = "b0" * 32, "e1" * 32
    ours.do("say_to_devices", _denial(somebody))
    sync_until(lambda: all(each.do("get_consent", "inbox", somebody) == "denied" for each in devices[:2]), *devices)
    second.do("consent", "inbox", somebody_else, "denied")
    sync_until(lambda: somebody_else.encode() in _everything(ours), *devices)
    sync_until(lambda: first.do("get_consent", "inbox", somebody_else) == "denied", *devices)
    for group, facts in ours.do("sync_groups").items():
        assert (facts["membership"], facts["undecryptable"]) == ("active", 0)
        _agree(group, *(each for each in devices if each.do("installation_id") in _installations(facts)))


def test_a_real_client_commits_first(node: LocalXmtp, start: Start, tmp_path: Path) -> None:
    """Our fresh leaf is prepared and not sent yet when another one's commit comes; what we say arrives all the same."""
    signer = EoaSigner.from_key(account_key(f"alice {tmp_path.name}"))
    options: Any = {"env": "local", "api_url": node.node_url, "db_path": tmp_path / "x", "db_encryption_key": bytes(32)}
    first = _founder(start)
    somebody = "b0" * 32

    async def until(condition: Any, device: Installation) -> None:
        await asyncio.to_thread(sync_until, condition, device)

    async def main() -> None:
        async with await Client.create(signer, **options, disable_device_sync=True) as client:
            second = start("alice", "second", device_sync=True)
            key = await asyncio.to_thread(second.do, "installation_id")
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not (groups := await client.groups()):
                    await client.sync_all_device_sync_groups()
                    await asyncio.sleep(0.05)
            (group,) = (info.id for info in groups)
            core, api = client._parts.core, client._parts.api
            message = await core.ask("send_sync_message", bytes.fromhex(_denial(somebody)), id=group)
            keys, commit = await core.call("prepare", id=group, again=False)
            assert keys
            # The one that joins sends a commit of its own in the meantime.
            await until(lambda: len([1 for each in logs.framings(node.node_url, group) if each.is_commit]) == 2, first)
            await api.send_group_messages(commit)
            await core.ask("published", keys=keys)
            assert [each.epoch for each in logs.framings(node.node_url, group) if each.is_commit] == [0, 1, 1]
            await client.sync_all_device_sync_groups()
            assert [each.epoch for each in logs.framings(node.node_url, group) if each.is_commit] == [0, 1, 1, 2]
            info = await client.group(group)
            assert info is not None
            assert (info.epoch, info.state.value, info.undecryptable) == (3, "active", 0)
            for device in (first, second):
                await until(lambda device=device: device.do("get_consent", "inbox", somebody) == "denied", device)
                facts = device.do("sync_groups")[group]
                assert (facts["epoch"], facts["epoch_authenticator"]) == (3, info.epoch_authenticator)
                assert message in device.do("raw_messages", group)
                assert key in str(facts["members"])
            # Once more, so that nothing is left of the one that lost.
            again = await client.send_sync_message(bytes.fromhex(_denial("e1" * 32)))
            await until(lambda: again in first.do("raw_messages", group), first)
            ids = [each.id for each in await client.sync_group_messages(group)]
            assert len(set(ids)) == len(ids)
            assert {message, again} < set(ids)

    asyncio.run(main())


def test_ours_is_killed_after_any_call(proxy: Proxy, start: Start) -> None:
    """The node has done what it was asked to, and the answer is lost with the process; the next one goes on from there."""
    real = _founder(start)
    before = real.do("installation_id")
    for method in ("UploadKeyPackage", "PublishIdentityUpdate", "SendGroupMessages", "SendWelcomeMessages"):
        proxy.lose(method, 1_000_000)
        calls = len(proxy.calls_of(method))
        killed = start("alice", "ours", module=OURS, device_sync=True, node=proxy.url)
        wait_until(lambda method=method, calls=calls: len(proxy.calls_of(method)) > calls, method)
        killed.close()
        proxy.lose(method, 0)
    ours = start("alice", "ours", module=OURS, device_sync=True, node=proxy.url)
    key = ours.do("installation_id")
    # There is one installation and one group of it, however often it began.
    assert real.do("inbox_state")["installations"] == sorted([before, key])
    (group,) = ours.do("sync_groups")
    sync_until(lambda: bool(ours.do("device_said")), real, ours)
    assert len(real.do("sync_groups")) == 2
    _agree(group, real, ours)
    # Then while it says something.
    said = []
    for number in range(3):
        somebody = f"b{number}" * 32
        proxy.lose("SendGroupMessages", 1_000_000)
        calls = len(proxy.calls_of("SendGroupMessages"))
        ours.begin("say_to_devices", _denial(somebody))
        wait_until(lambda calls=calls: len(proxy.calls_of("SendGroupMessages")) > calls, "a message")
        ours.close()
        proxy.lose("SendGroupMessages", 0)
        ours = start("alice", "ours", module=OURS, device_sync=True, node=proxy.url)
        ours.do("sync_devices")
        sync_until(lambda who=somebody: real.do("get_consent", "inbox", who) == "denied", real)
        said.append(somebody.encode())
        _agree(group, real, ours)
    messages = [each for each in _said(ours, group) if each.sender == key]
    assert [_fields(_fields(each.fields[1])[CONSENT])[3] for each in messages] == said
    stored = [facts for facts in real.do("raw_messages", group).values() if facts["sender_installation_id"] == key]
    assert len([facts for facts in stored if facts["kind"] == "application"]) == len(said)


def test_a_sync_group_of_a_foreign_inbox_is_dropped(start: Start) -> None:
    """Real libxmtp makes one, and a real installation of the inbox joins it; ours does not, and says nothing there."""
    ours, mallory = _ours(start), start("mallory", device_sync=True)
    inbox = ours.do("inbox_id")
    victim = start("alice", "real", device_sync=True)
    victim.do("inbox_id")
    sync_until(lambda: len(ours.do("sync_groups")) == 2, ours, victim)
    before = ours.do("sync_groups")
    sync_until(lambda: bool(mallory.do("sync_groups")), mallory)
    group, _ = _last_group(mallory)
    assert mallory.do("add_members", group, [inbox])["failed"] == []
    mallory.do("consent", "inbox", inbox, "denied")
    sync_until(lambda: group in victim.do("sync_groups"), victim)
    ours.do("sync_devices")
    assert list(ours.do("sync_groups")) == list(before)
    ours.do("say_to_devices", _denial("b0" * 32))
    assert ours.do("device_said")[-1]["group_id"] in before
    # Others of its welcomes are not held up by that.
    later = mallory.do("group", [inbox], {"name": "an ordinary one"})
    mallory.do("send", later, "hello")
    ours.do("sync")
    assert ours.do("texts", later) == ["hello"]


def test_a_sync_group_that_a_foreign_inbox_comes_to_is_not_used_any_more(start: Start) -> None:
    ours, mallory = _ours(start), start("mallory")
    ours.do("inbox_id")
    real = start("alice", "real", device_sync=True)
    real.do("inbox_id")
    sync_until(lambda: len(ours.do("sync_groups")) == 2, ours, real)
    group, _ = _last_group(ours)
    assert group in real.do("sync_groups")
    real.do("add_members", group, [mallory.do("inbox_id")])
    ours.do("sync_devices")
    facts = ours.do("sync_groups")[group]
    assert facts["membership"] == "untrusted"
    assert "another inbox" in facts["reason"]
    heard = len(ours.do("device_said"))
    real.do("consent", "inbox", "b0" * 32, "denied")
    ours.do("sync_devices")
    assert len(ours.do("device_said")) == heard
    ours.do("say_to_devices", _denial("b0" * 32))
    assert ours.do("device_said")[-1]["group_id"] != group


def test_a_real_client_is_revoked_and_not_heard_any_more(node: LocalXmtp, start: Start) -> None:
    """There is a fresh sync group without it, which the other ones use."""
    revoked = _founder(start)
    inbox, key = revoked.do("inbox_id"), revoked.do("installation_id")
    other = start("alice", "other", device_sync=True)
    other.do("inbox_id")
    sync_until(lambda: len(revoked.do("sync_groups")) == 2, revoked, other)
    ours = _ours(start)
    group, _ = _last_group(ours)
    sync_until(lambda: len(ours.do("device_said")) == 2, revoked, other, ours)
    ours.do("revoke_installations", [key])
    fresh, facts = _last_group(ours)
    assert fresh != group
    assert facts["members"] == {inbox: sorted([other.do("installation_id"), ours.do("installation_id")])}
    sync_until(lambda: fresh in other.do("sync_groups"), other)
    # It still is where it was, and talks.
    at_node = len(logs.group_messages(node.node_url, group))
    revoked.do("consent", "inbox", "b0" * 32, "denied")
    other.do("consent", "inbox", "e1" * 32, "denied")
    sync_until(lambda: b"e1" * 32 in _everything(ours), revoked, other, ours)
    ours.do("sync_devices")
    assert len(logs.group_messages(node.node_url, group)) > at_node, "it has said nothing"
    assert b"b0" * 32 not in _everything(ours)
    _agree(fresh, other, ours)


def test_a_real_client_revokes_another_one(start: Start) -> None:
    """Once ours sees that, it makes a fresh sync group, as real ones do not."""
    revoked = _founder(start)
    key = revoked.do("installation_id")
    other = start("alice", "other", device_sync=True)
    other.do("inbox_id")
    sync_until(lambda: len(revoked.do("sync_groups")) == 2, revoked, other)
    ours = _ours(start)
    group, _ = _last_group(ours)
    sync_until(lambda: group in other.do("sync_groups"), other)
    other.do("revoke_installations", [key])
    ours.do("sync_devices")
    fresh, facts = _last_group(ours)
    assert fresh != group
    assert key not in str(facts["members"])
    sync_until(lambda: fresh in other.do("sync_groups"), other)
    ours.do("say_to_devices", _denial("b0" * 32))
    sync_until(lambda: other.do("get_consent", "inbox", "b0" * 32) == "denied", other)
    with pytest.raises(RealFailsError):
        ours.do("revoke_installations", [key])
