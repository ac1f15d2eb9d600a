"""The process whose memory is measured: ``memory_child.py OPERATION SUBJECT ARCHIVE STORE``.

Prints the memory that the process had when everything was imported and nothing opened, and the most it had while it
imported or exported, both as the operating system counts resident pages. Where the system can forget a peak, the second
figure is the peak of the operation alone.
"""

from __future__ import annotations

import contextlib
import gc
import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path

KEY = bytes(range(32))
STORE_KEY = bytes(reversed(range(32)))
_STATUS = Path("/proc/self/status")


def _memory(name: str) -> int:
    """``VmRSS`` or ``VmHWM``; elsewhere than on Linux the peak stands for both."""
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _library(operation: str, archive: Path, store: Path) -> Callable[[], object]:
    from xmtp_history import History

    def work() -> object:
        with History.open(store, STORE_KEY) as history:
            return (
                history.import_archive(archive, KEY) if operation == "import" else history.create_archive(archive, KEY)
            )

    return work


def _python(operation: str, archive: Path, store: Path) -> Callable[[], object]:
    import python_rival

    def work() -> object:
        if operation == "import":
            return python_rival.import_archive(python_rival.create_store(store), archive, KEY)
        with python_rival.archive_file(archive) as sink:
            return python_rival.create_archive(python_rival.connect(store), sink, KEY, 0)

    return work


def main(operation: str, subject: str, archive: str, store: str) -> None:
    work = (_library if subject == "library" else _python)(operation, Path(archive), Path(store))
    gc.collect()
    # Not every system lets a process reset its peak; then the peak of the imports may hide a small one of the work.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    idle = _memory("VmRSS")
    work()
    print(json.dumps({"idle": idle, "peak": _memory("VmHWM")}))


if __name__ == "__main__":
    main(*sys.argv[1:])
