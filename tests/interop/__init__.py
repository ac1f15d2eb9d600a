"""Real libxmtp 1.10 (PyPI ``xmtp-bindings``) against xmtp_history: a node in memory, and clients in child processes."""
