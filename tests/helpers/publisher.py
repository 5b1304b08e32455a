"""A server on loopback that plays the publisher of a small network's official file.

`python -m helpers.publisher` is a process that fetches the file, to be killed or to compete.
"""

import hashlib
import http.server

import keras_smlp
from helpers import loopback
from keras_smlp.variants import Variant
from keras_smlp.weights import loading

MICRO = Variant("micro", 16, (1, 2), 0.0, 26_298, "smlp_micro.pth", 0.0, input_size=64, classes=10)
RECORD = "smlp_micro.json"


def build(depths=MICRO.depths, **arguments):
    """The small network, or another one."""
    return keras_smlp.SMLPNet(16, depths, input_shape=(64, 64, 3), classes=10, **arguments)


def weights_digest(model):
    return hashlib.sha256(b"".join(x.tobytes() for x in model.get_weights())).hexdigest()


def left_in(folder):
    """What is below a folder but for locks."""
    found = (p for p in folder.rglob("*") if p.suffix != ".lock")
    return sorted(str(p.relative_to(folder)) for p in found)


class Publisher(loopback.Server):
    """Answers every request with `self.answer(handler)` and keeps the paths asked for."""

    block_on_close = False  # an answer may be stalled on purpose

    def __init__(self):
        super().__init__(Handler)
        self.answer, self.paths = None, []
        self.address = f"{self.base}/{MICRO.checkpoint}"

    def sends(self, data, **how):
        """From now on the answer is `data`; `how` as for `Handler.send`."""
        self.answer = lambda handler: handler.send(data, **how)


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    def do_GET(self):
        self.server.paths.append(self.path)
        self.server.answer(self)

    def send(self, data, length=None, status=200, kind="application/octet-stream"):
        """Sends an answer, with a Content-Length other than its own, or with none if `False`."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not False:
            self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


if __name__ == "__main__":
    print("\n" + weights_digest(loading.load(build(), MICRO)), flush=True)
