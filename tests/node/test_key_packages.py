"""Key packages: the latest of each installation, parsed to the last byte."""

from __future__ import annotations

from typing import Any

import pytest

from support.node_client import (
    INVALID,
    TOO_LARGE,
    KeyPackage,
    NodeClient,
    created_inbox,
    credential,
    fresh,
    new_address,
    new_key,
    refused,
    vec,
    wide_vec,
)
from xmtp_history._proto import mls_api_pb2 as mls_api

# --- storing and fetching ---------------------------------------------------------------------------------------------


def test_a_key_package_comes_back_under_its_signature_key(client: NodeClient) -> None:
    package = KeyPackage()
    client.upload(package.encode())
    assert client.fetch(package.signature_key) == [package.encode()]


def test_the_key_is_where_real_key_packages_have_it() -> None:
    package = KeyPackage(signature_key=bytes(range(32)))
    assert package.encode()[:5] == b"\x00\x01\x00\x03\x20"
    assert package.encode()[71:103] == bytes(range(32))


def test_only_the_latest_key_package_is_kept(client: NodeClient) -> None:
    key = new_key()
    packages = [KeyPackage(key, init_key=fresh(32)).encode() for _ in range(3)]
    for package in packages:
        client.upload(package)
        assert client.fetch(key) == [package]
    client.upload(packages[0])
    assert client.fetch(key) == [packages[0]], "the latest, not the newest"


def test_uploading_the_same_again_is_fine(client: NodeClient) -> None:
    package = KeyPackage()
    for _ in range(3):
        client.upload(package.encode())
    assert client.fetch(package.signature_key) == [package.encode()]


def test_fetching_does_not_use_a_key_package_up(client: NodeClient) -> None:
    package = KeyPackage()
    client.upload(package.encode())
    for _ in range(5):
        assert client.fetch(package.signature_key) == [package.encode()]


def test_a_key_package_comes_before_its_inbox(client: NodeClient) -> None:
    address = new_address()
    update = created_inbox(address)
    key = update.actions[1].add.new_member_identifier.installation_public_key
    package = KeyPackage(key, identity=credential(update.inbox_id)).encode()
    client.upload(package)
    assert client.fetch(key) == [package]
    client.publish(update)
    assert client.fetch(key) == [package]


def test_answers_have_the_length_and_the_order_of_the_request(client: NodeClient) -> None:
    packages = [KeyPackage() for _ in range(3)]
    for package in packages:
        client.upload(package.encode())
    first, second, third = (package.signature_key for package in packages)
    asked = [third, new_key(), first, first, second, third, new_key(), first]
    known = {package.signature_key: package.encode() for package in packages}
    assert client.fetch(*asked) == [known.get(key, b"") for key in asked], "repeated keys included"


def test_installations_that_are_not_known_have_empty_entries(client: NodeClient) -> None:
    assert client.fetch(*(new_key() for _ in range(10))) == [b""] * 10
    assert client.fetch() == []


def test_all_installations_of_a_large_group_are_fetched_in_one_call(client: NodeClient) -> None:
    packages = [KeyPackage(extensions=b"\xff\1" + vec(bytes(1400))) for _ in range(2500)]
    calls = [
        client.future(
            "UploadKeyPackage",
            mls_api.UploadKeyPackageRequest(
                key_package=mls_api.KeyPackageUpload(key_package_tls_serialized=package.encode())
            ),
        )
        for package in packages
    ]
    for call in calls:
        call.result()
    found = client.fetch(*(package.signature_key for package in packages))
    assert found == [package.encode() for package in packages]
    assert len(found[0]) >= 1660


@pytest.mark.parametrize(
    "changes",
    [
        {"extensions": b""},
        {"leaf_extensions": b""},
        {"capabilities": (b"",) * 5},
        {"capabilities": (b"\0\1" * 100,) * 5},
        {"extensions": b"".join(bytes([0, number]) + vec(bytes(number)) for number in range(30))},
        {"identity": credential("A1" * 32)},
        {"identity": credential() + b"\x12\x04more"},
        {"lifetime": b"\xff" * 16},
    ],
)
def test_key_packages_of_other_shapes_are_accepted(client: NodeClient, changes: dict[str, Any]) -> None:
    package = KeyPackage(**changes)
    client.upload(package.encode())
    assert client.fetch(package.signature_key) == [package.encode()]


# --- what is refused --------------------------------------------------------------------------------------------------


def _refuse(client: NodeClient, package: bytes, key: bytes) -> None:
    with refused(INVALID):
        client.upload(package)
    assert client.fetch(key) == [b""]


def test_a_truncated_key_package_is_refused_wherever_it_ends(client: NodeClient) -> None:
    package = KeyPackage(extensions=b"\xff\1" + vec(bytes(70)))
    whole = package.encode()
    for size in range(len(whole)):
        with refused(INVALID):
            client.upload(whole[:size])
    assert client.fetch(package.signature_key) == [b""]
    client.upload(whole)
    assert client.fetch(package.signature_key) == [whole]


@pytest.mark.parametrize("more", [b"\0", b"\xff" * 100])
def test_a_key_package_does_not_go_on_after_its_end(client: NodeClient, more: bytes) -> None:
    package = KeyPackage()
    _refuse(client, package.encode() + more, package.signature_key)


@pytest.mark.parametrize(
    "changes",
    [
        *({"version": version} for version in (0, 2, 0xFFFF)),
        *({"suite": suite} for suite in (0, 1, 2, 4, 7, 0xFFFF)),
        *({name: bytes(size)} for name in ("init_key", "encryption_key") for size in (0, 31, 33, 64)),
        *({"credential_type": kind} for kind in (0, 2, 0xFFFF)),
        {"identity": b""},
        {"identity": b"\xff\xff"},
        {"identity": b"\x0a\x40" + b"g" * 64},
        {"identity": b"\x0a\x02\xff\xfe"},
        *({"identity": credential(text)} for text in ("", "a" * 63, "a" * 65, "0x" + "a" * 62, "a" * 63 + "\n")),
        *({"capabilities": (b"",) * place + (b"\0\1\0",) + (b"",) * (4 - place)} for place in range(5)),
        *({"source": source} for source in (0, 2, 3, 255)),
        *({name: bytes(size)} for name in ("signature", "leaf_signature") for size in (0, 63, 65)),
        *(
            {name: entry}
            for name in ("extensions", "leaf_extensions")
            for entry in (b"\0", b"\0\1", b"\0\1\5", b"\0\1\xc0")
        ),
    ],
)
def test_a_key_package_with_a_wrong_field_is_refused(client: NodeClient, changes: dict[str, Any]) -> None:
    package = KeyPackage(**changes)
    _refuse(client, package.encode(), package.signature_key)


@pytest.mark.parametrize("size", [0, 31, 33, 63, 64])
def test_the_installation_key_has_32_bytes(client: NodeClient, size: int) -> None:
    key = fresh(size)
    with refused(INVALID):
        client.upload(KeyPackage(key).encode())


_FIELDS = ("init_key", "encryption_key", "signature_key", "identity", "leaf_extensions", "leaf_signature", "signature")


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("name", _FIELDS)
def test_a_length_longer_than_it_need_be_is_refused(client: NodeClient, name: str, width: int) -> None:
    package = KeyPackage()
    parts = package.parts()
    content = getattr(package, name)
    if len(content) >= 64 and width == 2:
        width = 4
    parts[name] = wide_vec(content, width)
    _refuse(client, b"".join(parts.values()), package.signature_key)


@pytest.mark.parametrize("length", [b"\xc0", b"\xff\xff\xff\xff", b"\xbf\xff\xff\xff", b"\x7f\xff", b"\x3f"])
@pytest.mark.parametrize("name", [*_FIELDS, "extensions", "capabilities_0", "capabilities_4"])
def test_a_length_that_promises_more_than_there_is_is_refused(client: NodeClient, name: str, length: bytes) -> None:
    package = KeyPackage()
    parts = package.parts()
    keys = list(parts)
    place = keys.index(name)
    # What is behind the length is as long as what was there, so that nothing is left at the end by chance.
    head = b"".join(parts[key] for key in keys[:place])
    _refuse(client, head + length, package.signature_key)
    rest = b"".join(parts[key] for key in keys[place:])
    _refuse(client, (head + length + rest)[: len(package.encode())], package.signature_key)


def test_nothing_at_all_is_refused(client: NodeClient) -> None:
    with refused(INVALID):
        client.upload(b"")
    with refused(INVALID):
        client.call("UploadKeyPackage", mls_api.UploadKeyPackageRequest())


def test_a_refused_upload_leaves_the_one_before(client: NodeClient) -> None:
    package = KeyPackage()
    client.upload(package.encode())
    with refused(INVALID):
        client.upload(KeyPackage(package.signature_key, init_key=fresh(32)).encode() + b"\0")
    assert client.fetch(package.signature_key) == [package.encode()]


def test_a_key_package_that_is_too_large_is_refused(client: NodeClient) -> None:
    largest = KeyPackage(extensions=b"\xff\1" + vec(bytes(7000)))
    client.upload(largest.encode())
    assert client.fetch(largest.signature_key) == [largest.encode()]
    package = KeyPackage(extensions=b"\xff\1" + vec(bytes(100_000)))
    with refused(TOO_LARGE):
        client.upload(package.encode())
    assert client.fetch(package.signature_key) == [b""]


def test_the_largest_key_packages_of_a_large_group_fit_into_one_answer(client: NodeClient) -> None:
    package = KeyPackage(extensions=b"\xff\1" + vec(bytes(8000)))
    client.upload(package.encode())
    assert client.fetch(*[package.signature_key] * 2500) == [package.encode()] * 2500
    with refused(TOO_LARGE):
        client.fetch(*[package.signature_key] * 8000)
