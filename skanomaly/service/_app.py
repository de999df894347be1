"""The ASGI application: requests to bytes within limits, records to responses."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import python_multipart  # noqa: F401  starlette would ask for it at the first form
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from skanomaly.exceptions import ImageError

N_UPLOADS = 16  # held in memory at a time; others wait, unread
UPLOAD_SECONDS = 60  # that a client has for an upload
# An upload that is too large is read and dropped for so long before it is refused: most clients
# read no answer before they have sent all.
LINGER_SECONDS = 10
_TRUE, _FALSE = {"1", "true"}, {"", "0", "false"}


def build(scorer, max_bytes, n_threads):
    """The application; uploads above max_bytes are refused, n_threads images scored at a time."""
    service = _Service(scorer, max_bytes, n_threads)
    return Starlette(
        routes=[
            Route("/score", service.score, methods=["POST"]),
            Route("/map", service.draw, methods=["POST"]),
            Route("/health", service.health, methods=["GET"]),
        ],
        exception_handlers={
            HTTPException: _answer_http_error,
            ImageError: service.answer_image_error,
            ClientDisconnect: _answer_nobody,
            Exception: _answer_bug,
        },
        lifespan=service.lifespan,
    )


class _Service:
    """What the application's routes share."""

    def __init__(self, scorer, max_bytes, n_threads):
        self.scorer = scorer
        self.max_bytes = max_bytes
        self.n_threads = n_threads
        self._start()  # here too: some servers leave lifespan out

    def _start(self):
        self.pool = ThreadPoolExecutor(self.n_threads, thread_name_prefix="skanomaly")
        self.uploads = asyncio.Semaphore(N_UPLOADS)

    @asynccontextmanager
    async def lifespan(self, app):
        self._start()  # the application may have been stopped before
        yield
        self.pool.shutdown()

    async def score(self, request):
        wants_map = _flag(request, "map")
        return JSONResponse(await self._compute(request, self.scorer.score, wants_map))

    async def draw(self, request):
        return Response(await self._compute(request, self.scorer.draw), media_type="image/png")

    async def health(self, request):
        return JSONResponse(self.scorer.health())

    async def answer_image_error(self, request, error):
        self.scorer.count_error()
        return JSONResponse({"error": str(error)}, status_code=400)

    async def _compute(self, request, function, *options):
        """The result of a function of the uploaded file, in a thread of the pool."""
        async with self.uploads:
            content, name = await _read_upload(request, self.max_bytes)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self.pool, function, content, name, *options)


async def _read_upload(request, max_bytes):
    """Content and name of the uploaded file; the name is None if it is the whole body."""
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            content = await _read_body(request, max_bytes)
    except TimeoutError as error:
        raise HTTPException(
            408,
            f"the upload took more than {UPLOAD_SECONDS} s",
            headers={"Connection": "close"},  # the rest of it is not read
        ) from error
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return content, None

    async def replay():
        return {"type": "http.request", "body": content, "more_body": False}

    async with Request(request.scope, replay).form(max_files=1) as form:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if len(files) != 1:
            raise HTTPException(
                400, "expected one file in the form, got none; send it as curl -F image=@FILE does"
            )
        return await files[0].read(), files[0].filename


async def _read_body(request, max_bytes):
    """The body, of which never more than max_bytes are held."""
    refusal = HTTPException(
        413,
        f"expected an image file of at most {max_bytes / 1e6:g} MB; send a smaller one, or raise "
        "the limit: --max-megabytes",
        headers={"Connection": "close"},
    )
    declared = request.headers.get("content-length", "")
    is_too_large = declared.isdecimal() and int(declared) > max_bytes
    if is_too_large and request.headers.get("expect", "").lower() == "100-continue":
        raise refusal  # this client has sent nothing yet
    chunks, size, end = [], 0, time.monotonic() + LINGER_SECONDS
    async for chunk in request.stream():
        size += len(chunk)
        is_too_large = is_too_large or size > max_bytes
        if not is_too_large:
            chunks.append(chunk)
        elif time.monotonic() > end:
            break
        else:
            chunks.clear()
    if is_too_large:
        raise refusal
    if not size:
        raise HTTPException(400, "expected an image file as the body or in a form, got nothing")
    return b"".join(chunks)


def _flag(request, name):
    """A yes or no in the query."""
    value = request.query_params.get(name, "").lower()
    if value not in _TRUE | _FALSE:
        raise HTTPException(400, f"expected {name}=true or {name}=false, got {value!r}")
    return value in _TRUE


async def _answer_http_error(request, error):
    return JSONResponse(
        {"error": error.detail}, status_code=error.status_code, headers=error.headers
    )


async def _answer_nobody(request, error):
    return Response(status_code=400)  # the client is gone


async def _answer_bug(request, error):
    # The server's log has the traceback.
    return JSONResponse({"error": "internal error, see the log of the service"}, status_code=500)
