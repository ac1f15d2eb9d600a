"""Archives between the history of a client and history servers or files."""

from __future__ import annotations

import asyncio
import re
import secrets
from contextlib import asynccontextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from xmtp_history import _rows
from xmtp_history._archive import archive_metadata
from xmtp_history._errors import NetworkError
from xmtp_history._threads import in_thread
from xmtp_history._types import ArchiveElement, ArchiveOptions

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from xmtp_history._ffi import BytesLike
    from xmtp_history._history import History
    from xmtp_history._io import OnProgress, Source, Target
    from xmtp_history._types import ArchiveMetadata, ArchiveReport, ImportReport, Progress
    from xmtp_history.client._core import Core
    from xmtp_history.client._groups import Groups
    from xmtp_history.sync._transfer import ReceivedArchive, SentArchive

_Result = TypeVar("_Result")

#: An up- or download fails if nothing moves for so long, seconds; so one that hangs does not hold up the next ones for long.
STALL_SECONDS: Final = 120.0
#: How long an import may keep others from writing because its server is slow, seconds.
MAX_SECONDS: Final = 3600.0

_KEY_BYTES: Final = 32
#: Stands for a version that is not known: messages about archives do not say it.
_UNKNOWN_VERSION: Final = 65535
_URL = re.compile(r"https?://[^/?#\s]+[^\s]*", re.IGNORECASE)
#: It takes a quarter of a second to load, most of it aiohttp.
_TRANSFER: Final = "xmtp_history.sync._transfer"


class Transfers:
    """Moves archives; of imports there is one at a time.

    Args:
        core: the native installation, whose calls wait for imports.
        groups: joins groups before an import, so that real ones come before an archive's copies.
        history: what is exported and imported.
        inbox_id: the user's own inbox.
    """

    def __init__(self, core: Core, groups: Groups, history: History, inbox_id: str) -> None:
        self._core = core
        self._groups = groups
        self._history = history
        self._inbox_id = inbox_id
        self._turn = asyncio.Lock()
        self._loaded: asyncio.Future[object] | None = None

    def prepare(self) -> asyncio.Future[object]:
        """Loads what transfers need, on a thread, so that the first one finds it there."""
        if self._loaded is None or self._loaded.cancelled():
            self._loaded = asyncio.get_running_loop().run_in_executor(None, import_module, _TRANSFER)
        return self._loaded

    async def send(
        self,
        server_url: str,
        options: ArchiveOptions,
        *,
        max_bytes: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> tuple[SentArchive, bytes]:
        """Uploads an archive. Returns what became of it, and its key, which no other archive has."""
        await asyncio.shield(self.prepare())
        from xmtp_history.sync._transfer import send_archive

        key = secrets.token_bytes(_KEY_BYTES)
        async with _moving(server_url, on_progress) as note:
            sent = await send_archive(
                self._history,
                server_url,
                key,
                options,
                max_bytes=max_bytes,
                on_progress=note,
                stall_timeout=STALL_SECONDS,
            )
        return sent, key

    async def receive(
        self, url: str, key: bytes, *, patient: bool, on_progress: OnProgress | None = None
    ) -> ReceivedArchive:
        """Imports an archive from a server.

        Args:
            url: where it is.
            key: what opens it.
            patient: whether groups that cannot be joined now are worth a later try.
            on_progress: as for :func:`download_archive`.

        Raises:
            ValueError: the URL is not one of a server.
        """
        if not is_url(url):
            raise ValueError("the archive has no URL that could be fetched")
        await asyncio.shield(self.prepare())
        from xmtp_history.sync._transfer import receive_archive

        async with self._importing(patient=patient), _moving(url, on_progress) as note:
            return await receive_archive(
                self._history,
                url,
                key,
                inbox_id=self._inbox_id,
                on_progress=note,
                stall_timeout=STALL_SECONDS,
                max_seconds=MAX_SECONDS,
            )

    async def create_file(
        self, target: Target, key: BytesLike, options: ArchiveOptions | None, on_progress: OnProgress | None
    ) -> ArchiveReport:
        """Exports to a file."""
        return await _on_thread(partial(self._history.create_archive, target, key, options), on_progress)

    async def import_file(
        self, source: Source, key: BytesLike, *, lenient: bool, on_progress: OnProgress | None
    ) -> ImportReport:
        """Imports from a file."""
        work = partial(self._history.import_archive, source, key, lenient=lenient, inbox_id=self._inbox_id)
        async with self._importing(patient=False):
            return await _on_thread(work, on_progress)

    @asynccontextmanager
    async def _importing(self, *, patient: bool) -> AsyncGenerator[None]:
        # Whoever has this turn waits for nobody but groups that are being synced, and those wait for an import at most,
        # which is over before this turn is given on.
        async with self._turn:
            try:
                await self._groups.sync_welcomes()
            except NetworkError:
                if patient:
                    raise
            with self._core.importing():
                yield


@asynccontextmanager
async def _moving(url: str, on_progress: OnProgress | None) -> AsyncGenerator[OnProgress]:
    """Ends a transfer in which nothing moves; what notes its progress is given.

    Raises:
        NetworkError: nothing has moved for too long.
    """
    now = asyncio.get_running_loop().time
    furthest = (0, 0)
    limit = asyncio.timeout(STALL_SECONDS)

    def note(progress: Progress) -> None:
        nonlocal furthest
        if (progress.done, progress.bytes_done) > furthest:
            furthest = (progress.done, progress.bytes_done)
            if not limit.expired():
                limit.reschedule(None if _is_complete(progress) else now() + STALL_SECONDS)
        if on_progress is not None:
            on_progress(progress)

    try:
        async with limit:
            yield note
    except TimeoutError:
        if not limit.expired():
            raise
        raise NetworkError(f"{host_of(url)}: nothing has moved for {STALL_SECONDS:g} s") from None


def _is_complete(progress: Progress) -> bool:
    """Whether everything has arrived: the rest is the store's, and takes the time that it takes."""
    return progress.phase == "import"


async def metadata_of(source: Source, key: BytesLike) -> ArchiveMetadata:
    """What an archive says of itself."""
    return await in_thread(partial(archive_metadata, source, key))


class _Stopped(Exception):
    """Work on a thread is to end, because nobody waits for it any more."""


async def _on_thread(work: Callable[..., _Result], on_progress: OnProgress | None) -> _Result:
    """Does work that reports its progress; called on the event loop. When cancelled, it ends soon, and leaves nothing."""
    loop = asyncio.get_running_loop()
    stopped = False

    def report(progress: Progress) -> None:
        if stopped:
            raise _Stopped
        if on_progress is not None:
            loop.call_soon_threadsafe(on_progress, progress)

    def stop() -> None:
        nonlocal stopped
        stopped = True

    return await in_thread(partial(work, on_progress=report), on_cancel=stop)


def is_url(url: str) -> bool:
    """Whether something is the URL of a server, or of what is on one."""
    try:
        parts = urlsplit(url)
        # A port that is none is only noticed now.
        _ = parts.port
    except ValueError:
        return False
    return _URL.fullmatch(url) is not None and bool(parts.hostname)


def server_url_of(url: str) -> str:
    """The base URL of a history server, without slashes at its end.

    Raises:
        ValueError: it is not such a URL. The message does not repeat it.
    """
    if not is_url(url) or urlsplit(url).query or urlsplit(url).fragment or "?" in url:
        raise ValueError("the URL of a history server is one such as https://history.example.org")
    return url.rstrip("/")


def host_of(url: str) -> str:
    """What of a URL may be shown."""
    try:
        return urlsplit(url).hostname or "an unknown server"
    except ValueError:
        return "an unknown server"


def options_row(options: ArchiveOptions) -> dict[str, Any]:
    """Options as a request has them."""
    return {
        "elements": [element.value for element in options.elements],
        "start_ns": options.start_ns,
        "end_ns": options.end_ns,
        "exclude_disappearing_messages": options.exclude_disappearing_messages,
    }


def options_of(row: Mapping[str, Any] | None) -> ArchiveOptions:
    """The options of a request; one without any asks for everything, and what is not known cannot be sent."""
    if row is None:
        return ArchiveOptions()
    known = {element.value: element for element in ArchiveElement}
    return ArchiveOptions(
        elements=tuple(dict.fromkeys(known[number] for number in row["elements"] if number in known)),
        start_ns=row["start_ns"],
        end_ns=row["end_ns"],
        exclude_disappearing_messages=row["exclude_disappearing_messages"],
    )


def metadata_row(report: ArchiveReport) -> dict[str, Any]:
    """An archive's metadata as a reply has it."""
    metadata = report.metadata
    return {
        "elements": [
            element.value if isinstance(element, ArchiveElement) else element for element in metadata.elements
        ],
        "exported_at_ns": metadata.exported_at_ns,
        "start_ns": metadata.start_ns,
        "end_ns": metadata.end_ns,
    }


def metadata_from(row: Mapping[str, Any]) -> ArchiveMetadata:
    """An archive's metadata from a reply."""
    return _rows.metadata([_UNKNOWN_VERSION, row["elements"], row["exported_at_ns"], row["start_ns"], row["end_ns"]])
