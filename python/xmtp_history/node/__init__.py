"""A local XMTP node: the gRPC API that clients expect, in one process, on SQLite."""

from __future__ import annotations

from xmtp_history.node._node import LocalNode

__all__ = ["LocalNode"]

LocalNode.__module__ = "xmtp_history"
