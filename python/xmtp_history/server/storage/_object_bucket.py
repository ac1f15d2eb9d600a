"""A bucket of an object store, as ``obstore`` reaches it: keys, bytes and attributes, and errors that tell no secrets."""

from __future__ import annotations

import asyncio
import errno
import os
import re
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from obstore import Attributes, GetOptions, GetResult, ObjectMeta
    from obstore.store import ClientConfig, ObjectStore, S3Config, S3Store

#: What is larger is sent in parts of this size.
PART_BYTES = 8 * 1024 * 1024

#: How many parts of one object are on their way at once.
PARTS_AT_ONCE = 2

#: More parts no object may have.
MAX_PARTS = 10_000

#: Fewer bytes are not handed from obstore to Python.
_STREAM_BYTES = 64 * 1024

_CONNECT_SECONDS = 5.0

#: How long failed requests are repeated, seconds.
_RETRY_SECONDS = 10.0

#: How long what is only done to clean up may take, seconds.
_CLEAN_UP_SECONDS = 3.0

#: Options of the HTTP client. obstore wants them apart, and forgets those in the environment once one is given.
_CLIENT_OPTIONS = frozenset(
    {
        "allow_http",
        "allow_invalid_certificates",
        "connect_timeout",
        "http1_only",
        "http2_only",
        "pool_idle_timeout",
        "pool_max_idle_per_host",
        "proxy_ca_certificate",
        "proxy_excludes",
        "proxy_url",
        "randomize_addresses",
        "read_timeout",
        "root_certificate",
        "timeout",
        "user_agent",
    }
)

#: How the names of options begin, also in the environment, by what ``obstore.parse_scheme`` calls the kinds of stores.
_PREFIXES = {"s3": "aws_", "gcs": "google_", "azure": "azure_"}

_STATUS = re.compile(r"status code: (\d{3})\b")
_CODE = re.compile(r"<Code>([A-Za-z]{1,40})</Code>")


class Bucket:
    """Objects below the prefix that a URL names.

    Args:
        url: such as ``s3://bucket/prefix``.
        options: of obstore for this kind of store, over those in the environment.
        timeout: how long the bucket may take for an answer, seconds.
    """

    def __init__(self, url: str, options: Mapping[str, str], timeout: float) -> None:
        """Gets ready.

        Raises:
            ImportError: obstore is not installed.
            ValueError: the URL or an option makes no sense.
        """
        from obstore.exceptions import BaseError
        from obstore.store import MemoryStore, from_url

        kind = kind_of(url)
        if kind == "memory":
            self._store: ObjectStore = MemoryStore()
            return
        config, client = _sorted(_PREFIXES[kind], options)
        # A limit for a whole answer would end slow downloads; one for each step is enough.
        defaults = {"connect_timeout": f"{_CONNECT_SECONDS}s", "read_timeout": f"{timeout}s", "timeout": "1day"}
        try:
            self._store = from_url(
                url,
                config=cast("S3Config", config),
                client_options=cast("ClientConfig", {**defaults, **client}),
                retry_config={
                    "max_retries": 10,
                    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=2)},
                    "retry_timeout": timedelta(seconds=_RETRY_SECONDS),
                },
            )
        except (BaseError, ValueError):
            # What it says repeats the values, which may be secrets.
            raise ValueError("the bucket's URL or an option is not valid") from None

    async def put(
        self,
        key: str,
        content: bytes | AsyncIterator[bytes],
        attributes: Mapping[str, str],
        *,
        create: bool = False,
    ) -> None:
        """Stores an object, all of it or nothing.

        Args:
            key: where.
            content: all of it, or its pieces, which are sent in parts.
            attributes: user metadata, and HTTP headers by their names.
            create: whether it must not be there yet.

        Raises:
            FileExistsError: an object is there; maybe this one, where the answer to the first try was lost.
            OSError: the bucket does not take it, or it has and the answer was lost.
        """
        import obstore

        with _failures():
            await obstore.put_async(
                self._store,
                key,
                content,
                attributes=cast("Attributes", dict(attributes)),
                mode="create" if create else "overwrite",
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )

    async def get(
        self, key: str, *, head: bool = False, span: tuple[int, int] | None = None, etag: str | None = None
    ) -> GetResult:
        """Asks for an object.

        Args:
            key: where.
            head: whether its content is not wanted.
            span: begin and end of what is wanted of the content.
            etag: what it has to be still.

        Raises:
            FileNotFoundError: there is none.
            OSError: the bucket does not answer as it should.
        """
        import obstore

        options: GetOptions = {"head": head}
        if span is not None:
            options["range"] = span
        if etag is not None:
            options["if_match"] = etag
        with _failures():
            return await obstore.get_async(self._store, key, options=options)

    async def delete(self, keys: Sequence[str]) -> None:
        """Removes objects, whether or not they are there.

        Raises:
            OSError: the bucket does not; some may be gone.
        """
        import obstore

        if not keys:
            return
        with _failures():
            try:
                await obstore.delete_async(self._store, keys)
            except FileNotFoundError:
                # Some kinds of buckets complain, and it is not said of which.
                for key in keys:
                    with suppress(FileNotFoundError):
                        await obstore.delete_async(self._store, key)

    async def objects(self, prefix: str) -> AsyncIterator[Sequence[ObjectMeta]]:
        """Everything below a prefix, in batches of at most 1,000, in the order of the keys.

        Raises:
            OSError: the bucket cannot be listed.
        """
        import obstore

        with _failures():
            stream = obstore.list(self._store, prefix, chunk_size=1000)
        while True:
            with _failures():
                try:
                    batch = await anext(stream)
                except StopAsyncIteration:
                    return
            yield batch

    async def url(self, key: str, seconds: float) -> str:
        """A URL with which anybody can get an object for a time.

        Raises:
            OSError: there are no credentials for signing.
        """
        import obstore

        with _failures():
            return await obstore.sign_async(cast("S3Store", self._store), "GET", key, timedelta(seconds=seconds))

    async def holds(self, key: str, size: int, attributes: Mapping[str, str]) -> bool:
        """Whether there is an object of this size with these attributes; False as well where that cannot be found out."""
        try:
            async with asyncio.timeout(_CLEAN_UP_SECONDS):
                found = await self.get(key, head=True)
        except OSError:
            return False
        has = cast("Mapping[str, str]", found.attributes)
        return found.meta["size"] == size and all(has.get(name) == value for name, value in attributes.items())

    async def forget(self, key: str) -> bool:
        """Tries to remove an object, not for long; says whether it is gone."""
        try:
            async with asyncio.timeout(_CLEAN_UP_SECONDS):
                await self.delete([key])
        except OSError:
            return False
        return True


async def pieces(found: GetResult) -> AsyncIterator[memoryview]:
    """The content of an object that was asked for, as it comes in.

    Raises:
        OSError: the rest does not come.
    """
    stream = found.stream(min_chunk_size=_STREAM_BYTES)
    while True:
        with _failures():
            try:
                piece = await anext(stream)
            except StopAsyncIteration:
                return
        yield memoryview(piece)


def kind_of(url: str) -> str:
    """What kind of bucket a URL names: ``s3``, ``gcs``, ``azure``, ``memory``.

    Raises:
        ImportError: obstore is not installed.
        ValueError: it names none in which files can be kept.
    """
    try:
        import obstore
        from obstore.exceptions import BaseError
    except ImportError as error:
        raise ImportError("object storage needs obstore: pip install 'xmtp-history[s3]'") from error
    try:
        kind: str = obstore.parse_scheme(url)
    except (BaseError, ValueError):
        kind = ""
    if kind not in {*_PREFIXES, "memory"}:
        raise ValueError("the URL names no bucket; it begins with s3://, gs:// or az://")
    return kind


def _sorted(prefix: str, options: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Tells options of the store from those of the HTTP client, and adds the latter from the environment."""
    config: dict[str, str] = {}
    client: dict[str, str] = {}
    for option in _CLIENT_OPTIONS:
        if value := os.environ.get((prefix + option).upper()):
            client[option] = value
    for name, value in options.items():
        option = name.lower().removeprefix(prefix)
        (client if option in _CLIENT_OPTIONS else config)[option] = value
    return config, client


@contextmanager
def _failures() -> Iterator[None]:
    """Has all that goes wrong with the bucket be OSErrors. What obstore says holds keys, URLs and answers: it stays here."""
    from obstore.exceptions import AlreadyExistsError, BaseError

    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "the bucket has no such object") from None
    except AlreadyExistsError:
        raise FileExistsError(errno.EEXIST, "the bucket has such an object") from None
    except (BaseError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            # Reading what was to be stored has failed.
            raise
        raise _failure(str(error)) from None


def _failure(said: str) -> OSError:
    if status := _STATUS.search(said):
        code = _CODE.search(said)
        return OSError(errno.EIO, f"the bucket answers {status[1]}{f' {code[1]}' if code else ''}")
    if "TimedOut" in said or "kind: Timeout" in said:
        return TimeoutError(errno.ETIMEDOUT, "the bucket does not answer in time")
    return OSError(errno.EIO, "the connection to the bucket fails")
