"""What the Python test images share: an HTTP/1.1 server on one port, for IPv4 and IPv6."""

import http.server
import signal
import socket
import sys
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

Handler = Callable[[dict[str, str], str], str]
"""Takes the query's parameters and the client's address, returns the body."""


class _Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 128
    daemon_threads = True

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def serve(paths: Mapping[str, Handler], port: int = 8080) -> None:
    """Serve `paths` until SIGTERM; a connection stays open as long as its client likes."""

    class Requests(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            url = urllib.parse.urlsplit(self.path)
            handler = paths.get(url.path)
            if handler is None:
                self._answer(404, f"no {url.path}\n")
                return
            try:
                body = handler(dict(urllib.parse.parse_qsl(url.query)), self.client_address[0])
            except (OSError, ValueError, KeyError) as error:
                self._answer(500, f"{error!r}\n")
                return
            self._answer(200, body)

        def _answer(self, status: int, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass  # the container's log belongs to the tests

    server = _Server(("::", port), Requests)
    stop_on_sigterm()
    print("listening", flush=True)
    server.serve_forever()


def stop_on_sigterm() -> None:
    """End with status 0 on SIGTERM: process 1 of a container has no default action for it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
