"""Holds TCP connections on port 7000, IPv4 and IPv6: answers each line with its number on that connection."""

import socket
import socketserver

from service import stop_on_sigterm


class _Lines(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for number, line in enumerate(self.rfile, 1):
            self.wfile.write(b"%d %s" % (number, line))


class _Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


if __name__ == "__main__":
    stop_on_sigterm()
    server = _Server(("::", 7000), _Lines)
    print("listening", flush=True)
    server.serve_forever()
