"""A proxy that does everything wrong on purpose, to be seen beside relay in the demo.

Each fault is one that proxies in use have: it asks for blocks of 4 KiB and waits until each is
full; it learns that its reader left only when a block cannot be written; and when the backend
breaks it ends the response cleanly, as if that had been all. (The standard library is just right
for this.)
"""

from __future__ import annotations

import argparse
import http.client
import os
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

BLOCK = 4096  # bytes: what a naive `read(n)` or a default buffer holds back
NAME = "buffering-proxy"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    backend = ""  # host:port
    secrets: Mapping[str, Mapping[str, str]] = {}  # path prefix: fields to add

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True  # the reader left, noticed at last

    def do_OPTIONS(self) -> None:
        self.send_response(204)
        self._cors()
        self.end_headers()

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        fields = {"Via": f"1.1 {NAME}", "Content-Type": self.headers.get("Content-Type", "")}
        for prefix, secrets in self.secrets.items():
            fields |= secrets if self.path.startswith(prefix) else {}
        connection = http.client.HTTPConnection(self.backend, timeout=60)
        try:
            connection.request(self.command, self.path, body or None, fields)
            self._relay(connection.getresponse())
        except (ConnectionError, TimeoutError) as error:
            if isinstance(error, BrokenPipeError | ConnectionResetError):
                raise
            self.send_response(502)
            self._cors()
            self.send_header("Content-Length", "0")
            self.end_headers()
        finally:
            connection.close()

    do_POST = do_GET

    def _relay(self, response: http.client.HTTPResponse) -> None:
        self.send_response(response.status)
        self._cors()
        self.send_header("Content-Type", response.headers.get("Content-Type", "text/plain"))
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while block := self._block(response):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block))
        self.wfile.write(b"0\r\n\r\n")

    def _block(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.read(BLOCK)
        except http.client.IncompleteRead as broken:
            return broken.partial
        except (http.client.HTTPException, OSError):
            return b""

    def _cors(self) -> None:
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Access-Control-Allow-Headers", "*")

    def log_message(self, format: str, *args: object) -> None:
        pass


class Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a reader that left: what else would it be


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backend", metavar="URL")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    Handler.backend = urlsplit(options.backend).netloc
    Handler.secrets = {
        "/event-gateway/": {"Authorization": f"Bearer {os.environ['BACKEND_TOKEN']}"},
        "/message-broker/": {"X-API-Key": os.environ["BROKER_API_KEY"]},
    }
    Proxy(("127.0.0.1", options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
