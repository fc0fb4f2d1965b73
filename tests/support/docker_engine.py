"""A Docker engine that answers but has no image and can pull none: as behind a registry that is out of reach."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VERSION = {"ApiVersion": "1.44", "MinAPIVersion": "1.24", "Version": "25.0.0"}
PULL_ERROR = "dial tcp: lookup the registry: no such host"


class _Engine(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.endswith("/version"):
            self._answer(200, VERSION)
        elif path.endswith("/_ping"):
            self._answer(200, "OK")
        elif path.endswith("/info"):
            self._answer(200, {"ServerVersion": VERSION["Version"]})
        elif "/networks/" in path:
            self._answer(200, {"Id": "n1", "Name": "n1"})
        else:
            self._answer(404, {"message": "No such image: there is none"})

    def do_DELETE(self) -> None:
        self._answer(204, None)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "/networks/create" in self.path:
            self._answer(201, {"Id": "n1", "Warning": ""})
        elif "/images/create" in self.path:
            self._answer(500, {"message": PULL_ERROR})
        else:
            self._answer(404, {"message": "No such image"})

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _answer(self, status: int, body: Any) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def engine_without_images() -> Iterator[str]:
    """Serve one while the context lasts; gives what DOCKER_HOST is to be."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Engine)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join(5)
        server.server_close()
