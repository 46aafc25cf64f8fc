"""The proxy of a request, by the environment, as in Go."""

from __future__ import annotations

import pytest

from nfagent.errors import ClusterError
from nfagent.kube.proxy import checked_proxy, environment_proxy, without_password

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("server", "environment", "wanted"),
    [
        pytest.param("https://api:6443", {}, "", id="without variables there is none"),
        pytest.param("https://api:6443", {"HTTPS_PROXY": PROXY}, PROXY, id="HTTPS_PROXY is for https"),
        pytest.param("https://api:6443", {"https_proxy": PROXY}, PROXY, id="https_proxy in lower case"),
        pytest.param("https://api", {"HTTPS_PROXY": PROXY, "https_proxy": "no"}, PROXY, id="upper case has precedence"),
        pytest.param(
            "https://api",
            {"HTTPS_PROXY": "", "https_proxy": PROXY},
            PROXY,
            id="an empty variable in upper case is skipped",
        ),
        pytest.param("https://api:6443", {"HTTP_PROXY": PROXY}, "", id="HTTP_PROXY isn't for https"),
        pytest.param("http://api:8080", {"HTTP_PROXY": PROXY}, PROXY, id="HTTP_PROXY is for http"),
        pytest.param(
            "https://api:6443", {"HTTPS_PROXY": "proxy:1"}, "http://proxy:1", id="a proxy without scheme is http"
        ),
        pytest.param("https://localhost:6443", {"HTTPS_PROXY": PROXY}, "", id="localhost has no proxy"),
        pytest.param("https://127.9.9.9:6443", {"HTTPS_PROXY": PROXY}, "", id="an IPv4 loopback address has no proxy"),
        pytest.param("https://[::1]:6443", {"HTTPS_PROXY": PROXY}, "", id="the IPv6 loopback address has no proxy"),
        pytest.param(
            "https://localhost.example",
            {"HTTPS_PROXY": PROXY},
            PROXY,
            id="a name that begins with localhost isn't loopback",
        ),
    ],
)
def test_the_variable_is_chosen_by_the_scheme(server: str, environment: dict[str, str], wanted: str) -> None:
    assert environment_proxy(server, environment) == wanted


@pytest.mark.parametrize(
    ("server", "no_proxy", "direct"),
    [
        pytest.param("https://api.example", "*", True, id="a star matches every server"),
        pytest.param("https://api.example", "other,*", True, id="a star among other entries"),
        pytest.param("https://api.example", "", False, id="an empty list matches nothing"),
        pytest.param("https://api.example", " , ,", False, id="empty entries match nothing"),
        pytest.param("https://api.example", "api.example", True, id="the name itself"),
        pytest.param("https://API.example", " Api.Example ", True, id="letter case and blanks are ignored"),
        pytest.param("https://api.example", "example", True, id="a domain matches its subdomains"),
        pytest.param("https://api.example", ".example", True, id="a domain with a dot matches its subdomains"),
        pytest.param("https://api.example", "*.example", True, id="a domain with a star matches its subdomains"),
        pytest.param("https://example", "example", True, id="a domain matches itself"),
        pytest.param("https://example", ".example", False, id="a domain with a dot doesn't match itself"),
        pytest.param("https://example", "*.example", False, id="a domain with a star doesn't match itself"),
        pytest.param("https://myexample", "example", False, id="a suffix inside a label doesn't match"),
        pytest.param("https://api.example:6443", "api.example:6443", True, id="a name with its port"),
        pytest.param("https://api.example:6443", "api.example:443", False, id="a name with another port"),
        pytest.param("https://api.example", "api.example:443", True, id="the default port of https"),
        pytest.param("https://api.example:6443", ".example:6443", True, id="a domain with a port"),
        pytest.param("https://10.0.0.1:6443", "10.0.0.1", True, id="an address"),
        pytest.param("https://10.0.0.1:6443", "10.0.0.1:6443", True, id="an address with its port"),
        pytest.param("https://10.0.0.1:6443", "10.0.0.1:443", False, id="an address with another port"),
        pytest.param("https://10.0.0.11:6443", "10.0.0.1", False, id="an address with the same prefix of text"),
        pytest.param("https://10.0.0.1:6443", "10.0.0.0/8", True, id="a CIDR"),
        pytest.param("https://10.0.0.1:6443", "10.9.9.9/8", True, id="a CIDR with host bits"),
        pytest.param("https://11.0.0.1:6443", "10.0.0.0/8", False, id="a CIDR without the address"),
        pytest.param("https://10.example", "10.0.0.0/8", False, id="a name matches no CIDR"),
        pytest.param("https://10.0.0.1", "10.0.0.0/99", False, id="an invalid CIDR matches nothing"),
        pytest.param("https://[fd00::1]:6443", "fd00::/8", True, id="a CIDR of IPv6"),
        pytest.param("https://[fd00::1]:6443", "fd00:0::1", True, id="an address of IPv6 in another notation"),
        pytest.param("https://[fd00::1]:6443", "[fd00::1]:6443", True, id="an address of IPv6 with its port"),
        pytest.param("https://[fd00::1]:6443", "[fd00::1]:1", False, id="an address of IPv6 with another port"),
        pytest.param("https://[::ffff:10.0.0.1]", "10.0.0.0/8", True, id="an IPv4-mapped IPv6 address"),
        pytest.param("https://10.0.0.1", "fd00::/8", False, id="a CIDR of the other family"),
        pytest.param("https://api", ":443", False, id="a port without a host"),
    ],
)
def test_no_proxy_lists_direct_connections(server: str, no_proxy: str, *, direct: bool) -> None:
    environment = {"HTTPS_PROXY": PROXY, "NO_PROXY": no_proxy}
    assert environment_proxy(server, environment) == ("" if direct else PROXY)


@pytest.mark.parametrize("proxy", ["socks5://me:secret@p:1080", "http://", "http://[bad", "proxy"])
def test_a_url_that_is_no_http_proxy_is_rejected_without_its_password(proxy: str) -> None:
    with pytest.raises(ClusterError, match="of the environment is not an HTTP proxy; write http") as caught:
        checked_proxy(proxy, "the environment")
    assert "secret" not in str(caught.value)


def test_a_proxy_is_shown_without_its_password() -> None:
    assert checked_proxy("http://me:secret@p:1", "x") == "http://me:secret@p:1"
    assert without_password("http://me:sec@ret@p:1") == "http://p:1"
    assert without_password("p:1") == "p:1"
