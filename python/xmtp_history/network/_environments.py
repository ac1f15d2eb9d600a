"""XMTP's networks, and where they are (device-sync specification, section 1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Environment:
    """One of XMTP's networks.

    Attributes:
        name: what SDKs call it: ``local``, ``dev`` or ``production``.
        api_url: its node.
        history_sync_url: its history server.
    """

    name: str
    api_url: str
    history_sync_url: str


#: What SDKs use. The core library's own constants for history servers differ, and no SDK uses those.
_ENVIRONMENTS: Final = {
    known.name: known
    for known in (
        Environment("local", "http://localhost:5556", "http://localhost:5558"),
        Environment(
            "dev",
            "https://grpc.dev.xmtp.network:443",
            "https://message-history.dev.ephemera.network",
        ),
        Environment(
            "production",
            "https://grpc.production.xmtp.network:443",
            "https://message-history.production.ephemera.network",
        ),
    )
}


def environment(env: str) -> Environment:
    """The network of a name: ``local``, ``dev`` or ``production``.

    Raises:
        ValueError: there is none of that name.
    """
    known = _ENVIRONMENTS.get(env)
    if known is None:
        raise ValueError(f"there is no environment of that name; there are {', '.join(_ENVIRONMENTS)}")
    return known
