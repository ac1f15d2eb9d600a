"""A history server: keeps the encrypted archives that one installation of an inbox leaves for another.

    async with HistoryServer(LocalStorage("/srv/history"), port=5558) as server:
        print(server.url)
        await asyncio.Event().wait()

To the server an archive is opaque bytes, and whoever knows its id may fetch it. ``_server`` starts and stops, ``_listener``
keeps connections in bounds, ``_http`` finds out what a request is about, and ``_uploads``, ``_tus`` and ``_downloads``
answer it; they share what ``_exchange`` lists. ``storage`` keeps the files and knows nothing of HTTP.
"""

from __future__ import annotations

from xmtp_history.server._access import UploadTokens
from xmtp_history.server._limits import ServerLimits
from xmtp_history.server._server import HistoryServer
from xmtp_history.server.storage import LocalStorage, ObjectStorage

__all__ = ["HistoryServer", "LocalStorage", "ObjectStorage", "ServerLimits", "UploadTokens"]

HistoryServer.__module__ = LocalStorage.__module__ = ObjectStorage.__module__ = "xmtp_history"
ServerLimits.__module__ = UploadTokens.__module__ = "xmtp_history"
