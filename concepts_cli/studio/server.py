"""The server of the page: Gradio's queue and streams behind a token, on this machine alone."""

from __future__ import annotations

import functools
import inspect
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concepts_cli.errors import UcdError, memory_error
from concepts_cli.studio.play import Answer, Studio

if TYPE_CHECKING:
    from fastapi import FastAPI

HOST, USUAL_PORT = "127.0.0.1", 7860  # Gradio's
FILES = {
    "": ("page.html", "text/html"),
    "studio.css": ("studio.css", "text/css"),
    **{f"{name}.js": (f"{name}.js", "text/javascript") for name in ("studio", "pane", "mixer", "looking", "server")},
}
# The browser itself refuses whatever would leave this machine.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data: blob:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def check_installed() -> None:
    """Raise UcdError where Gradio is not installed."""
    if not util.find_spec("gradio"):
        raise UcdError("the studio needs Gradio, which is not installed", "pip install 'concepts-cli[studio]'")


def open_socket(port: int | None) -> socket.socket:
    """Listen on this machine only: on `port`, or on the usual one if it is free, or else on any other.

    Raises UcdError for a given port that is taken.
    """
    for number in (USUAL_PORT, 0) if port is None else (port,):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if os.name == "posix":  # elsewhere it would let two programs listen on one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, number))
            listener.listen()  # already, so that whoever opens the address at once waits instead of being refused
            return listener
        except OSError as error:
            listener.close()
            if port is not None:
                raise UcdError(f"port {port}: {error.strerror}", "choose another --port") from error
    raise UcdError(f"no free port on {HOST}", "name one with --port", exit_code=1)


def build_page(runs: Sequence[Path], token: str, *, device: str | None = None) -> FastAPI:
    """The page of these runs, with their model loaded. Raises UcdError for a run that can't be read."""
    studio = Studio.of(runs, device=device)
    app = build_app(studio, token)
    studio.load_models()
    return app


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Serve the page until an interrupt."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
    app.state.studio.is_ending = lambda: server.should_exit
    server.run(sockets=[listener])


def build_app(studio: Studio, token: str) -> FastAPI:
    """The page, its files and its calls, all below /TOKEN/. Raises UcdError where Gradio is not installed."""
    check_installed()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported, and for each page
    import gradio
    from fastapi import FastAPI, Response

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.studio = studio
    for name, (file, kind) in FILES.items():
        text = (Path(__file__).parent / "page" / file).read_text(encoding="utf-8")
        text = text.replace("{{ runs }}", str(len(studio.runs)))
        answer = functools.partial(Response, text, media_type=kind)
        app.get(f"/{token}/{name}")(_route(answer))
    with gradio.Blocks(analytics_enabled=False) as calls:
        for call in (studio.describe, studio.start_from, studio.heat, studio.mix, studio.keep):
            gradio.api(answered(call), api_name=call.__name__, concurrency_limit=None)
        for change in (studio.export, studio.rename, studio.merge, studio.drop):
            gradio.api(answered(change), api_name=change.__name__)
    gradio.mount_gradio_app(app, calls, path=f"/{token}", ssr_mode=False, show_error=False, run_history=False)
    app.add_middleware(Gate, token=token)
    return app


def _route(answer: Callable[[], Any]) -> Callable[[], Any]:
    def route() -> Any:
        return answer()

    return route


def answered(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call, whose mistakes become answers: {"problem": …, "hint": …}."""
    if inspect.isgeneratorfunction(call):

        @functools.wraps(call)
        def stream(*arguments: Any) -> Iterator[Answer]:
            try:
                yield from call(*arguments)
            except Exception as error:
                yield _problem(error)

        return stream

    @functools.wraps(call)
    def once(*arguments: Any) -> Answer:
        try:
            return call(*arguments)
        except Exception as error:
            return _problem(error)

    return once


def _problem(error: Exception) -> Answer:
    """A user's mistake in words; a bug goes on."""
    mistake = error if isinstance(error, UcdError) else memory_error(error, "close other programs, or use --device cpu")
    if mistake is None:
        raise error
    return {"problem": mistake.message, "hint": mistake.hint or ""}


class Gate:
    """Lets only requests below /TOKEN/ pass, and seals what they get against other machines."""

    def __init__(self, app: Any, token: str):
        self.app, self.token = app, token.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        first = scope["path"].removeprefix("/").partition("/")[0]
        if scope["type"] != "http" or not secrets.compare_digest(first.encode(), self.token):
            await _refuse(scope, receive, send)
            return

        async def sealed(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
            await send(message)

        await self.app(scope, receive, sealed)


async def _refuse(scope: Any, receive: Any, send: Any) -> None:
    from starlette.responses import PlainTextResponse

    text = "This address has no token, or a wrong one: open the address that `ucd studio` printed.\n"
    if scope["type"] == "http":
        await PlainTextResponse(text, status_code=403, headers=HEADERS)(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1008})
