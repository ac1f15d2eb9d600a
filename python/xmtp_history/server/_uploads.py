"""``POST /upload``, the way of every XMTP SDK: the body is the file, the answer is its id."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from xmtp_history.server import _problems as problems
from xmtp_history.server._body import pour
from xmtp_history.server.storage import NewFile

if TYPE_CHECKING:
    from xmtp_history.server._body import Body
    from xmtp_history.server._exchange import Exchange, House
    from xmtp_history.server.storage import Upload

#: Whoever shows this again may delete the file.
CAPABILITY = "Delete-Capability"

_logger = logging.getLogger("xmtp_history.server")


async def upload(house: House, exchange: Exchange) -> web.StreamResponse:
    """Stores the body of a request."""
    body = exchange.body
    if body.length is not None:
        house.limits.check_size(body.length)
    with house.admission.upload(exchange.client):
        await house.ledger.admit(body.length or 0)
        await body.invite(exchange.request)
        new = NewFile.random()
        sha256 = await _store(house, body, new)
    house.ledger.add(1, body.received)
    exchange.short_id = str(new.file_id)[:8]
    return web.Response(
        # Clients take the body as it is for the id: nothing may stand beside it.
        body=str(new.file_id).encode(),
        content_type="text/plain",
        headers={
            hdrs.LOCATION: f"{exchange.before}/files/{new.file_id}",
            hdrs.ETAG: f'"{sha256.hex()}"',
            CAPABILITY: new.capability,
        },
    )


async def _store(house: House, body: Body, new: NewFile) -> bytes:
    arriving = house.storage.create()
    pending = 0

    async def account(size: int) -> None:
        nonlocal pending
        house.limits.check_size(body.received)
        pending += size
        await house.ledger.grow(size)

    try:
        last = await pour(body, house.pieces, account, arriving.write)
        with house.metrics.storage("commit"):
            return await arriving.commit(new, last)
    except BaseException:
        # Goes on to the end even if this task is cancelled once more.
        await asyncio.shield(_abort(arriving))
        raise
    finally:
        house.ledger.shrink(pending)


async def _abort(arriving: Upload) -> None:
    try:
        await arriving.abort()
    except OSError as error:
        _logger.warning("an unfinished upload could not be removed: %s", problems.cause(error))
