"""The command line: every command is a few lines over the public API.

``_app`` holds the command group and the exit codes, the modules called ``_…_commands`` the commands, ``_options`` what they
share; ``_running`` runs those that use a network. ``_keys`` and ``_secrets`` are the only modules that read keys and tokens,
``_output`` the only one that prints, ``_records`` makes JSON objects of records and reports, ``_text`` makes lines of them,
``_progress`` draws the bars. What
the commands for an installation share is in the modules called ``_client_…``, and ``_ask`` runs the program that decides
for a keeper. ``_demo`` does what the demo shows, with ``_demo_libxmtp`` as the real library in a process of its own. The
library itself imports nothing from here.
"""
