"""A server on loopback, in a thread, for tests."""

import http.server
import sys
import threading


class Server(http.server.ThreadingHTTPServer):
    """Serves from the beginning on until `close`.

    Args:
        handler: Class derived from `http.server.BaseHTTPRequestHandler`.

    Attributes:
        base: Its address.
        errors: What requests raised, but for clients that have gone.
    """

    daemon_threads = True

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)
        self.errors = []
        self.base = f"http://127.0.0.1:{self.server_port}"
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):  # the client was killed
            self.errors.append(sys.exception())

    def close(self):
        self.shutdown()
        self.thread.join()
        self.server_close()
