"""A history server: keeps the encrypted archives that one installation of an inbox leaves for another.

    async with HistoryServer(LocalStorage("/srv/history"), port=5558) as server:
        print(server.url)
        await asyncio.Event().wait()

``_server`` listens and closes, ``_http`` answers requests, ``_cors`` lets browsers in, ``_ids`` reads the ids in paths and
``_storage`` keeps the files; it knows nothing of HTTP. To the server an archive is opaque bytes, and whoever knows its id
may fetch it.
"""

from __future__ import annotations

from xmtp_history.server._server import HistoryServer
from xmtp_history.server._storage import LocalStorage

__all__ = ["HistoryServer", "LocalStorage"]

HistoryServer.__module__ = LocalStorage.__module__ = "xmtp_history"
