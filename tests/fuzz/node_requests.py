"""Fuzzes what a node reads of strangers' bytes: ``python tests/fuzz/node_requests.py CORPUS -max_total_time=600``.

The first byte chooses the parser. Whatever the bytes are, the outcome has to be a value or the one exception that the parser
names, and what was accepted has to be what it says.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["xmtp_history.node"]):
    from google.protobuf.message import DecodeError

    from xmtp_history._proto.association_pb2 import IdentityUpdate
    from xmtp_history.node._associations import InvalidUpdate, check_against_log, check_form, identifiers_after
    from xmtp_history.node._calls import _has_more_fields
    from xmtp_history.node._payloads import MalformedPayload, group_message_header, installation_key


def _group_message(data: bytes) -> None:
    try:
        header = group_message_header(data)
    except MalformedPayload:
        return
    assert 1 <= len(header.group_id) <= 255
    assert header.group_id in data


def _key_package(data: bytes) -> None:
    try:
        key = installation_key(data)
    except MalformedPayload:
        return
    assert len(key) == 32
    # Its place is fixed when the keys before it have 32 bytes.
    assert data[71:103] == key


def _identity_update(data: bytes) -> None:
    try:
        update = IdentityUpdate.FromString(data)
        check_form(update)
    except (DecodeError, InvalidUpdate):
        return
    assert all(identifier == identifier.lower() for _, identifier in identifiers_after(update, ()))
    for log in ([], [update]):
        try:
            check_against_log(update, log)
        except InvalidUpdate:
            continue
        assert not log, "its signatures have been used before"


def _count(data: bytes) -> None:
    """What protobuf accepts, the count before it accepts as well, and never counts too few."""
    try:
        update = IdentityUpdate.FromString(data)
    except DecodeError:
        return
    for limit in (0, 1, 3):
        if len(update.actions) > limit:
            assert _has_more_fields(data, limit)


TARGETS = (_group_message, _key_package, _identity_update, _count)


def one_input(data: bytes) -> None:
    """What the fuzzer calls."""
    if data:
        TARGETS[data[0] % len(TARGETS)](data[1:])


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
