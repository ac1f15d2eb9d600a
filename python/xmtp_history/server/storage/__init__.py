"""Storages: one that is a directory, one that is a bucket, and what both promise (``_base``)."""

from __future__ import annotations

from xmtp_history.server.storage._base import (
    FileEntry,
    FileInfo,
    NewFile,
    ResumableEntry,
    ResumableInfo,
    ResumableUpload,
    Storage,
    StoredFile,
    Upload,
    UploadBusy,
)
from xmtp_history.server.storage._local import LocalStorage
from xmtp_history.server.storage._object import ObjectStorage

__all__ = [
    "FileEntry",
    "FileInfo",
    "LocalStorage",
    "NewFile",
    "ObjectStorage",
    "ResumableEntry",
    "ResumableInfo",
    "ResumableUpload",
    "Storage",
    "StoredFile",
    "Upload",
    "UploadBusy",
]
