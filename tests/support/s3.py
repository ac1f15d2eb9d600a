"""A real S3 server on this machine, for as long as a test needs it."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_START_SECONDS: Final = 20
_STOP_SECONDS: Final = 10

#: Where the server keeps what it is still receiving, in the bucket's folder.
_UNFINISHED: Final = ".sgwtmp"


@dataclass(frozen=True, slots=True)
class S3Server:
    """A server with one empty bucket.

    Attributes:
        port: on the loopback address.
        access_key: who may do everything.
        secret_key: and how that is proved.
        folder: where the bucket's objects are files.
    """

    port: int
    access_key: str
    secret_key: str
    folder: Path

    @property
    def url(self) -> str:
        """The bucket, with a prefix."""
        return f"s3://{self.folder.name}/some/prefix"

    def environment(self, *, port: int | None = None) -> dict[str, str]:
        """Variables for reaching it, maybe by way of another port."""
        return {f"AWS_{name.upper()}": value for name, value in self.options(port=port).items()}

    def options(self, *, port: int | None = None) -> dict[str, str]:
        """Options for reaching it, maybe by way of another port."""
        return {
            "access_key_id": self.access_key,
            "secret_access_key": self.secret_key,
            "region": "us-east-1",
            "endpoint_url": f"http://127.0.0.1:{port or self.port}",
            "allow_http": "true",
        }

    def keys(self) -> list[str]:
        """The keys of all objects, without the prefix."""
        root = self.folder / "some" / "prefix"
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())

    def unfinished(self) -> list[Path]:
        """What was received of objects that are not there."""
        return [path for path in (self.folder / _UNFINISHED).rglob("*") if path.is_file()]


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Starts a server that keeps everything in a folder, which is empty, and stops it at the end."""
    program = _program()
    bucket = folder / "buckets" / "bucket"
    bucket.mkdir(parents=True)
    log = folder / "s3.log"
    try:
        server, process = _started(program, bucket, folder, log)
        try:
            yield server
            assert process.poll() is None, "the S3 server has ended by itself"
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    except BaseException:
        # pytest shows it when the test has failed.
        print(log.read_text(errors="replace")[-20_000:])  # noqa: T201
        raise


def free_port() -> int:
    """A port on the loopback address where nobody listens at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _started(program: Path, bucket: Path, folder: Path, log: Path) -> tuple[S3Server, subprocess.Popen[bytes]]:
    storage = ["posix", str(bucket.parent)]
    if not _has_attributes(bucket):
        sidecar = folder / "attributes"
        sidecar.mkdir()
        storage[1:1] = ["--sidecar", str(sidecar)]
    # Somebody else may take a free port before the server does.
    for _ in range(5):
        server = S3Server(free_port(), secrets.token_hex(8), secrets.token_hex(16), bucket)
        with log.open("ab") as output:
            process = subprocess.Popen(
                [program, "--port", f"127.0.0.1:{server.port}", *storage],
                env={**os.environ, "ROOT_ACCESS_KEY": server.access_key, "ROOT_SECRET_KEY": server.secret_key},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
            )
        if _answers(server.port, process):
            return server, process
        process.kill()
        process.wait()
    raise AssertionError("the S3 server does not start")


def _answers(port: int, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
        except urllib.error.HTTPError as refused:
            # Without credentials that is as it should be.
            refused.close()
            return True
        except OSError:
            time.sleep(0.02)
        else:
            return True
    return False


def _program() -> Path:
    if given := os.environ.get("VERSITYGW"):
        found = Path(given)
    else:
        versions = sorted((Path(sys.prefix) / "bin").glob("versitygw-*"))
        found = versions[-1] if versions else Path("versitygw")
    assert os.access(found, os.X_OK), "the S3 server for the tests is missing: run `make dev`, which builds it"
    return found


def _has_attributes(folder: Path) -> bool:
    try:
        os.setxattr(folder, "user.test", b"test")
        os.removexattr(folder, "user.test")
    except (AttributeError, OSError):
        return False
    return True
