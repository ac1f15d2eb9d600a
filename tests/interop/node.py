"""The smallest XMTP node that real libxmtp installations can work with: in memory, on loopback, checking nothing.

Requests and answers are taken apart and put together field by field. What it need not understand it hands on as bytes.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import grpc

from independent.protobuf import field_bytes, wire_fields

if TYPE_CHECKING:
    from collections.abc import Callable

_PAGE = 100
_MLS = "xmtp.mls.api.v1.MlsApi"
_IDENTITY = "xmtp.identity.api.v1.IdentityApi"


def _all(data: bytes, number: int) -> list[Any]:
    return [value for found, _, value, _ in wire_fields(data) if found == number]


def _one(data: bytes, number: int, default: Any = b"") -> Any:
    return (_all(data, number) or [default])[-1]


def _some(fields: dict[int, int | bytes | None]) -> bytes:
    return b"".join(field_bytes(number, value) for number, value in fields.items() if value)


def _vector(data: bytes, at: int) -> tuple[bytes, int]:
    """A variable-size vector of MLS: the top two bits of its first byte say how long the length is."""
    width = 1 << (data[at] >> 6)
    size = int.from_bytes(data[at : at + width], "big") & ((1 << (8 * width - 2)) - 1)
    at += width
    return data[at : at + size], at + size


def _installation_of(key_package: bytes) -> bytes:
    _, at = _vector(key_package, 4)  # version, cipher suite, init key
    _, at = _vector(key_package, at)  # the leaf's encryption key
    return _vector(key_package, at)[0]


def _group_of(message: bytes) -> tuple[bytes, bool]:
    """Group id of a private MLS message, and whether it is a commit."""
    group, at = _vector(message, 4)
    return group, message[at + 8] == 3


class Node:
    """A node for the length of a ``with`` block; :attr:`url` is where it listens."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_id = 0
        self._key_packages: dict[bytes, bytes] = {}
        self._group_messages: dict[bytes, list[tuple[int, bytes]]] = defaultdict(list)
        self._welcomes: dict[bytes, list[tuple[int, bytes]]] = defaultdict(list)
        self._updates: dict[bytes, list[tuple[int, int, bytes]]] = defaultdict(list)
        self._inboxes: dict[bytes, bytes] = {}
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._server = grpc.server(ThreadPoolExecutor(8), options=options)
        self._serve(_MLS, self._upload_key_package, self._fetch_key_packages, self._send_group_messages)
        self._serve(_MLS, self._query_group_messages, self._send_welcome_messages, self._query_welcome_messages)
        self._serve(_MLS, self._batch_publish_commit_log, self._batch_query_commit_log, self._get_newest_group_message)
        self._serve(_IDENTITY, self._publish_identity_update, self._get_identity_updates, self._get_inbox_ids)
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()

    def _serve(self, service: str, *methods: Callable[[bytes], bytes]) -> None:
        def handler(method: Callable[[bytes], bytes]) -> Any:
            def call(request: bytes, _context: object) -> bytes:
                with self._lock:
                    return method(request)

            return grpc.unary_unary_rpc_method_handler(call)

        named = {"".join(part.title() for part in m.__name__.split("_")): handler(m) for m in methods}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, named),))

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    @staticmethod
    def _page(items: list[tuple[int, bytes]], paging: bytes) -> bytes:
        newest_first = _one(paging, 1, 0) == 2
        limit, cursor = _one(paging, 2, 0) or _PAGE, _one(paging, 3, 0)
        if newest_first:
            rows = [row for row in reversed(items) if not cursor or row[0] < cursor][:limit]
        else:
            rows = [row for row in items if row[0] > cursor][:limit]
        info = {1: 2 if newest_first else 1, 2: limit, 3: rows[-1][0] if len(rows) == limit else None}
        return b"".join(field_bytes(1, row) for _, row in rows) + field_bytes(2, _some(info))

    # --- MlsApi ------------------------------------------------------------------------------------------------------

    def _upload_key_package(self, request: bytes) -> bytes:
        key_package = _one(_one(request, 1), 1)
        self._key_packages[_installation_of(key_package)] = key_package
        return b""

    def _fetch_key_packages(self, request: bytes) -> bytes:
        found = (self._key_packages.get(key, b"") for key in _all(request, 1))
        return b"".join(field_bytes(1, _some({1: key_package})) for key_package in found)

    def _send_group_messages(self, request: bytes) -> bytes:
        for message in _all(request, 1):
            sent = _one(message, 1)
            data, number = _one(sent, 1), self._next_id()
            group, is_commit = _group_of(data)
            stored = {
                1: number,
                2: time.time_ns(),
                3: group,
                4: data,
                5: _one(sent, 2),
                6: _one(sent, 3, 0),
                7: int(is_commit),
            }
            self._group_messages[group].append((number, field_bytes(1, _some(stored))))
        return b""

    def _query_group_messages(self, request: bytes) -> bytes:
        return self._page(self._group_messages[_one(request, 1)], _one(request, 2))

    def _get_newest_group_message(self, request: bytes) -> bytes:
        newest = (self._group_messages[group][-1:] for group in _all(request, 1))
        return b"".join(field_bytes(1, _some({1: rows[0][1] if rows else None})) for rows in newest)

    def _send_welcome_messages(self, request: bytes) -> bytes:
        for message in _all(request, 1):
            # Field 1 is a welcome, field 2 a pointer to one. The answer has two fields in front: id and time.
            ((version, _, sent, _),) = wire_fields(message)
            assert isinstance(sent, bytes)
            number = self._next_id()
            moved = {number_ + (2 if number_ <= 4 else 0): value for number_, _, value, _ in wire_fields(sent)}
            stored = field_bytes(version, _some({1: number, 2: time.time_ns(), **moved}))
            self._welcomes[_one(sent, 1)].append((number, stored))
        return b""

    def _query_welcome_messages(self, request: bytes) -> bytes:
        return self._page(self._welcomes[_one(request, 1)], _one(request, 2))

    def _batch_publish_commit_log(self, _request: bytes) -> bytes:
        return b""

    def _batch_query_commit_log(self, request: bytes) -> bytes:
        return b"".join(field_bytes(1, _some({1: _one(query, 1)})) for query in _all(request, 1))

    # --- IdentityApi -------------------------------------------------------------------------------------------------

    def _publish_identity_update(self, request: bytes) -> bytes:
        update = _one(request, 1)
        inbox = _one(update, 3)
        if any(stored == update for _, _, stored in self._updates[inbox]):
            return b""
        self._updates[inbox].append((self._next_id(), time.time_ns(), update))
        for action in _all(update, 1):
            if created := _one(action, 1):
                self._inboxes[_one(created, 1).lower()] = inbox
        return b""

    def _get_identity_updates(self, request: bytes) -> bytes:
        out = b""
        for query in _all(request, 1):
            inbox, after = _one(query, 1), _one(query, 2, 0)
            entries = (entry for entry in self._updates[inbox] if entry[0] > after)
            updates = b"".join(field_bytes(2, _some({1: n, 2: at, 3: update})) for n, at, update in entries)
            out += field_bytes(1, field_bytes(1, inbox) + updates)
        return out

    def _get_inbox_ids(self, request: bytes) -> bytes:
        out = b""
        for query in _all(request, 1):
            address = _one(query, 1)
            out += field_bytes(1, _some({1: address, 2: self._inboxes.get(address.lower()), 3: _one(query, 2, 0)}))
        return out
