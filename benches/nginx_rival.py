"""nginx as a history server: ``nginx_rival.py FOLDER``; it ends with its standard input.

Downloads are nginx's own. Of an upload it writes the body to a file, whole or in chunks, and then asks a small program
beside it, which makes that file durable, as nginx never does: it syncs the file, renames it to a new id, syncs the folder
and answers with the id. So an upload that was answered is worth as much as one of the library's server. Prints a line once
both listen: the port, and the numbers of all processes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

from processes import children

_READY_S = 10.0
_STOP_S = 10.0
_HEAD_END = b"\r\n\r\n"
_BODY_FILE = re.compile(rb"\r\nX-Body-File: ([^\r]+)\r\n")
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 36\r\n\r\n"
# Everything that nginx writes goes below its folder. With its own 16 KiB for a body's buffer it is slower, with more than
# 64 it is only sometimes faster.
_CONFIGURATION = """\
{user}
worker_processes auto;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    client_body_buffer_size 64k;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/temporary;
    fastcgi_temp_path {folder}/temporary;
    uwsgi_temp_path {folder}/temporary;
    scgi_temp_path {folder}/temporary;
    upstream keeper {{
        server 127.0.0.1:{keeper};
        keepalive 256;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port};
        default_type application/octet-stream;
        location = /upload {{
            client_body_in_file_only on;
            proxy_pass http://keeper;
            proxy_http_version 1.1;
            proxy_pass_request_body off;
            proxy_set_header Connection "";
            proxy_set_header Content-Length "";
            proxy_set_header X-Body-File $request_body_file;
            proxy_read_timeout 600s;
        }}
        location /files/ {{ alias {folder}/files/; }}
    }}
}}
"""


def found() -> str | None:
    """Where nginx is, or None."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def version() -> str:
    """Which nginx that is."""
    nginx = found()
    if nginx is None:
        return "not available"
    said = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=False).stderr
    return said.strip().rpartition("/")[2]


def keep(path: Path, folder: Path) -> str:
    """Makes a file durable under a new id in a folder; returns the id."""
    file_id = str(uuid.uuid4())
    _sync(path)
    path.rename(folder / file_id)
    _sync(folder)
    return file_id


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _answer(connection: socket.socket, folder: Path) -> None:
    """Answers one request after the other, until nginx closes the connection."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = b""
    with connection:
        while data := connection.recv(1 << 14):
            head += data
            if head.endswith(_HEAD_END):
                body = _BODY_FILE.search(head)
                assert body is not None
                connection.sendall(_ANSWER + keep(Path(os.fsdecode(body[1])), folder).encode())
                head = b""


def _accept(listener: socket.socket, folder: Path) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_answer, args=(connection, folder), daemon=True).start()


def _free_port() -> int:
    """A port that was free a moment ago: nginx cannot choose one itself."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def _wait_for(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _READY_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.01)
        else:
            return
    raise RuntimeError("nginx does not listen")


def main(folder: Path) -> None:
    """Serves until standard input ends."""
    nginx = found()
    assert nginx is not None
    for name in ("files", "body", "temporary"):
        (folder / name).mkdir(parents=True)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    threading.Thread(target=_accept, args=(listener, folder / "files"), daemon=True).start()
    port = _free_port()
    # Whoever may not change users has no use for saying which.
    user = "user root;" if os.geteuid() == 0 else ""
    configuration = folder / "nginx.conf"
    keeper = listener.getsockname()[1]
    configuration.write_text(_CONFIGURATION.format(folder=folder, user=user, keeper=keeper, port=port))
    command = [nginx, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(configuration)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        _wait_for(process, port)
        pids = [os.getpid(), process.pid, *children(process.pid)]
        print(json.dumps({"port": port, "pids": pids}), flush=True)
        sys.stdin.read()
    finally:
        process.terminate()
        process.wait(_STOP_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
