"""The live page's server through a real socket: token, Host, methods, headers, and the paths that it has."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from nfagent.clock import SystemClock
from nfagent.errors import HostError
from nfagent.introspection.http_server import answer_routes
from nfagent.introspection.page.access import PageAccess, is_token, new_token
from nfagent.introspection.page.listener import PageListener
from nfagent.introspection.page.token_file import NAME, kept_token, read_token
from nfagent.introspection.record_route import record_routes
from nfagent.model.listen_address import ListenAddress, parse_loopback
from nfagent.model.netaddr import AddressError
from nfagent.time_slices import TimeSlices
from nfagent.verdicts.log_stream import LogStream
from tests.support.packet_labs import wait_until
from tests.support.page_agent import STATUS, PageAgent, free_port, page_agent, served_page
from tests.unit.introspection.test_http_server import Told


class Browser:
    """A client that sends what a test wants, and keeps the cookie."""

    def __init__(self, url: str) -> None:
        self.parts = urlsplit(url)
        self.cookie = ""
        self.base = ""

    def ask(
        self, path: str, method: str = "GET", host: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body. host: None for the page's own, '' for none."""
        opened = http.client.HTTPConnection(self.parts.hostname or "", self.parts.port, timeout=30)
        try:
            opened.putrequest(method, path, skip_host=True)
            if host != "":
                opened.putheader("Host", host or self.parts.netloc)
            if self.cookie and "Cookie" not in headers:
                opened.putheader("Cookie", self.cookie)
            for name, value in headers.items():
                opened.putheader(name.replace("_", "-"), value)
            opened.endheaders()
            found = opened.getresponse()
            return found.status, dict(found.getheaders()), found.read()
        finally:
            opened.close()

    def enter(self) -> dict[str, str]:
        """Exchange the token for the cookie; return the answer's headers."""
        status, headers, _ = self.ask(f"/?{self.parts.query}")
        assert status == 303
        self.cookie = headers["Set-Cookie"].partition(";")[0]
        self.base = headers["Location"]
        return headers


def _status_route() -> tuple[web.RouteDef, ...]:
    async def status(_: web.Request) -> web.Response:
        return web.json_response(STATUS)

    return (web.get("/v1/status", status),)


def _listens(address: ListenAddress) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex((address.host, address.port)) == 0


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[PageAgent]:
    with page_agent(tmp_path / "agent.sock") as found:
        found.listen()
        yield found


@pytest.fixture
def browser(agent: PageAgent) -> Iterator[Browser]:
    with served_page(agent) as url:
        yield Browser(url)


def test_the_printed_address_gives_a_cookie_of_this_page_alone_and_the_page(browser: Browser) -> None:
    cookie = browser.enter()["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", f"Path={browser.base}"} <= set(cookie.split("; "))
    assert re.fullmatch(r"/[0-9a-f]{32}/", browser.base)
    assert browser.parts.query.removeprefix("token=") not in browser.base
    status, headers, body = browser.ask(browser.base)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b'<script type="module" src="main.js">' in body


@pytest.mark.parametrize(
    "cookie",
    [
        pytest.param("", id="without a cookie"),
        pytest.param("nfagent-ui-{port}=", id="with an empty one"),
        pytest.param("nfagent-ui-{port}=" + "x" * 43, id="with another token"),
        pytest.param("other={token}", id="with the token under another name"),
    ],
)
@pytest.mark.parametrize("path", ["", "main.js", "v1/status", "v1/records", "v1/explain?source=a&destination=b"])
def test_nothing_is_read_without_the_token(browser: Browser, agent: PageAgent, cookie: str, path: str) -> None:
    browser.enter()
    token = browser.parts.query.removeprefix("token=")
    browser.cookie = cookie.format(port=browser.parts.port, token=token)
    status, _, body = browser.ask(f"{browser.base}{path}")
    assert status == 401
    assert b"nfagent ui" in body
    assert agent.asked == []


@pytest.mark.parametrize(
    "query", ["", "token=", "token=x", "token=%00", "token=%FF", "Token={token}", "token={token}x"]
)
def test_another_token_gives_no_cookie(browser: Browser, query: str) -> None:
    asked = query.format(token=browser.parts.query.removeprefix("token="))
    status, headers, _ = browser.ask(f"/?{asked}")
    assert (status, headers.get("Set-Cookie")) == (401, None)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        pytest.param("localhost:8443", 200, id="ssh forwards from any port"),
        pytest.param("127.0.0.1", 200, id="of port 80"),
        pytest.param("[::1]:9465", 200, id="IPv6"),
        pytest.param("LOCALHOST", 200, id="in capitals"),
        pytest.param("attacker.example:9465", 421, id="a name that resolves to loopback"),
        pytest.param("127.0.0.1.attacker.example", 421, id="a name that begins like loopback"),
        pytest.param("localhost.attacker.example", 421, id="a name that begins like localhost"),
        pytest.param("127.0.0.1@attacker.example", 421, id="with a user"),
        pytest.param("10.0.0.1:9465", 421, id="another address"),
        pytest.param("", 400, id="none"),
    ],
)
def test_only_names_of_loopback_are_answered(browser: Browser, host: str, status: int) -> None:
    browser.enter()
    assert browser.ask(f"{browser.base}v1/status", host=host)[0] == status
    assert browser.ask(f"/?{browser.parts.query}", host=host)[0] == (303 if status == 200 else status)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["", "v1/status", "v1/try"])
def test_only_get_and_head_are_answered(browser: Browser, agent: PageAgent, method: str, path: str) -> None:
    browser.enter()
    status, headers, _ = browser.ask(f"{browser.base}{path}", method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert agent.asked == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("page.css", 200),
        ("v1/status", 200),
        ("v1/records?follow=yes", 200),
        ("v1/records?follow=no&last=all", 200),
        ("v1/records?follow=perhaps", 400),
        ("v1/explain?source=a&destination=b", 200),
        ("v1/dump/policies", 200),
        ("v1/dump/ruleset", 404),
    ],
)
def test_head_has_status_and_headers_of_get_and_no_body(browser: Browser, path: str, status: int) -> None:
    browser.enter()
    found, headers, body = browser.ask(f"{browser.base}{path}", "HEAD")
    assert (found, body) == (status, b"")
    if "follow=yes" not in path:  # GET of a stream has no end
        expected, of_get, _ = browser.ask(f"{browser.base}{path}")
        assert (found, headers["Content-Type"]) == (expected, of_get["Content-Type"])
    assert browser.ask(f"{browser.base}page.css")[0] == 200, "the connection is whole"


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/?token=x", "{base}", "{base}main.js", "{base}v1/status", "{base}x"]
)
def test_every_answer_has_the_headers_that_keep_other_pages_out(browser: Browser, path: str) -> None:
    browser.enter()
    _, headers, _ = browser.ask(path.format(base=browser.base))
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "connect-src": "'self'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_request_of_another_origin_is_refused_with_the_cookie_too(
    browser: Browser, agent: PageAgent, site: str
) -> None:
    browser.enter()
    asked = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": "no-cors"}
    assert browser.ask(f"{browser.base}v1/status", **asked)[0] == 403
    assert agent.asked == []
    assert browser.ask(f"{browser.base}v1/status", Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors")[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
def test_a_browser_that_names_another_origin_alone_is_refused_too(
    browser: Browser, agent: PageAgent, origin: str
) -> None:
    browser.enter()
    assert browser.ask(f"{browser.base}v1/status", Origin=origin)[0] == 403
    assert agent.asked == []


@pytest.mark.parametrize(
    "path",
    [
        "v1/try",
        "v1/config",
        "v1/peers",
        "v1/dump/state",
        "v1/dump/kernel",
        "v1/dump/policies/x",
        "v1/dump/../status",
        "v1/%2e%2e/metrics",
        "../v1/status",
        "..%2fv1/status",
        "%2e%2e/%2e%2e/etc/passwd",
        "../../../../../etc/passwd",
        "..%2f..%2faccess.py",
        "files/main.js",
        "index.html",
        "__init__.py",
        "metrics",
    ],
)
def test_no_other_path_exists(browser: Browser, agent: PageAgent, path: str) -> None:
    browser.enter()
    status, _, body = browser.ask(f"{browser.base}{path}")
    assert status == 404
    assert b"root:" not in body
    assert agent.asked in ([], ["/v1/status"])


@pytest.mark.parametrize("path", ["/v1/status", "/main.js", "/metrics", "//", "/."])
def test_nothing_is_outside_of_the_pages_own_path(browser: Browser, agent: PageAgent, path: str) -> None:
    browser.enter()
    assert browser.ask(path)[0] in {401, 404}
    assert agent.asked == []


def test_answers_and_errors_of_the_agent_are_passed_on_with_their_query(browser: Browser, agent: PageAgent) -> None:
    browser.enter()
    status, headers, body = browser.ask(f"{browser.base}v1/status?a=%22b%2B%20c&d=e%26f")
    assert (status, headers["Content-Type"], json.loads(body)) == (200, "application/json", STATUS)
    assert agent.asked == ["/v1/status?a=%22b%2B%20c&d=e%26f"]
    status, headers, body = browser.ask(f"{browser.base}v1/records?follow=no&last=1")
    assert (status, headers["Nfagent-Records"], body) == (200, "filtered", b"")
    status, _, body = browser.ask(f"{browser.base}v1/records?follow=perhaps")
    assert (status, json.loads(body)) == (400, {"error": "follow='perhaps': write yes or no"})


def test_without_an_agent_the_page_is_there_and_its_answers_say_so(browser: Browser, agent: PageAgent) -> None:
    browser.enter()
    agent.stop()
    assert browser.ask(browser.base)[0] == 200
    status, _, body = browser.ask(f"{browser.base}v1/status")
    assert status == 502
    assert json.loads(body)["error"] == f"no agent answers at {agent.path}: No such file or directory"
    agent.listen()
    assert browser.ask(f"{browser.base}v1/status")[0] == 200


@pytest.mark.parametrize(
    ("written", "found"),
    [("127.0.0.1:9465", "127.0.0.1:9465"), ("127.8.9.1:1", "127.8.9.1:1"), ("[::1]:9465", "[::1]:9465")],
)
def test_an_address_of_loopback_is_taken(written: str, found: str) -> None:
    assert str(parse_loopback(written)) == found


@pytest.mark.parametrize("written", ["0.0.0.0:9465", "[::]:9465", "10.0.0.1:80", "[fe80::1]:1"])
def test_an_address_that_others_reach_is_refused_with_the_reason(written: str) -> None:
    with pytest.raises(AddressError, match="nothing is encrypted"):
        parse_loopback(written)


def test_the_token_of_the_agents_page_is_roots_alone_and_stays(tmp_path: Path) -> None:
    token = kept_token(tmp_path / "run")
    found = (tmp_path / "run" / NAME).stat()
    assert (stat.S_IMODE(found.st_mode), is_token(token)) == (0o600, True)
    assert kept_token(tmp_path / "run") == read_token(tmp_path / "run") == token


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o602])
def test_a_token_that_others_could_have_read_or_written_is_replaced(tmp_path: Path, mode: int) -> None:
    path = tmp_path / NAME
    path.write_text(new_token())
    path.chmod(mode)
    before = path.read_text()
    with pytest.raises(HostError, match="not root's alone"):
        read_token(tmp_path)
    assert kept_token(tmp_path) != before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", "short", "x" * 5000, "\x00" * 43, "../" * 14 + "x"])
def test_a_file_without_a_token_is_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / NAME
    path.write_text(content)
    path.chmod(0o600)
    assert is_token(kept_token(tmp_path))


def test_a_link_in_the_place_of_the_token_is_neither_read_nor_written_through(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text(new_token())
    other.chmod(0o600)
    before = other.read_text()
    (tmp_path / NAME).symlink_to(other)
    with pytest.raises(OSError, match=os.strerror(40)):
        read_token(tmp_path)
    assert kept_token(tmp_path) != before
    assert other.read_text() == before


@pytest.fixture
def address() -> Iterator[ListenAddress]:
    with free_port() as port:
        yield ListenAddress("127.0.0.1", port)


def test_the_agent_serves_the_same_page_with_its_own_answers(tmp_path: Path, address: ListenAddress) -> None:
    listener = PageListener(address, tmp_path / "run", SystemClock())
    slices = TimeSlices()
    stream = LogStream()
    routes = (*answer_routes(Told(), slices), *record_routes(stream), *_status_route())

    def asked() -> tuple[int, bytes, int, int]:
        wait_until(lambda: _listens(address))
        browser = Browser(PageAccess(read_token(tmp_path / "run"), address).url)
        browser.enter()
        page = browser.ask(browser.base)
        answer = browser.ask(f"{browser.base}v1/explain?source=shop/web&destination=shop/db")
        refused = browser.ask(f"{browser.base}v1/dump/state")
        return page[0], answer[2], answer[0], refused[0]

    async def body() -> tuple[int, bytes, int, int]:
        listener.start(routes)
        try:
            async with asyncio.timeout(30):
                return await asyncio.to_thread(asked)
        finally:
            await listener.close()

    page, answer, explained, refused = asyncio.run(body())
    assert (page, explained, refused) == (200, 200, 404)
    assert json.loads(answer)["verdict"] == "denied"
    assert listener.problem == ""


def test_a_token_that_cannot_be_kept_is_a_problem_until_it_can_and_nothing_is_served(
    tmp_path: Path, address: ListenAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nfagent.introspection.page.listener._RETRY_SECONDS", 0.01)
    (tmp_path / "run").write_text("")
    listener = PageListener(address, tmp_path / "run", SystemClock())

    async def body() -> None:
        listener.start((*answer_routes(Told(), TimeSlices()), *record_routes(LogStream()), *_status_route()))
        await asyncio.to_thread(wait_until, lambda: listener.problem != "")
        assert listener.problem.startswith("the page of nfagent ui isn't served: its token can't be kept: ")
        assert not _listens(address)
        (tmp_path / "run").unlink()
        await asyncio.to_thread(wait_until, lambda: _listens(address))
        assert listener.problem == ""
        await listener.close()

    asyncio.run(body())
