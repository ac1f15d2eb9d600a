"""The rival that everybody has today: libxmtp itself, through the PyPI package ``xmtp-bindings``.

libxmtp wants a registered installation before it touches an archive, and so a node to register with: the project's own,
in memory. Library and node run in processes of their own: the reference may hang or abort, and then only the figure is
lost. This file is also the program of the first of these processes.

Only ``import_archive`` and ``create_archive`` are timed, inside that process. Making the account and registering it,
and the round trip of the request, are not.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from lines import Child, Unavailable
from nodes import Node
from plan import LIBRARY

NEEDED = ("xmtp_bindings", "eth_account")
DEADLINE_S = float(os.environ.get("BENCH_LIBXMTP_DEADLINE", "240"))
_READY_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One timed call.

    Attributes:
        seconds: how long the call took.
        archive_bytes: size of the archive written, 0 after an import.
        peak_bytes: the largest memory of the process so far.
    """

    seconds: float
    archive_bytes: int
    peak_bytes: int


class Libxmtp:
    """libxmtp and its node, ready to be asked. Close it, or use it as a context manager."""

    def __init__(self) -> None:
        missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            raise Unavailable(f"not installed: {', '.join(missing)}")
        self._folder = tempfile.TemporaryDirectory(prefix="bench-libxmtp-")
        folder = Path(self._folder.name)
        self._node = Node(LIBRARY, folder, durable=False)
        self._child: Child | None = None
        self._failed = ""
        try:
            host, port = self._node.address
            own = [sys.executable, str(Path(__file__).resolve()), f"http://{host}:{port}"]
            self._child = Child(own, folder, {"RUST_LOG": "off"})
            self.version: str = json.loads(self._child.line(_READY_S))["version"]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends both processes and removes what they wrote."""
        for process in (self._child, self._node):
            if process is not None:
                process.close()
        self._folder.cleanup()

    def _ask(self, **request: Any) -> Answer:
        if self._failed:
            # After one hang or abort every later request would only wait for its deadline.
            raise Unavailable(self._failed)
        assert self._child is not None
        try:
            answer = json.loads(self._child.ask(json.dumps(request), DEADLINE_S))
        except Unavailable as reason:
            self._failed = str(reason)
            raise
        if "error" in answer:
            raise Unavailable(answer["error"])
        return Answer(**answer)

    def import_archive(self, source: Path, key: bytes) -> Answer:
        """Imports an archive into a new installation, which later exports use."""
        return self._ask(do="import", path=str(source.resolve()), key=key.hex())

    def create_archive(self, target: Path, key: bytes) -> Answer:
        """Exports the installation of the latest import."""
        return self._ask(do="export", path=str(target.resolve()), key=key.hex())


def _answer(seconds: float, archive: str = "") -> dict[str, float | str]:
    """The answer to a request; the archive is the one written, if any."""
    size = Path(archive).stat().st_size if archive else 0
    return {"seconds": seconds, "archive_bytes": size, "peak_bytes": _peak_bytes()}


def _peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


async def _installation(node: str, name: str) -> Any:
    """A new account with its first installation, device sync off."""
    from eth_account import Account
    from eth_account.messages import encode_defunct
    from xmtp_bindings import xmtpv3 as x

    account = Account.create()
    api = await x.connect_to_backend(node, None, False, None, "xmtp-history-benches/1", None, None)
    owner = x.FfiIdentifier(
        identifier=account.address.lower(),
        identifier_kind=x.FfiIdentifierKind.ETHEREUM,
    )
    inbox = x.generate_inbox_id(owner, 1)
    database = x.DbOptions(db=name, encryption_key=bytes(32), max_db_pool_size=None, min_db_pool_size=None)
    sync_off = x.FfiDeviceSyncMode.DISABLED
    client = await x.create_client(api, api, database, inbox, owner, 1, None, sync_off, False, None)
    request = client.signature_request()
    if request is not None:
        text = await request.signature_text()
        signature = Account.sign_message(encode_defunct(text=text), account.key).signature
        await request.add_ecdsa_signature(signature)
        await client.register_identity(request)
    return client


async def _serve(node: str, answers: IO[str]) -> None:
    """Answers the requests on standard input until it ends."""
    from xmtp_bindings import xmtpv3 as x

    elements = [x.FfiBackupElementSelection.MESSAGES, x.FfiBackupElementSelection.CONSENT]
    everything = x.FfiArchiveOptions(start_ns=None, end_ns=None, exclude_disappearing_messages=False, elements=elements)
    print(json.dumps({"version": str(x.get_version_info()).split("\n")[0]}), file=answers, flush=True)
    client: Any = None
    number = 0
    while line := await asyncio.to_thread(sys.stdin.readline):
        request = json.loads(line)
        path, key = request["path"], bytes.fromhex(request["key"])
        try:
            if request["do"] == "import":
                number += 1
                client = await _installation(node, f"{number}.db3")
                started = time.perf_counter()
                await client.import_archive(path, key)
                answer = _answer(time.perf_counter() - started)
            else:
                started = time.perf_counter()
                await client.create_archive(path, everything, key)
                answer = _answer(time.perf_counter() - started, path)
        except Exception as error:  # noqa: BLE001 whatever it is, it is the answer
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    # The reference may print: keep the real standard output for the answers alone.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        asyncio.run(_serve(sys.argv[1], answers))
    os._exit(0)
