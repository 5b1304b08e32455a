"""A SavedModel behind uvicorn, in one process: what waits while it computes is the next batch."""

import asyncio
import contextlib
import signal
from concurrent.futures import ThreadPoolExecutor

import python_multipart as python_multipart  # Starlette asks for it only at the first form
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from .model import Model, Refused
from .uploads import answer, middleware, of_uvicorn, photo_of

MAX_BATCH = 8


class Batches:
    """Runs a function of several photos for requests of one.

    Args:
        answers: Function from a list of photos to a list of answers.
    """

    def __init__(self, answers):
        self.answers = answers
        self.waiting: asyncio.Queue = asyncio.Queue()

    async def answer(self, photo):
        """What the function returns for this photo."""
        found = asyncio.get_running_loop().create_future()
        await self.waiting.put((photo, found))
        return await found

    async def run(self):
        """Answers what waits, at most `MAX_BATCH` photos at a time, until it is cancelled."""
        with ThreadPoolExecutor(1) as thread:
            while True:
                batch = [await self.waiting.get()]
                while len(batch) < MAX_BATCH and not self.waiting.empty():
                    batch.append(self.waiting.get_nowait())
                photos, futures = zip(*batch, strict=True)
                loop = asyncio.get_running_loop()
                try:
                    found = await loop.run_in_executor(thread, self.answers, [*photos])
                except Exception as error:  # each of these requests fails, not the server
                    found = [error] * len(batch)
                for future, one in zip(futures, found, strict=True):
                    if future.done():  # its client has gone
                        continue
                    if isinstance(one, Exception):
                        future.set_exception(one)
                    else:
                        future.set_result(one)


def application(model, options):
    """The ASGI application."""

    @contextlib.asynccontextmanager
    async def lifespan(app):
        app.state.batches = Batches(model.answers)
        task = asyncio.create_task(app.state.batches.run())
        yield
        task.cancel()

    async def health(request):
        return PlainTextResponse("ok")

    async def predict(request):
        async with request.form(max_files=1, max_fields=1) as form:
            photo = photo_of(form)
        model.check(photo)
        return JSONResponse(await request.app.state.batches.answer(photo))

    async def refuse(request, refused):
        return answer(refused)

    async def as_json(request, error):
        return JSONResponse({"detail": error.detail}, error.status_code, error.headers)

    own, arguments = middleware(options)
    return Starlette(
        routes=[Route("/health", health), Route("/predict", predict, methods=["POST"])],
        middleware=[Middleware(own, **arguments)],
        exception_handlers={Refused: refuse, HTTPException: as_json},
        lifespan=lifespan,
    )


def run(options, listener):
    """Serves at a bound socket until Ctrl-C or SIGTERM."""
    app = application(Model(options.folder, options.top), options)
    config = uvicorn.Config(app, timeout_graceful_shutdown=options.timeout, **of_uvicorn(options))
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn ends at it, and then raises it again
        signal.signal(number, lambda number, frame: None)
    uvicorn.Server(config).run(sockets=[listener])
