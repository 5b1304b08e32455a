"""A SavedModel behind LitServe: one process takes requests, another one runs the network."""

import multiprocessing
import os
import signal

import litserve
import python_multipart as python_multipart  # Starlette asks for it only at the first form
from fastapi import HTTPException

from .model import Model, Refused
from .uploads import middleware, of_uvicorn, photo_of


class Classifier(litserve.LitAPI):
    """What LitServe runs in the worker.

    Args:
        folder: Path of the SavedModel.
        top: Positive integer. Classes in an answer.
    """

    def __init__(self, folder, top):
        super().__init__()
        self.folder, self.top = folder, top

    def setup(self, device):
        self.model = Model(self.folder, self.top)

    def decode_request(self, request):
        try:
            photo = photo_of(request)
            self.model.check(photo)
        except Refused as refused:
            raise HTTPException(refused.status, refused.reason) from refused
        return photo

    def predict(self, photo):
        (found,) = self.model.answers([photo])
        if isinstance(found, Refused):
            raise HTTPException(found.status, found.reason)
        return found

    def encode_response(self, found):
        return found


def run(options, listener):
    """Serves until Ctrl-C or SIGTERM."""
    listener.close()  # LitServe opens its own
    # TensorFlow takes the GPUs that there are; LitServe would start a worker for each
    server = litserve.LitServer(
        Classifier(options.folder, options.top),
        accelerator="cpu",
        middlewares=[middleware(options)],
        disable_openapi_url=True,
    )
    server.uvicorn_graceful_timeout = options.timeout
    own = os.getpid()

    def end(number, frame):
        # LitServe ends in order at Ctrl-C alone. The processes that it forks have this handler too,
        # and also get a terminal's Ctrl-C, but they are ended from here.
        if os.getpid() == own:
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    try:
        server.run(options.host, options.port, generate_client_file=False, **of_uvicorn(options))
    except RuntimeError as error:  # no worker has started
        raise ValueError(f"FOLDER: {error} The worker's message is above.") from error
    finally:
        for process in multiprocessing.active_children():
            process.terminate()
