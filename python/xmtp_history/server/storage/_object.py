"""A storage that is a bucket of an object store: S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage."""

from __future__ import annotations

import asyncio
import errno
import secrets
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from xmtp_history.server.storage._base import FileEntry, ResumableEntry, UploadBusy
from xmtp_history.server.storage._object_bucket import Bucket, kind_of, pieces
from xmtp_history.server.storage._object_reading import open_object
from xmtp_history.server.storage._object_resumable import RESUMABLE, ObjectResumable, put_info, remove, resume, valid
from xmtp_history.server.storage._object_upload import FILES, Means, ObjectUpload, file_key
from xmtp_history.server.storage._threads import Threads

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Callable, Mapping

    from xmtp_history.server.storage._base import ResumableInfo, ResumableUpload, StoredFile, Upload

_PROBE = "probe/"

#: A probe that is older was left by a process that was killed, seconds.
_PROBE_SECONDS = 3600

#: How many threads work on spools.
_THREADS = 4

#: What obstore's threads need to let go of Python after their last answer, seconds, generously: a process that ends
#: before they have is aborted.
_SETTLE_SECONDS = 0.1

#: The longest that signed URLs are good for, seconds.
_MAX_REDIRECT_SECONDS = 7 * 24 * 3600


class ObjectStorage:
    """Files in a bucket; needs ``pip install 'xmtp-history[s3]'``.

    Any number of servers on any number of machines may share the bucket, and need nothing else in common. Credentials,
    region and endpoint come from the usual environment variables, such as ``AWS_ACCESS_KEY_ID``,
    ``AWS_SECRET_ACCESS_KEY``, ``AWS_REGION``, ``AWS_ENDPOINT_URL`` and ``AWS_ALLOW_HTTP``, or from the machine's role.

    Files are at ``files/ID`` below the prefix, and resumable uploads below ``resumable/``. Whatever a killed process left
    half-way of a large object can be seen by nobody, but takes up room: have a lifecycle rule of the bucket remove
    incomplete multipart uploads.

    Args:
        url: the bucket and a prefix in it, such as ``s3://bucket/prefix``, ``gs://…``, ``az://…``.
        spool: a directory for uploads on their way; None is the system's for temporary files. It needs room for all
            uploads that go on at once, and is empty whenever no upload does.
        redirect: whether those who fetch files are sent to the bucket, by a signed URL.
        redirect_seconds: how long such a URL is good for.
        timeout: how long the bucket may take for an answer, also to the 8 MiB at a time that are sent to it, seconds.
        options: of ``obstore`` for this kind of bucket, such as ``region``; they go before those in the environment.

    Raises:
        ImportError: ``obstore`` is not installed.
        ValueError: the URL names no bucket, or one that cannot sign URLs although they are wanted.
    """

    def __init__(
        self,
        url: str,
        *,
        spool: str | os.PathLike[str] | None = None,
        redirect: bool = False,
        redirect_seconds: float = 300,
        timeout: float = 20,
        options: Mapping[str, str] | None = None,
    ) -> None:
        if not 1 <= redirect_seconds <= _MAX_REDIRECT_SECONDS:
            raise ValueError("redirect_seconds must be from 1 to a week")
        if timeout <= 0:
            raise ValueError("timeout must be positive")
        if kind_of(url) == "memory" and redirect:
            raise ValueError("this kind of bucket cannot sign URLs")
        self._url = url
        self._spool = None if spool is None else Path(spool).absolute()
        self._redirect_seconds = redirect_seconds if redirect else None
        self._timeout = timeout
        self._options = dict(options or {})
        self._threads = Threads(_THREADS)
        self._bucket: Bucket | None = None
        self._means: Means | None = None
        self._held: set[str] = set()

    async def prepare(self) -> None:
        """Asks the bucket for something, to see whether it answers, and makes the directory for the spool.

        Raises:
            ValueError: an option is not valid.
        """
        if self._bucket is None:
            # Not before: what obstore starts does not survive a fork.
            self._bucket = Bucket(self._url, self._options, self._timeout)
        leftover = time.time() - _PROBE_SECONDS
        async for batch in self._bucket.objects(_PROBE):
            with suppress(OSError):
                await self._bucket.delete([one["path"] for one in batch if one["last_modified"].timestamp() < leftover])
        self._threads.start()
        if self._spool is not None:
            await self._threads.run(self._spool.mkdir, mode=0o700, parents=True, exist_ok=True)
        if self._means is None:
            self._means = Means(self._bucket, self._threads, self._spool)

    async def aclose(self) -> None:
        """Waits for what is still at work, and lets go of the threads."""
        means, self._means = self._means, None
        if means is not None and means.running:
            await asyncio.wait(set(means.running))
        await self._threads.stop()
        if self._bucket is not None:
            await asyncio.sleep(_SETTLE_SECONDS)

    async def probe(self) -> None:
        """Writes, reads and deletes an object."""
        bucket, key, content = self._ready.bucket, _PROBE + secrets.token_hex(16), secrets.token_bytes(16)
        try:
            await bucket.put(key, content, {})
            found = await bucket.get(key)
            read = b"".join([bytes(piece) async for piece in pieces(found)])
        except OSError:
            await bucket.forget(key)
            raise
        await bucket.delete([key])
        if read != content:
            raise OSError(errno.EIO, "the bucket gives back something else")

    def create(self) -> Upload:
        """A new upload, which reaches the bucket with its commit."""
        return ObjectUpload(self._ready)

    async def open(self, file_id: UUID, /, *, content: bool = True) -> StoredFile | None:
        """The file of this id, or None."""
        return await open_object(self._ready.bucket, file_id, content=content)

    async def location(self, file_id: UUID, /) -> str | None:
        """A signed URL where that is wanted; whether the file is there is not asked."""
        if self._redirect_seconds is None:
            return None
        return await self._ready.bucket.url(file_key(file_id), self._redirect_seconds)

    async def delete(self, file_id: UUID, /) -> bool:
        """Removes a file; says whether it was there. An answer on its way usually goes on."""
        bucket = self._ready.bucket
        if await open_object(bucket, file_id, content=False) is None:
            return False
        await bucket.delete([file_key(file_id)])
        return True

    async def create_resumable(self, info: ResumableInfo, /) -> tuple[str, ResumableUpload]:
        """A new resumable upload and its id."""
        means, upload_id = self._ready, secrets.token_hex(16)
        await put_info(means, upload_id, info)
        self._held.add(upload_id)
        released = self._releasing(upload_id)
        return upload_id, ObjectResumable(means, upload_id, info, sha256=None, segments=[], released=released)

    async def resume(self, upload_id: str, /) -> ResumableUpload | None:
        """The resumable upload of this id, or None.

        Servers that share the bucket do not know of each other: one that has lost an upload to another is told with
        UploadBusy by what it does next.
        """
        means = self._ready
        if not valid(upload_id):
            return None
        if upload_id in self._held:
            raise UploadBusy
        self._held.add(upload_id)
        upload = None
        try:
            upload = await resume(means, upload_id, self._releasing(upload_id))
        finally:
            if upload is None:
                self._held.discard(upload_id)
        return upload

    async def files(self) -> AsyncIterator[list[FileEntry]]:
        """All files, in batches of at most 1,000."""
        async for batch in self._ready.bucket.objects(FILES):
            entries: list[FileEntry] = []
            for found in batch:
                name = found["path"].removeprefix(FILES)
                with suppress(ValueError):
                    if str(file_id := UUID(name)) == name:
                        entries.append(FileEntry(file_id, found["size"], found["last_modified"].timestamp()))
            yield entries

    async def resumables(self) -> AsyncIterator[list[ResumableEntry]]:
        """All resumable uploads, in batches; the bucket lists the objects of one after the other."""
        last: ResumableEntry | None = None
        async for batch in self._ready.bucket.objects(RESUMABLE):
            entries: list[ResumableEntry] = []
            for found in batch:
                upload_id = found["path"].removeprefix(RESUMABLE).partition("/")[0]
                if not valid(upload_id):
                    continue
                size, touched = found["size"], found["last_modified"].timestamp()
                if last is not None and last.upload_id == upload_id:
                    last = ResumableEntry(upload_id, last.size + size, max(last.touched, touched))
                    continue
                if last is not None:
                    entries.append(last)
                last = ResumableEntry(upload_id, size, touched)
            if entries:
                yield entries
        if last is not None:
            yield [last]

    async def discard(self, upload_id: str, /) -> bool:
        """Removes a resumable upload that is not in use by this storage."""
        if not valid(upload_id) or upload_id in self._held:
            return False
        self._held.add(upload_id)
        try:
            return await remove(self._ready, upload_id)
        finally:
            self._held.discard(upload_id)

    async def free_bytes(self) -> int | None:
        """Room for spools."""
        folder = self._spool or Path(tempfile.gettempdir())
        return (await self._threads.run(shutil.disk_usage, folder)).free

    @property
    def _ready(self) -> Means:
        if self._means is None:
            raise RuntimeError("the storage is not prepared")
        return self._means

    def _releasing(self, upload_id: str) -> Callable[[], None]:
        return lambda: self._held.discard(upload_id)
