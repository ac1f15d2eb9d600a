"""A store's whole content, hidden rows included, through an export and the independent reader."""

from __future__ import annotations

import io
import os
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from independent import Archive, read, write
from independent.elements import Element, plain
from support.build import KEY, STORE_KEY
from support.public import listing
from xmtp_history import History

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from xmtp_history import ArchiveOptions, ImportReport

#: Where files live in memory, if there is such a place: properties open hundreds of stores.
_MEMORY = "/dev/shm"  # noqa: S108 - the folder in it is made safely


@contextmanager
def new_store() -> Iterator[History]:
    """An empty store that is gone afterwards."""
    folder = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    with TemporaryDirectory(dir=folder) as path, History.open(Path(path) / "store.db3", STORE_KEY) as history:
        yield history


def import_elements(history: History, elements: Iterable[Element | bytes], **options: Any) -> ImportReport:
    """Writes elements into an archive with the independent writer and imports it."""
    return history.import_archive(write(None, KEY, elements), KEY, **options)


def export(history: History, options: ArchiveOptions | None = None) -> Archive:
    """Exports a store and reads the archive with the independent reader."""
    target = io.BytesIO()
    history.create_archive(target, KEY, options)
    return read(target.getvalue(), KEY)


def exported_records(history: History, options: ArchiveOptions | None = None) -> list[Element]:
    """What an export contains, in the form that is good for comparing.

    Everything is in the order of the archive but messages, which are put in that of their ids. They come in it by
    themselves where ids differ in their first eight bytes, as hashes do; ids made to agree in them come somewhere.
    """
    records = [(kind, plain(record)) for kind, record in export(history, options).records]
    messages = iter(sorted((record for kind, record in records if kind == "group_message"), key=lambda r: str(r["id"])))
    return [(kind, next(messages) if kind == "group_message" else record) for kind, record in records]


def snapshot(history: History) -> dict[str, Any]:
    """Everything that can be known about a store from outside."""
    return {**listing(history), "exported": exported_records(history)}
