"""The command line: every command is a few lines over the public API.

``_app`` holds the command group and the exit codes, ``_read_commands`` and ``_write_commands`` the commands, ``_options``
what they share. ``_keys`` is the only module that reads keys, ``_output`` the only one that prints, ``_records`` makes
JSON objects of records and reports, ``_text`` makes lines of them, ``_progress`` draws the bar. The library itself
imports nothing from here.
"""
