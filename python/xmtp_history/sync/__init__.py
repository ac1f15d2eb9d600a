"""The client's side of a history server: archives go up, come down, and are deleted.

``_upload`` and ``_download`` do that; ``_tus`` is an upload that can be resumed, ``_stream`` a download that goes on after
interruptions, and ``_transfer`` joins them to a store. ``_http`` sends requests and says whether a failure is worth another
try, ``_retry`` waits before it. ``_urls`` knows what of a URL may be shown, ``_sources`` where the bytes of an upload come
from, and ``_progress`` reports.
"""

from __future__ import annotations

from xmtp_history.sync._download import download_archive
from xmtp_history.sync._transfer import SentArchive
from xmtp_history.sync._upload import delete_archive, upload_archive

__all__ = ["SentArchive", "delete_archive", "download_archive", "upload_archive"]

for _public in (SentArchive, delete_archive, download_archive, upload_archive):
    _public.__module__ = "xmtp_history"
