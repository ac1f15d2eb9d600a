"""The only module that touches the native library: handles, buffers, errors.

Every native call runs without the interpreter lock. A handle is given back to the library when it is closed, or at the
latest when it is collected; a closed one raises ``ValueError``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeAlias

from xmtp_history import _errors
from xmtp_history._native import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

if lib.xh_abi_version() != lib.XH_ABI_VERSION:
    msg = "the native library does not belong to this version of xmtp_history: please install the package again"
    raise ImportError(msg)

if lib.xh_is_debug_build():
    import warnings

    warnings.warn("xmtp_history runs a debug build, which is many times slower", RuntimeWarning, stacklevel=2)

#: Whatever holds bytes.
BytesLike: TypeAlias = "bytes | bytearray | memoryview"

__version__ = ffi.string(lib.xh_version()).decode()

_BUILTINS: dict[str, type[Exception]] = {"ValueError": ValueError}


def key_bytes(key: object) -> bytes:
    """Copies a key out of whatever holds it; its length is checked where it is used.

    Raises:
        TypeError: not a bytes-like object.
    """
    if isinstance(key, bytes | bytearray | memoryview):
        return bytes(key)
    msg = f"a key is 32 bytes, not {type(key).__name__}; use bytes.fromhex() for a hexadecimal one"
    raise TypeError(msg)


def check(error: Any) -> None:
    """Raises the exception that a native error stands for."""
    if error == ffi.NULL:
        return
    details = json.loads(_take(lib.xh_error_take(error)))
    name, message = details["class"], details["message"]
    if name in _BUILTINS:
        raise _BUILTINS[name](message)
    exception: type[Exception] = getattr(_errors, name)
    if issubclass(exception, _errors.InvalidRecords):
        from xmtp_history._types import InvalidRecord

        records = tuple(InvalidRecord(*record) for record in details["records"])
        raise exception(message, records=records)
    if issubclass(exception, _errors.ArchiveError):
        raise exception(message, reason=details["reason"], element=details["element"], offset=details["offset"])
    raise exception(message)


def _take(buffer: Any) -> bytes:
    """Copies a buffer of the library and gives it back."""
    try:
        return ffi.buffer(buffer.data, buffer.length)[:] if buffer.length else b""
    finally:
        lib.xh_buffer_free(buffer)


def decode_content(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Opens an EncodedContent: its description and its body, still compressed."""
    description, body = ffi.new("XhBuffer *"), ffi.new("XhBuffer *")
    check(lib.xh_content_decode(content, len(content), description, body))
    return json.loads(_take(description[0])), _take(body[0])


class _Handle:
    """A native object.

    Closing empties it, after calls of other threads that still use it; its memory is freed when nobody refers to it any
    more. So there is no state here that an interrupt could leave half-changed.
    """

    def __init__(self, pointer: Any, close: Callable[[Any], None], free: Callable[[Any], None]) -> None:
        self._pointer: Any = ffi.gc(pointer, free)
        self._close = close

    @property
    def pointer(self) -> Any:
        """What native functions take.

        Raises:
            ValueError: it was closed.
        """
        pointer = self._pointer
        if pointer is None:
            msg = "already closed"
            raise ValueError(msg)
        return pointer

    def close(self) -> None:
        """Empties the object; closing twice is fine."""
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            self._close(pointer)


class Stream:
    """Archive bytes flowing in or out; see ``rust/ffi/stream.rs`` for the kinds and their options.

    Closing it before :meth:`finish` undoes what it did.
    """

    def __init__(
        self, kind: str, key: BytesLike, *, store: Store | None = None, target_key: BytesLike = b"", **options: object
    ) -> None:
        request = json.dumps({"stream": kind, **options}).encode()
        key, target_key = key_bytes(key), key_bytes(target_key)
        out = ffi.new("XhStream **")
        pointer = ffi.NULL if store is None else store.handle.pointer
        check(lib.xh_stream_open(request, len(request), pointer, key, len(key), target_key, len(target_key), out))
        self._handle = _Handle(out[0], lib.xh_stream_close, lib.xh_stream_free)

    def close(self) -> None:
        """Ends the stream; one that was not finished is undone."""
        self._handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def push(self, data: memoryview) -> int:
        """Pushes bytes in; returns how many were taken."""
        taken = ffi.new("size_t *")
        check(lib.xh_stream_push(self._handle.pointer, ffi.from_buffer("uint8_t[]", data), len(data), taken))
        return int(taken[0])

    def read_into(self, target: bytearray) -> int:
        """Fills ``target`` with archive bytes; returns how many."""
        filled = ffi.new("size_t *")
        out = ffi.from_buffer("uint8_t[]", target, require_writable=True)
        check(lib.xh_stream_read(self._handle.pointer, out, len(target), filled))
        return int(filled[0])

    def take(self) -> tuple[Any, bytes]:
        """Takes the batch of records gathered: runs of rows, and the blob with their content."""
        rows, blob = ffi.new("XhBuffer *"), ffi.new("XhBuffer *")
        check(lib.xh_stream_take(self._handle.pointer, rows, blob))
        return json.loads(_take(rows[0])), _take(blob[0])

    def head(self) -> tuple[list[Any], bool | None] | None:
        """The metadata row of the archive being read and whether it is a legacy one, as far as they were met."""
        out = ffi.new("XhBuffer *")
        check(lib.xh_stream_head(self._handle.pointer, out))
        head = json.loads(_take(out[0]))
        return None if head is None else tuple(head)

    def records(self) -> int:
        """How many records were handled so far."""
        return int(lib.xh_stream_records(self._handle.pointer))

    def finish(self) -> dict[str, Any]:
        """Ends the stream, committing what it did, and returns the report."""
        out = ffi.new("XhBuffer *")
        check(lib.xh_stream_finish(self._handle.pointer, out))
        report: dict[str, Any] = json.loads(_take(out[0]))
        return report


class Store:
    """The native history store."""

    def __init__(self, path: bytes, key: BytesLike, timeout_ms: int) -> None:
        key = key_bytes(key)
        out = ffi.new("XhStore **")
        check(lib.xh_store_open(path, len(path), key, len(key), timeout_ms, out))
        self.handle = _Handle(out[0], lib.xh_store_close, lib.xh_store_free)

    def close(self) -> None:
        """Closes the store."""
        self.handle.close()

    def counts(self) -> list[int]:
        """Conversations, messages, consent records."""
        out = ffi.new("XhBuffer *")
        check(lib.xh_store_counts(self.handle.pointer, out))
        counts: list[int] = json.loads(_take(out[0]))
        return counts

    def list(self, kind: str, **request: object) -> tuple[Any, bytes, Any]:
        """A page of records: runs of rows, the blob, and where the next page begins (None at the end)."""
        encoded = json.dumps({"list": kind, **request}).encode()
        rows, blob, following = ffi.new("XhBuffer *"), ffi.new("XhBuffer *"), ffi.new("XhBuffer *")
        check(lib.xh_store_list(self.handle.pointer, encoded, len(encoded), rows, blob, following))
        return json.loads(_take(rows[0])), _take(blob[0]), json.loads(_take(following[0]))

    def add(self, kind: str, rows: object, blob: bytes = b"") -> dict[str, Any]:
        """Adds rows of one kind in one transaction; returns the report."""
        encoded = json.dumps(rows).encode()
        out = ffi.new("XhBuffer *")
        check(lib.xh_store_add(self.handle.pointer, ord(kind), encoded, len(encoded), blob, len(blob), out))
        report: dict[str, Any] = json.loads(_take(out[0]))
        return report


class Installation:
    """The native installation: what a node answered goes in, what is to be sent comes out.

    See ``rust/ffi/installation.rs`` for what can be done.
    """

    def __init__(self, store: Store, inbox_id: str | None) -> None:
        wanted = (inbox_id or "").encode()
        out = ffi.new("XhInstallation **")
        check(lib.xh_installation_open(store.handle.pointer, wanted, len(wanted), out))
        self._handle = _Handle(out[0], lib.xh_installation_close, lib.xh_installation_free)

    def close(self) -> None:
        """Closes the installation, and lets others open it."""
        self._handle.close()

    def call(self, name: str, data: bytes = b"", **request: object) -> tuple[Any, bytes]:
        """Does one thing, in one transaction: the result, and bytes for the node."""
        encoded = json.dumps({"call": name, **request}).encode()
        answer, output = ffi.new("XhBuffer *"), ffi.new("XhBuffer *")
        pointer = self._handle.pointer
        check(lib.xh_installation_call(pointer, encoded, len(encoded), data, len(data), answer, output))
        return json.loads(_take(answer[0])), _take(output[0])


def identity_call(name: str, data: bytes = b"", **request: object) -> Any:
    """Answers a question about identities."""
    encoded = json.dumps({"call": name, **request}).encode()
    answer = ffi.new("XhBuffer *")
    check(lib.xh_identity_call(encoded, len(encoded), data, len(data), answer))
    return json.loads(_take(answer[0]))
