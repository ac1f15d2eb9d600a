"""What the server counts, for Prometheus."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xmtp_history.server._limits import Admission, Ledger

#: Transfers take from a millisecond to an hour.
_SECONDS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 300.0, 1800.0)


class Metrics:
    """Counters of one server. Names and labels are documented in docs/history-server.md."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, admission: Admission, ledger: Ledger, max_total_bytes: int | None) -> None:
        self._registry = registry = CollectorRegistry()
        self._ledger = ledger
        self.requests = Counter(
            "xmtp_history_requests", "Requests answered.", ("route", "method", "code"), registry=registry
        )
        self.seconds = Histogram(
            "xmtp_history_request_seconds", "Time a request took.", ("route",), buckets=_SECONDS, registry=registry
        )
        self.received = Counter("xmtp_history_received_bytes", "Bytes of bodies received.", registry=registry)
        self.sent = Counter("xmtp_history_sent_bytes", "Bytes of files sent.", registry=registry)
        self.aborted = Counter(
            "xmtp_history_aborted", "Transfers that did not end well.", ("route", "reason"), registry=registry
        )
        self.connections = Gauge("xmtp_history_connections", "Open connections.", registry=registry)
        self.downloads = Gauge("xmtp_history_downloads_active", "Downloads going on.", registry=registry)
        self.removed = Counter("xmtp_history_removed_files", "Files removed.", ("reason",), registry=registry)
        self.swept = Gauge("xmtp_history_last_sweep_timestamp_seconds", "When the last sweep ended.", registry=registry)
        self.storage_seconds = Histogram(
            "xmtp_history_storage_seconds",
            "Time the storage took.",
            ("operation",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.storage_errors = Counter(
            "xmtp_history_storage_errors", "What the storage could not do.", ("operation",), registry=registry
        )
        uploads = Gauge("xmtp_history_uploads_active", "Uploads going on.", registry=registry)
        uploads.set_function(lambda: admission.uploads)
        files = Gauge("xmtp_history_files", "Files stored.", registry=registry)
        files.set_function(lambda: ledger.files)
        stored = Gauge("xmtp_history_stored_bytes", "Bytes stored.", registry=registry)
        stored.set_function(lambda: ledger.stored)
        pending = Gauge("xmtp_history_pending_bytes", "Bytes of uploads on their way.", registry=registry)
        pending.set_function(lambda: ledger.pending)
        if max_total_bytes is not None:
            quota = Gauge("xmtp_history_quota_bytes", "Bytes that may be stored.", registry=registry)
            quota.set(max_total_bytes)
        self._free = Gauge("xmtp_history_free_bytes", "Bytes free where files are stored.", registry=registry)

    @contextmanager
    def storage(self, operation: str) -> Iterator[None]:
        """Around something that the storage does."""
        began = time.perf_counter()
        try:
            yield
        except OSError:
            self.storage_errors.labels(operation).inc()
            raise
        finally:
            self.storage_seconds.labels(operation).observe(time.perf_counter() - began)

    def text(self) -> bytes:
        """All of it, in the format of Prometheus."""
        self._free.set(float("nan") if self._ledger.free is None else self._ledger.free)
        return generate_latest(self._registry)
