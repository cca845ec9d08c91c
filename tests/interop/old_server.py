"""Python's own http.server behind relay: HTTP/1.0, bodies that end with the connection.

`python -m tests.interop.old_server`; says `listening on PORT`. With `--refuse` it speaks HTTP/1.1
and answers `Expect: 100-continue` with 417.
"""

from __future__ import annotations

import hashlib
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.interop.origin import big


class Old(BaseHTTPRequestHandler):
    """HTTP/1.0, as the module has it by default."""

    def do_GET(self) -> None:
        path, _, argument = self.path.partition("?")
        if path == "/cut":
            self._head(200, ("Content-Length", "1000"))
            self.wfile.write(b"half")
        elif path == "/events":
            self._events(int(argument))
        elif path == "/big":
            self._head(200)
            for block in big(int(argument)):
                self.wfile.write(block)
        else:
            self._head(200, ("Content-Type", "text/plain"))
            self.wfile.write(b"until the end")

    def do_HEAD(self) -> None:
        self._head(200, ("Content-Length", "13"))

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._head(200)
        self.wfile.write(hashlib.sha256(body).hexdigest().encode())

    def _events(self, count: int) -> None:
        self._head(200, ("Content-Type", "text/event-stream"))
        for number in range(count):
            at = time.time_ns() // 1_000_000
            self.wfile.write(b'data: {"number":%d,"at":%d}\n\n' % (number, at))
            time.sleep(0.02)

    def _head(self, status: int, *fields: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in fields:
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        print(format % args, file=sys.stderr)


class Refusing(Old):
    protocol_version = "HTTP/1.1"

    def handle_expect_100(self) -> bool:
        self.send_response(417)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return False


if __name__ == "__main__":
    handler = Refusing if "--refuse" in sys.argv else Old
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    print(f"listening on {server.server_port}", file=sys.stderr, flush=True)
    server.serve_forever()
