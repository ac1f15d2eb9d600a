"""The command line: every command is a few lines over the public API.

``_app`` holds the command group and the exit codes, the modules called ``_…_commands`` the commands, ``_options`` what they
share. ``_keys`` and ``_secrets`` are the only modules that read keys and tokens, ``_output`` the only one that prints,
``_records`` makes JSON objects of records and reports, ``_text`` makes lines of them, ``_progress`` draws the bar. The
library itself imports nothing from here.
"""
