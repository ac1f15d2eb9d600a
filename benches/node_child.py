"""The process of a node that is measured: ``node_child.py SUBJECT [FOLDER]``.

Prints a line once it listens: the port, and the seconds that starting took after everything was imported. It ends with
its standard input. The subjects are ``library``, which is the node itself, ``plain`` and ``bare``. Without a folder the
node keeps its data in memory.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack
from urllib.parse import urlsplit


async def main(subject: str, folder: str | None) -> None:
    """Serves until standard input ends."""
    async with AsyncExitStack() as stack:
        if subject == "library":
            from xmtp_history import LocalNode

            started = time.perf_counter()
            node = await stack.enter_async_context(LocalNode(folder, port=0))
            port = urlsplit(node.url).port
        else:
            if subject == "plain":
                from plain_node import serve
            else:
                from bare_node import serve
            started = time.perf_counter()
            server, port = await serve(0)
            stack.push_async_callback(server.stop, None)
        print(json.dumps({"port": port, "start": time.perf_counter() - started}), flush=True)
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(sys.stdin, lambda: None if sys.stdin.readline() else ended.set())
        await ended.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *sys.argv[2:], *[None] * (3 - len(sys.argv))))
