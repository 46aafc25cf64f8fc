"""HTTP to the API server over real sockets: responses, streams, TLS, proxies, and their failures."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from nfagent import __version__
from nfagent.errors import ClusterError, ReadTimeoutError, UnreachableError
from nfagent.kube.client import ApiClient, ApiResponse
from nfagent.kube.credentials import ClientConfig
from tests.support.certificates import Authority
from tests.support.idle_time import hurrying, run_in_idle_time

DEADLINE = 60.0
SILENCE = 10.0
"""A timeout that passes where a test hurries."""
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def run(story: Coroutine[Any, Any, None]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(DEADLINE):
            await story

    run_in_idle_time(in_time())


@asynccontextmanager
async def serving(answer: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve HTTP on loopback; yields the port."""
    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    try:
        listening = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(runner, listening, ssl_context=tls).start()
        yield listening.getsockname()[1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[int]:
    """Serve bytes on loopback: the script continues after the headers of a request."""
    talks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        try:
            await script(reader, writer)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


@asynccontextmanager
async def asking(
    server: str, environment: Mapping[str, str] | None = None, seconds: float = DEADLINE, /, **fields: object
) -> AsyncIterator[ApiClient]:
    async def find() -> ClientConfig:
        return msgspec.convert({"server": server, "origin": "kubeconfig /k, context c", **fields}, ClientConfig)

    # Credentials are resolved again after a pause: this test's requests follow each other at once.
    api = ApiClient(find, environment=environment or {}, now=lambda: 0.0, seconds=seconds)
    try:
        yield api
    finally:
        await api.close()


async def told(request: web.BaseRequest) -> web.Response:
    """Respond with the request."""
    said = {"method": request.method, "target": request.raw_path, "body": (await request.read()).decode()}
    return web.json_response(said | {"headers": request.headers.getall("Impersonate-Group", []), **request.headers})


def read(answer: ApiResponse) -> dict[str, Any]:
    return dict(msgspec.json.decode(answer.body))


# --- answers


def test_a_request_has_method_target_headers_and_body() -> None:
    async def story() -> None:
        groups = (("Impersonate-Group", "a"), ("Impersonate-Group", "b"))
        async with serving(told) as port, asking(f"http://127.0.0.1:{port}/k8s", headers=groups) as api:
            answer = await api.request(
                "PATCH",
                "/api/v1/pods",
                query={"fieldSelector": "metadata.name=a&b", "limit": 5},
                body={"a": "\N{SNOWMAN}"},
                content_type="application/merge-patch+json",
                accept="application/yaml",
            )
            said = read(answer)
            assert (said["method"], said["body"]) == ("PATCH", '{"a":"\N{SNOWMAN}"}')
            assert said["target"] == "/k8s/api/v1/pods?fieldSelector=metadata.name%3Da%26b&limit=5"
            assert said["headers"] == ["a", "b"]
            assert (said["Content-Type"], said["Accept"]) == ("application/merge-patch+json", "application/yaml")
            assert (said["User-Agent"], said["Accept-Encoding"]) == (f"nfagent/{__version__}", "identity")
            assert "Authorization" not in said
            assert read(await api.request("POST", "/x", body=b"as it is"))["body"] == "as it is"
            assert "Content-Type" not in read(await api.request("GET", "/x"))

    run(story())


@pytest.mark.parametrize(
    ("status", "headers", "retry_after"),
    [
        pytest.param(200, {}, None, id="ok"),
        pytest.param(404, {}, None, id="not found"),
        pytest.param(302, {"Location": "/other"}, None, id="a redirect, which is not followed"),
        pytest.param(403, {}, None, id="forbidden"),
        pytest.param(429, {"Retry-After": "7"}, 7.0, id="too many requests, with seconds to wait"),
        pytest.param(503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0, id="Retry-After in the past"),
        pytest.param(429, {"Retry-After": "soon"}, None, id="an invalid Retry-After"),
        pytest.param(500, {"Retry-After": "-1"}, None, id="a negative Retry-After"),
    ],
)
def test_every_status_is_a_response(status: int, headers: dict[str, str], retry_after: float | None) -> None:
    async def answer(_request: web.BaseRequest) -> web.Response:
        return web.Response(status=status, headers=headers, body=b"said")

    async def story() -> None:
        async with serving(answer) as port, asking(f"http://127.0.0.1:{port}") as api:
            assert await api.request("GET", "/") == ApiResponse(status, b"said", retry_after)
            async with api.stream("/", None, DEADLINE) as stream:
                assert (stream.status, stream.retry_after, await stream.read()) == (status, retry_after, b"said")

    run(story())


def test_a_response_with_a_known_etag_is_not_sent_again() -> None:
    async def answer(request: web.BaseRequest) -> web.Response:
        known = request.headers.get("If-None-Match") == '"x"'
        return web.Response(status=304 if known else 200, headers={"ETag": '"x"'}, body=None if known else b"said")

    async def story() -> None:
        async with serving(answer) as port, asking(f"http://127.0.0.1:{port}") as api:
            first = await api.request("GET", "/")
            assert first == ApiResponse(200, b"said", etag='"x"')
            assert await api.request("GET", "/", etag=first.etag) == ApiResponse(304, b"", etag='"x"')

    run(story())


# --- streams


def test_a_stream_returns_bytes_as_they_arrive() -> None:
    async def story() -> None:
        seen = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            await seen.wait()
            writer.write(b"6\r\nsecond\r\n0\r\n\r\n")
            await reader.read()

        async with (
            scripted(script) as port,
            asking(f"http://127.0.0.1:{port}") as api,
            api.stream("/", {"watch": 1}, DEADLINE) as stream,
        ):
            assert await anext(stream) == b"first", "before the second is sent"
            seen.set()
            assert [chunk async for chunk in stream] == [b"second"]

    run(story())


def test_watches_do_not_wait_for_each_other() -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"open")
        await arrived.wait()
        return response

    async def story() -> None:
        async def watch() -> bytes:
            async with api.stream("/", None, DEADLINE) as stream:
                first = await anext(stream)
                opened.append(first)
                if len(opened) == 110:
                    arrived.set()
                return first + await stream.read()

        async with serving(answer) as port, asking(f"http://127.0.0.1:{port}") as api:
            assert await asyncio.gather(*(watch() for _ in range(110))) == [b"open"] * 110

    opened: list[bytes] = []
    arrived = asyncio.Event()
    run(story())


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n"
AT = "API server http://127.0.0.1:{port} (kubeconfig /k, context c): "


@pytest.mark.parametrize(
    ("sent", "then", "words"),
    [
        pytest.param(HEAD, "end", "the response was cut off; does it restart?", id="closed in the body"),
        pytest.param(HEAD, "half close", "the response was cut off; does it restart?", id="half closed in the body"),
        pytest.param(HEAD, "reset", "the response was cut off; does it restart?", id="reset in the body"),
        pytest.param(b"", "reset", "the connection was lost: Connection reset by peer", id="reset before the response"),
        pytest.param(b"", "end", "closed the connection without a response", id="closed before the response"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nConten", "end", "closed the connection without a response", id="closed in the headers"
        ),
        pytest.param(b"SSH-2.0-x\r\n\r\n", "wait", "the response is not HTTP: ", id="not an HTTP server"),
        pytest.param(HEAD + b"zzz\r\n", "wait", "the response is not HTTP: ", id="an invalid chunk in the body"),
    ],
)
def test_a_failing_stream_reports_its_cause(sent: bytes, then: str, words: str) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        await asyncio.sleep(0)
        await writer.drain()
        if then == "half close":
            writer.write_eof()
        elif then == "reset":
            if sent:
                await begun.wait()
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return
        if then != "end":
            await reader.read()

    async def story() -> None:
        async with scripted(script) as port, asking(f"http://127.0.0.1:{port}") as api:
            with pytest.raises(ClusterError) as caught:
                await reading(api)
            assert str(caught.value).startswith(AT.format(port=port) + words)
            assert "\n" not in str(caught.value)
            assert not isinstance(caught.value, UnreachableError)
            assert got == ([b"some"] if sent == HEAD else [])

    async def reading(api: ApiClient) -> None:
        async with api.stream("/", None, DEADLINE) as stream:
            async for chunk in stream:
                got.append(chunk)
                begun.set()

    got: list[bytes] = []
    begun = asyncio.Event()
    run(story())


@pytest.mark.parametrize("sent", [HEAD, b""], ids=["in the body", "before the response"])
def test_a_stream_that_falls_silent_reports_that(sent: bytes) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        if sent:
            await begun.wait()
        await hurrying(reader.read())

    async def reading(api: ApiClient) -> None:
        async with api.stream("/", None, SILENCE) as stream:
            async for chunk in stream:
                got.append(chunk)
                begun.set()

    async def story() -> None:
        async with scripted(script) as port, asking(f"http://127.0.0.1:{port}") as api:
            with pytest.raises(ReadTimeoutError) as caught:
                await reading(api)
            assert str(caught.value).startswith(AT.format(port=port) + "no bytes for 10 s; does a firewall drop")
            assert got == ([b"some"] if sent else [])

    got: list[bytes] = []
    begun = asyncio.Event()
    run(story())


def test_what_a_reader_raises_is_its_own_and_the_connection_is_closed() -> None:
    async def breaking_off(api: ApiClient) -> None:
        async with api.stream("/", None, DEADLINE) as stream:
            await anext(stream)
            raise OSError("mine")

    async def story() -> None:
        closed = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HEAD)
            await reader.read()
            closed.set()

        async with scripted(script) as port, asking(f"http://127.0.0.1:{port}") as api:
            with pytest.raises(OSError, match=r"^mine$"):
                await breaking_off(api)
            await closed.wait()

    run(story())


# --- unreachable


@contextmanager
def silent_port() -> Iterator[int]:
    """Return a port of loopback at which nothing listens: it is bound, so that no other process gets it meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


NOWHERE = f"{'.'.join(['nowhere' * 9] * 5)}.invalid"
"""A name that is too long for DNS: it can't be resolved, and no name server is asked."""


def test_a_server_that_does_not_listen_is_unreachable() -> None:
    async def story() -> None:
        with silent_port() as port:
            async with asking(f"http://127.0.0.1:{port}") as api:
                with pytest.raises(UnreachableError) as caught:
                    await api.request("GET", "/")
            assert str(caught.value) == (
                AT.format(port=port) + "can't be reached: Connection refused; check that it runs, and its address"
            )
        async with asking(f"https://{NOWHERE}:6443") as api:
            with pytest.raises(UnreachableError, match=r"its name can't be resolved: .*; check its spelling"):
                await api.request("GET", "/")

    run(story())


def test_a_response_timeout_is_reported() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        await hurrying(reader.read())

    async def story() -> None:
        async with scripted(script) as port, asking(f"http://127.0.0.1:{port}", None, SILENCE) as api:
            with pytest.raises(ClusterError, match=r"no whole response within 10 s; is it overloaded"):
                await api.request("GET", "/")

    run(story())


# --- credentials


def test_after_a_401_credentials_are_resolved_again_and_the_request_is_repeated_once() -> None:
    asked: list[str] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        asked.append(request.headers["Authorization"])
        return web.Response(status=200 if asked[-1] == "Bearer 2" else 401)

    async def story() -> None:
        async with serving(answer) as port:

            async def find() -> ClientConfig:
                found.append(1)
                return ClientConfig(server=f"http://127.0.0.1:{port}", origin="o", authorization=f"Bearer {len(found)}")

            api = ApiClient(find, environment={})
            assert (await api.request("POST", "/", body={})).status == 200
            assert asked == ["Bearer 1", "Bearer 2"]
            assert (await api.client_config()).authorization == "Bearer 2"
            found.append(1)
            asked.clear()
            async with api.stream("/", None, DEADLINE) as stream:
                assert stream.status == 200
            assert asked == ["Bearer 2"]
            await api.close()

    found: list[int] = []
    run(story())


def test_a_repeated_401_is_returned() -> None:
    asked: list[str] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        asked.append(request.path)
        return web.Response(status=401, body=b"no")

    async def story() -> None:
        async with serving(answer) as port, asking(f"http://127.0.0.1:{port}") as api:
            assert await api.request("GET", "/1") == ApiResponse(401, b"no")
            assert await api.request("GET", "/2") == ApiResponse(401, b"no")
            assert asked == ["/1", "/1", "/2"], "what was tried just now isn't tried with every request"

    run(story())


def test_a_token_file_that_rotates_is_used_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        file = tmp_path / "token"
        file.write_text("one")
        async with serving(told) as port, asking(f"http://127.0.0.1:{port}", token_file=str(file)) as api:
            assert read(await api.request("GET", "/"))["Authorization"] == "Bearer one"
            file.write_text("two")
            assert read(await api.request("GET", "/"))["Authorization"] == "Bearer two"

    run(story())


# --- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def test_tls_checks_the_server_against_the_ca_and_its_name(authority: Authority, tmp_path: Path) -> None:
    async def story() -> None:
        itself = authority.certificate("server")
        async with serving(told, authority.serving()) as port:
            at = f"https://127.0.0.1:{port}"
            ca = authority.file.read_text()
            for fields in (
                {"ca": ca},
                {"ca_file": str(authority.file)},
                {"ca_file": str(itself)},
                {"ca": ca, "tls_server_name": "kubernetes.default.svc"},
            ):
                async with asking(at, **fields) as api:
                    assert (await api.request("GET", "/")).status == 200
            async with asking(at, ca=ca, tls_server_name="other") as api:
                with pytest.raises(ClusterError, match=r"its certificate is for another name: .*; set tls-server-name"):
                    await api.request("GET", "/")
            other = Authority(tmp_path).file
            async with asking(at, ca_file=str(other)) as api:
                with pytest.raises(ClusterError, match=rf"isn't trusted by {other}: .*; set the CA") as caught:
                    await api.request("GET", "/")
                assert not isinstance(caught.value, UnreachableError)
            async with asking(at) as api:
                with pytest.raises(ClusterError, match=r"isn't trusted by the system's CAs: .*; set the CA"):
                    await api.request("GET", "/")
            async with asking(f"http://127.0.0.1:{port}") as api:
                with pytest.raises(ClusterError, match=r"is it https|without a response"):
                    await api.request("GET", "/")

    run(story())


def test_after_a_401_over_tls_the_request_is_repeated_on_a_new_connection(authority: Authority) -> None:
    seen: list[object] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        assert request.transport is not None
        seen.append(request.transport.get_extra_info("peername"))
        return web.Response(status=401 if seen[-1] == seen[0] else 200)

    async def story() -> None:
        tls = authority.serving()
        async with serving(answer, tls) as port, asking(f"https://127.0.0.1:{port}", insecure=True) as api:
            assert (await api.request("GET", "/")).status == 200, (
                "the server knows a connection by its first certificate"
            )
            assert len(seen) == 2

    run(story())


def test_https_to_an_http_server_is_reported() -> None:
    async def story() -> None:
        async with serving(told) as port, asking(f"https://127.0.0.1:{port}", insecure=True) as api:
            with pytest.raises(ClusterError, match=r"TLS handshake failed: .*; is it https"):
                await api.request("GET", "/")

    run(story())


def test_an_insecure_connection_is_logged_once(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        tls = authority.serving()
        async with serving(told, tls) as port, asking(f"https://127.0.0.1:{port}", insecure=True) as api:
            assert (await api.request("GET", "/")).status == 200
            assert (await api.request("GET", "/")).status == 200

    run(story())
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith(
        "kubeconfig /k, context c: insecure-skip-tls-verify is set: an attacker between this node"
    )


def test_a_rotated_client_certificate_is_used_by_the_next_connection(authority: Authority, tmp_path: Path) -> None:
    async def who(request: web.BaseRequest) -> web.Response:
        assert request.transport is not None
        subject = request.transport.get_extra_info("peercert")["subject"]
        return web.Response(text=dict(pair for (pair,) in subject)["commonName"])

    async def story() -> None:
        current, following = tmp_path / "current.pem", tmp_path / "next.pem"
        current.symlink_to(authority.certificate("first"))
        following.symlink_to(authority.certificate("second"))
        shown = {"certificate_file": str(current), "key_file": str(current)}
        async with serving(who, authority.serving(clients=True)) as port:
            at, ca = f"https://127.0.0.1:{port}", authority.file.read_text()
            async with asking(at, ca=ca, **shown) as api:
                assert (await api.request("GET", "/")).body == b"first"
                following.rename(current)
                assert (await api.request("GET", "/")).body == b"second"
            pem = (tmp_path / "current.pem").read_text()
            async with asking(at, ca=ca, certificate=pem, key=pem) as api:
                assert (await api.request("GET", "/")).body == b"second", "from a text, too"
            async with asking(at, ca=ca) as api:
                with pytest.raises(ClusterError, match="no client certificate"):
                    await api.request("GET", "/")

    run(story())


# --- proxies


def proxying(lines: list[str], upstream: int | None) -> Script:
    """Run a proxy that records its requests, and connects to one destination or refuses."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lines.extend(head.decode().strip().split("\r\n"))
        if upstream is None:
            writer.write(b"HTTP/1.1 403 Not for you\r\nContent-Length: 0\r\n\r\n")
            await reader.read()
            return
        there, back = await asyncio.open_connection("127.0.0.1", upstream)
        try:
            if head.startswith(b"CONNECT "):
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                back.write(head)
            await asyncio.gather(pass_on(reader, back), pass_on(there, writer), return_exceptions=True)
        finally:
            back.transport.abort()

    return script


def test_https_requests_use_a_tunnel_and_verify_the_certificate(authority: Authority) -> None:
    lines: list[str] = []

    async def story() -> None:
        async with (
            serving(told, authority.serving()) as port,
            scripted(proxying(lines, port)) as proxy,
            asking(
                "https://api.example:6443",
                {"HTTPS_PROXY": "http://127.0.0.1:1"},
                proxy=f"http://me:secret@127.0.0.1:{proxy}",
                ca=authority.file.read_text(),
                tls_server_name="kubernetes.default.svc",
                authorization="Bearer t",
            ) as api,
        ):
            said = read(await api.request("GET", "/version"))
            assert (said["target"], said["Authorization"]) == ("/version", "Bearer t")
            assert lines[0].startswith("CONNECT api.example:6443 ")
            assert "Proxy-Authorization: Basic bWU6c2VjcmV0" in lines
            assert not [line for line in lines if "Bearer" in line], "the proxy sees no token"

    run(story())


def test_http_requests_use_the_proxy_of_the_environment() -> None:
    lines: list[str] = []

    async def story() -> None:
        async with (
            serving(told) as port,
            scripted(proxying(lines, port)) as proxy,
            asking("http://api.example:8080", {"HTTP_PROXY": f"127.0.0.1:{proxy}"}) as api,
        ):
            assert (await api.request("GET", "/version")).status == 200
            assert lines[0] == "GET http://api.example:8080/version HTTP/1.1"

    run(story())


def test_a_failing_proxy_is_reported_without_its_password() -> None:
    async def complaint(proxy: str) -> ClusterError:
        async with asking("https://api.example:6443", proxy=proxy) as api:
            with pytest.raises(ClusterError) as caught:
                await api.request("GET", "/")
            return caught.value

    async def story() -> None:
        async with scripted(proxying([], None)) as port:
            refused = await complaint(f"http://me:secret@127.0.0.1:{port}")
        assert f"the proxy http://127.0.0.1:{port} refused the connection: 403 Not for you; allow it there" in str(
            refused
        )
        with silent_port() as port:
            gone = await complaint(f"http://me:secret@127.0.0.1:{port}")
        assert f"the proxy http://127.0.0.1:{port} can't be reached: Connection refused; start it" in str(gone)
        assert isinstance(gone, UnreachableError)
        assert "proxy socks5://p:1 of kubeconfig /k" in str(await complaint("socks5://p:1"))

    run(story())
