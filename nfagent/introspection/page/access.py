"""Who may read the page: the user who has its token, from this machine, and no page of another origin.

The printed address has the token. It is exchanged for a cookie, so that it isn't in the address of the page. The cookie
belongs to a path that follows from the token: browsers don't tell ports apart, and would send a cookie of `/` to other
programs at this machine's loopback. The Host header has to be a name of loopback: a name that an attacker's DNS server
lets resolve to 127.0.0.1 isn't. Its port is free: ssh forwards from any.
"""

from __future__ import annotations

import re
import secrets
from hashlib import sha256
from hmac import compare_digest

from aiohttp import web
from aiohttp.typedefs import Handler

from nfagent.model.listen_address import ListenAddress

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""What every answer has."""
_HOST = re.compile(r"(?:127(?:\.\d{1,3}){3}|localhost|\[::1\])(?::\d{1,5})?", re.ASCII)
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_METHODS = ("GET", "HEAD")
_OWN = {"same-origin", "none"}


def new_token() -> str:
    """Return a token: 256 random bits."""
    return secrets.token_urlsafe(32)


def is_token(text: str) -> bool:
    """Return whether a text has the form of a token."""
    return _TOKEN.fullmatch(text) is not None


class PageAccess:
    """The token of one page.

    base: the path below which the page and its answers are
    """

    def __init__(self, token: str, address: ListenAddress) -> None:
        """Store the token and the address that the page is served at."""
        self._token = token
        self._address = address
        self._cookie = f"nfagent-ui-{address.port}"
        self.base = f"/{sha256(b'path of ' + token.encode()).hexdigest()[:32]}/"

    @property
    def url(self) -> str:
        """The address to open, with the token."""
        return f"http://{self._address}/?token={self._token}"

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer what is allowed; refuse the rest."""
        refusal = _misdirected(request)
        if refusal is None and request.path == "/":
            return self._entered(request)
        refusal = refusal or self._unknown(request)
        return await handler(request) if refusal is None else refusal

    def _unknown(self, request: web.Request) -> web.Response | None:
        """Return the refusal of a request without the cookie, or of another origin's; None for none."""
        if not request.path.startswith(self.base):
            return _refused(404, "There is nothing here. Open the address that `nfagent ui` prints.")
        if not _same(request.cookies.get(self._cookie, ""), self._token):
            return _refused(401, "Open the address that `nfagent ui` prints: this browser has no token.")
        if _is_of_another_origin(request):
            return _refused(403, "Pages of another origin may read nothing here.")
        return None

    def _entered(self, request: web.Request) -> web.Response:
        """Return the way to the page, and the cookie, for the token."""
        if not _same(request.query.get("token", ""), self._token):
            return _refused(401, "Open the address that `nfagent ui` prints: this one has not its token.")
        response = web.Response(status=303, headers={"Location": self.base})
        response.set_cookie(self._cookie, self._token, path=self.base, httponly=True, samesite="Strict")
        return response


async def add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Add HEADERS, as an application's signal `on_response_prepare`."""
    response.headers.update(HEADERS)


def _misdirected(request: web.Request) -> web.Response | None:
    """Return the refusal of a request to another host, or to change something; None for none."""
    hosts = request.headers.getall("Host", [])
    if len(hosts) != 1 or not _HOST.fullmatch(hosts[0].lower()):
        return _refused(421, "This page is served for 127.0.0.1, [::1] and localhost alone.")
    if request.method not in _METHODS:
        return _refused(405, "This page is read-only: GET and HEAD alone.", Allow="GET, HEAD")
    return None


def _same(given: str, wanted: str) -> bool:
    return compare_digest(given.encode(errors="surrogateescape"), wanted.encode())


def _is_of_another_origin(request: web.Request) -> bool:
    """Return whether a browser says that another page asks; a link that is followed has no cookie already.

    Old browsers have no Sec-Fetch-Site, and an Origin where a page asks for what it could read.
    """
    if any(origin.lower() != f"http://{request.host.lower()}" for origin in request.headers.getall("Origin", [])):
        return True
    asked_by = request.headers.get("Sec-Fetch-Site", "none")
    return asked_by not in _OWN and request.headers.get("Sec-Fetch-Mode") != "navigate"


def _refused(status: int, words: str, **headers: str) -> web.Response:
    return web.Response(status=status, text=f"{words}\n", headers=headers)
