"""What the commands for an installation share: where it is, what opens it, and the ways in which that fails."""

from __future__ import annotations

import errno
import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click

from xmtp_history import NotRegistered
from xmtp_history.cli import _options as options
from xmtp_history.cli import _running
from xmtp_history.cli._client_logging import warnings_shown
from xmtp_history.cli._keys import KeyProblem, KeySource

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from xmtp_history import Client, EoaSigner

_Result = TypeVar("_Result")

_DIRECTORY = "XMTP_DB_DIRECTORY"
_HISTORY_SYNC_URL = "XMTP_HISTORY_SYNC_URL"

DATABASE_KEY = KeySource("the database", "--db-key-file", "XMTP_DB_ENCRYPTION_KEY")
WALLET_KEY = KeySource("the wallet", "--wallet-key-file", "XMTP_WALLET_KEY")

_OPTIONS = (
    click.option(
        "--db",
        type=options.FILE,
        metavar="FILE",
        help=f"The installation's database; else it is in {_DIRECTORY}, under XMTP's name for it.",
    ),
    click.option(
        "--db-key-file",
        type=options.FILE,
        metavar="FILE",
        help="File with the database's key; else XMTP_DB_ENCRYPTION_KEY holds it.",
    ),
    click.option(
        "--env",
        type=click.Choice(["local", "dev", "production"]),
        envvar="XMTP_ENV",
        show_envvar=True,
        default="dev",
        show_default=True,
        help="The network.",
    ),
    click.option(
        "--api-url",
        envvar="XMTP_API_URL",
        show_envvar=True,
        metavar="URL",
        help="The node.  [default: that of --env]",
    ),
    click.option(
        "--history-sync-url",
        envvar=_HISTORY_SYNC_URL,
        show_envvar=True,
        metavar="URL",
        help='The history server; "" for none.  [default: that of --env]',
    ),
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an installation is.

    Attributes:
        env: the network.
        api_url: the node, instead of the network's.
        history_sync_url: the history server, instead of the network's; empty for none.
        db: the database; None for the one in the directory of the environment.
        db_key_file: the file with its key; None for the key of the environment.
    """

    env: str
    api_url: str | None
    history_sync_url: str | None
    db: Path | None
    db_key_file: Path | None

    def options(self) -> dict[str, Any]:
        """Options of a client.

        Raises:
            KeyProblem: there is no key, or it is none.
        """
        chosen: dict[str, Any] = {"env": self.env, "api_url": self.api_url}
        if self.history_sync_url is not None:
            chosen["history_sync_url"] = self.history_sync_url
        return {**chosen, "db_encryption_key": DATABASE_KEY.load(self.db_key_file)}

    def new(self) -> Path | Callable[[str], Path]:
        """The file of an installation that may not be there yet, or what names it."""
        if self.db is not None:
            return self.db
        directory = _directory()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return lambda inbox_id: directory / f"xmtp-{self.env}-{inbox_id}.db3"

    def existing(self) -> Path:
        """The file of an installation that is there.

        Raises:
            FileNotFoundError: there is none.
        """
        path = self._only_one(_directory()) if self.db is None else self.db
        if not path.exists():
            raise _nothing("there is no database; make an installation with: xmtp-history register", path)
        return path

    def _only_one(self, directory: Path) -> Path:
        name = re.compile(rf"xmtp-{self.env}-[0-9a-f]{{64}}\.db3", re.ASCII)
        found = sorted(path for path in directory.iterdir() if name.fullmatch(path.name)) if directory.is_dir() else []
        if not found:
            missing = f"there is no database of env {self.env}; make an installation with: xmtp-history register"
            raise _nothing(missing, directory)
        if len(found) > 1:
            raise click.UsageError(f"{directory} holds {len(found)} databases of env {self.env}: name one with --db")
        return found[0]

    @property
    def node(self) -> str:
        """The node, as it may be shown."""
        from xmtp_history.network import environment

        return origin(self.api_url or environment(self.env).api_url)

    @property
    def history_server(self) -> str | None:
        """The history server, as it may be shown; None for none."""
        from xmtp_history.network import environment

        url = environment(self.env).history_sync_url if self.history_sync_url is None else self.history_sync_url
        return origin(url) if url else None


def installation(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that say where an installation is; the command gets them as ``at``, a :class:`Place`."""

    @functools.wraps(command)
    def collected(
        *,
        env: str,
        api_url: str | None,
        history_sync_url: str | None,
        db: Path | None,
        db_key_file: Path | None,
        **others: Any,
    ) -> None:
        if history_sync_url is None and os.environ.get(_HISTORY_SYNC_URL) == "":
            # To click, an empty variable is none. To XMTP's clients it is a choice.
            history_sync_url = ""
        command(at=Place(env, api_url, history_sync_url, db, db_key_file), **others)

    for option in reversed(_OPTIONS):
        collected = option(collected)
    return collected


def wallet(file: Path | None) -> EoaSigner:
    """The wallet whose key is in a file or in the environment.

    Raises:
        KeyProblem: there is no key, or it is none.
        click.UsageError: the extra for wallets is not installed.
    """
    key = WALLET_KEY.load(file)
    from xmtp_history import EoaSigner

    try:
        return EoaSigner.from_key(key)
    except ImportError as error:
        raise click.UsageError(str(error)) from None
    except ValueError as error:
        raise KeyProblem(str(error)) from None


async def build(at: Place, chosen: dict[str, Any], **more: Any) -> Client:
    """Opens the installation that is there, with options of the client.

    Raises:
        NotRegistered: there is none in the database.
    """
    from xmtp_history import Client

    try:
        return await Client.build(db_path=at.existing(), **chosen, **more)
    except NotRegistered:
        raise NotRegistered("there is no registered installation in the database: xmtp-history register") from None


def run(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Runs what a command does on the network, and shows its warnings."""
    with warnings_shown():
        return _running.run(work)


def origin(url: str) -> str:
    """Scheme, host and port of a URL: who has all of it may have a password, or a token that is in the path."""
    try:
        parsed = urlsplit(url)
        port = "" if parsed.port is None else f":{parsed.port}"
    except ValueError:
        return "not a URL"
    host = parsed.hostname or ""
    if not (parsed.scheme and host):
        return "not a URL"
    more = "/…" if parsed.path.strip("/") else ""
    return f"{parsed.scheme}://{f'[{host}]' if ':' in host else host}{port}{more}"


def _directory() -> Path:
    directory = os.environ.get(_DIRECTORY, "").strip()
    if not directory:
        raise click.UsageError(f"give --db FILE or set {_DIRECTORY}")
    return Path(directory)


def _nothing(reason: str, path: Path) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, reason, str(path))
