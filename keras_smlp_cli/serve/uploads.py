"""What both servers share: how large a request may be, and how long it may take to arrive."""

import asyncio

from starlette.datastructures import Headers, UploadFile
from starlette.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from .model import Refused

HOW = "send the photo as a multipart form, curl -F photo=@photo.jpg"


class Uploads:
    """ASGI middleware that reads a request's body before the application sees the request.

    Args:
        app: The ASGI application.
        max_bytes: Positive integer. Of a body.
        seconds: Positive number. In which a body must have arrived.
    """

    def __init__(self, app, max_bytes, seconds):
        self.app, self.max_bytes, self.seconds = app, max_bytes, seconds

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(self.read(scope, receive), self.seconds)
        except TimeoutError:
            reason = f"the request must arrive within {self.seconds} s"
            response = answer(Refused(408, reason), {"connection": "close"})
            await response(scope, receive, send)
            return
        except Refused as refused:
            # what still arrives is not kept, and the connection stays for a while: a client that
            # sends all before it reads would not see the answer otherwise
            await answer(refused)(scope, receive, send)
            return
        if body is None:
            return
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay():
            return next(messages, None) or await receive()

        await self.app(scope, replay, send)

    async def read(self, scope, receive):
        """The whole body; `None` if the client has gone."""
        headers = Headers(scope=scope)
        kind = headers.get("content-type", "")
        if scope["method"] == "POST" and not kind.lower().startswith("multipart/form-data"):
            raise Refused(415, f"the request has the type {kind or 'none'}: {HOW}")
        if scope["method"] == "POST" and "boundary=" not in kind.lower():
            raise Refused(400, f"the request's type names no boundary: {HOW}")
        too_large = Refused(413, f"the request must have at most {self.max_bytes} bytes")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.max_bytes:
            raise too_large
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self.max_bytes:
                raise too_large
            if not message.get("more_body", False):
                return bytes(body)


class Protocol(H11Protocol):
    """uvicorn's protocol; it closes a connection on which no request begins for a while.

    uvicorn has such a limit only while nothing at all arrives after an answer. This is also for
    headers that trickle in, and for the rest of a body that was refused.
    """

    due = None

    def connection_made(self, transport):
        super().connection_made(transport)
        self.wait()

    def data_received(self, data):
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self.wait()
        else:
            self.stop_waiting()

    def connection_lost(self, exc):
        self.stop_waiting()
        super().connection_lost(exc)

    def wait(self):
        if self.due is None:
            self.due = self.loop.call_later(self.timeout_keep_alive, self.transport.close)

    def stop_waiting(self):
        if self.due is not None:
            self.due.cancel()
            self.due = None


def of_uvicorn(options):
    """The arguments of `uvicorn.Config` that both servers have."""
    return {
        "http": Protocol,
        "ws": "none",
        "log_level": "warning",
        "access_log": False,
        "server_header": False,
        "timeout_keep_alive": options.timeout,
        # it refuses the one that makes it so many
        "limit_concurrency": options.connections + 1,
    }


def middleware(options):
    """The middleware and its arguments."""
    return Uploads, {"max_bytes": options.max_mb * 10**6, "seconds": options.timeout}


def photo_of(form):
    """The bytes of the photo in a form."""
    photo = form.get("photo")
    # LitServe's is of FastAPI's class, which is derived from Starlette's
    if not isinstance(photo, UploadFile):
        raise Refused(400, f"the form has no file photo: {HOW}")
    if sum(isinstance(part, UploadFile) for _, part in form.multi_items()) > 1:
        raise Refused(400, f"the form has more than one file: {HOW}")
    return photo.file.read()


def answer(refused, headers=None):
    """The response to a request that is refused."""
    return JSONResponse({"detail": refused.reason}, refused.status, headers)
