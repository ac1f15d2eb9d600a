"""The ``xmtp-history`` command, also as ``python -m xmtp_history``."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line, or says what it needs. Does not return."""
    try:
        from xmtp_history.cli._app import run
    except ModuleNotFoundError as error:
        if error.name not in {"click", "rich"}:
            raise
        sys.exit("The command line is an extra. Install it with: pip install 'xmtp-history[cli]'")
    run()


if __name__ == "__main__":
    main()
