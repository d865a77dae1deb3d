"""A page served to browsers on this computer: files, calls in JSON, one-time links.

What is shown and asked is its subclass's business; who may ask at all is `security.py`'s.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route, Router
from starlette.types import Scope

from text_gym.errors import LabelError, NotSavedError, TextGymError

from .security import Access, Guard, Session
from .server import ServerThread, listen, names_of

PORT = 8765
STATIC = Path(__file__).parent / "static"
_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_S = TypeVar("_S", bound="Site")
Call: TypeAlias = "Callable[[dict[str, Any], Session], dict[str, Any]]"


class RefusedError(Exception):
    """A request that cannot be served, with the HTTP status that says so."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Site:
    """A page as a context: it is served, in threads, from entering to leaving.

    Args:
        files: What `GET` gives, by path.
        calls: Methods that `POST /api/NAME` calls with the JSON object sent and the browser's session; what
            they return is sent as JSON.
        host: Address to listen at.
        port: 0 takes any that is free.
        names: Further names by which browsers reach the page, e.g. over a tunnel.
        expose: Allow a host that other computers can reach.
        say: Gets each new one-time link; when one was used, the next comes. `print` if None.

    Raises:
        ConfigError: See `listen`.
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        calls: Sequence[Call],
        *,
        host: str = "127.0.0.1",
        port: int = PORT,
        names: Sequence[str] = (),
        expose: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> None:
        listening = listen(host, port, expose)
        self.port = int(listening.getsockname()[1])
        self.hosts = names_of(listening, names)
        self._say = (lambda link: print(f"Open in a browser: {link}", flush=True)) if say is None else say
        self._access = Access()
        self._cookie = f"text_gym_{self.port}"
        self._guard = Guard(self._routes(files, calls), self._access, self.hosts, self._cookie)
        self._server = ServerThread(self._guard, listening)

    def __enter__(self: _S) -> _S:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start serving and announce the first link."""
        self._server.start()
        self._announce(host=True)

    def close(self) -> None:
        """Stop serving."""
        self._server.close()

    def new_link(self, rater: str = "", host: bool = False) -> str:
        """Make a link that admits one browser, once.

        Args:
            rater: The only name that it can answer under; what other browsers had of it ends.
            host: It can end the training.
        """
        return f"http://{self.hosts[0]}/login?token={self._access.new_link(rater, host)}"

    def _announce(self, rater: str = "", host: bool = False) -> None:
        link = self.new_link(rater, host)
        self._say(f"{rater}: {link}" if rater else link)

    def _routes(self, files: Mapping[str, Path], calls: Sequence[Call]) -> Router:
        pages = [_file(path, file.read_bytes(), _KINDS[file.suffix]) for path, file in files.items()]
        own = [(c.__name__, _endpoint(c, lambda scope: self._guard.session(scope))) for c in calls]
        api = [Route(f"/api/{name}", run, methods=["POST"]) for name, run in own]
        return Router([*pages, Route("/login", self._login, methods=["GET"]), *api], redirect_slashes=False)

    async def _login(self, request: Request) -> Response:
        if request.method != "GET":
            return PlainTextResponse("method not allowed", 405)
        before = self._guard.session(request.scope)
        session = self._access.redeem(request.query_params.get("token", ""), before)
        if session is None and before is None:
            return PlainTextResponse(
                "This link was used already, or is from before a restart. "
                "Take the newest one from the terminal.",
                403,
            )
        response = RedirectResponse("/", 303)
        if session is not None:
            cookie = session.token.decode()
            response.set_cookie(self._cookie, cookie, path="/", httponly=True, samesite="strict")
            self._announce(session.rater)
        return response


def _file(path: str, content: bytes, kind: str) -> Route:
    async def serve(_: Request) -> Response:
        return Response(content, media_type=kind)

    return Route(path, serve, methods=["GET"])


def _endpoint(call: Call, session_of: Callable[[Scope], Session | None]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        session = session_of(request.scope)
        if session is None:  # it ended since the guard looked
            return PlainTextResponse("open the newest link from the terminal", 401)
        status, content = await run_in_threadpool(_run, call, session, await request.body())
        return Response(json.dumps(content), status, media_type="application/json")

    return endpoint


def _run(call: Call, session: Session, body: bytes) -> tuple[int, dict[str, Any]]:
    """Handle a request's body and return the reply's status and content."""
    try:
        data = json.loads(body)
        if not isinstance(data, dict):
            raise ValueError
    except (ValueError, RecursionError):
        return 400, {"error": "not a JSON object"}
    try:
        return 200, call(data, session)
    except RefusedError as error:
        return error.status, {"error": str(error)}
    except LabelError as error:  # answered already
        return 409, {"error": str(error)}
    except NotSavedError as error:
        return 503, {"error": str(error)}
    except TextGymError as error:
        return 500, {"error": str(error)}
