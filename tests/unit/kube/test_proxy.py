"""Which proxy a request goes through: Go's reading of the environment."""

from __future__ import annotations

import pytest

from nfagent.errors import ClusterError
from nfagent.kube.proxy import checked_proxy, environments_proxy, without_password

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("server", "environment", "wanted"),
    [
        pytest.param("https://api:6443", {}, "", id="without variables there is none"),
        pytest.param("https://api:6443", {"HTTPS_PROXY": PROXY}, PROXY, id="HTTPS_PROXY is for https"),
        pytest.param("https://api:6443", {"https_proxy": PROXY}, PROXY, id="so it is in small letters"),
        pytest.param("https://api", {"HTTPS_PROXY": PROXY, "https_proxy": "no"}, PROXY, id="capitals win"),
        pytest.param("https://api", {"HTTPS_PROXY": "", "https_proxy": PROXY}, PROXY, id="unless they are empty"),
        pytest.param("https://api:6443", {"HTTP_PROXY": PROXY}, "", id="HTTP_PROXY isn't for https"),
        pytest.param("http://api:8080", {"HTTP_PROXY": PROXY}, PROXY, id="but for http"),
        pytest.param(
            "https://api:6443", {"HTTPS_PROXY": "proxy:1"}, "http://proxy:1", id="a proxy without scheme is http"
        ),
        pytest.param("https://localhost:6443", {"HTTPS_PROXY": PROXY}, "", id="localhost is asked directly"),
        pytest.param("https://127.9.9.9:6443", {"HTTPS_PROXY": PROXY}, "", id="so is every address of loopback"),
        pytest.param("https://[::1]:6443", {"HTTPS_PROXY": PROXY}, "", id="of IPv6, too"),
        pytest.param(
            "https://localhost.example", {"HTTPS_PROXY": PROXY}, PROXY, id="a name that begins so isn't loopback"
        ),
    ],
)
def test_the_variable_is_the_one_of_the_scheme(server: str, environment: dict[str, str], wanted: str) -> None:
    assert environments_proxy(server, environment) == wanted


@pytest.mark.parametrize(
    ("server", "no_proxy", "direct"),
    [
        pytest.param("https://api.example", "*", True, id="a star is everything"),
        pytest.param("https://api.example", "other,*", True, id="a star among others, too"),
        pytest.param("https://api.example", "", False, id="an empty list is nothing"),
        pytest.param("https://api.example", " , ,", False, id="so are empty entries"),
        pytest.param("https://api.example", "api.example", True, id="the name itself"),
        pytest.param("https://API.example", " Api.Example ", True, id="in any case, with blanks around"),
        pytest.param("https://api.example", "example", True, id="a domain is everything below"),
        pytest.param("https://api.example", ".example", True, id="with a dot before it, too"),
        pytest.param("https://api.example", "*.example", True, id="with a star before it, too"),
        pytest.param("https://example", "example", True, id="a domain is itself"),
        pytest.param("https://example", ".example", False, id="a domain with a dot isn't itself"),
        pytest.param("https://example", "*.example", False, id="nor is one with a star"),
        pytest.param("https://myexample", "example", False, id="the end of a word isn't a domain"),
        pytest.param("https://api.example:6443", "api.example:6443", True, id="a name with its port"),
        pytest.param("https://api.example:6443", "api.example:443", False, id="a name with another port"),
        pytest.param("https://api.example", "api.example:443", True, id="https is port 443"),
        pytest.param("https://api.example:6443", ".example:6443", True, id="a domain with a port"),
        pytest.param("https://10.0.0.1:6443", "10.0.0.1", True, id="an address"),
        pytest.param("https://10.0.0.1:6443", "10.0.0.1:6443", True, id="an address with its port"),
        pytest.param("https://10.0.0.1:6443", "10.0.0.1:443", False, id="an address with another port"),
        pytest.param("https://10.0.0.11:6443", "10.0.0.1", False, id="an address that begins alike"),
        pytest.param("https://10.0.0.1:6443", "10.0.0.0/8", True, id="a CIDR"),
        pytest.param("https://10.0.0.1:6443", "10.9.9.9/8", True, id="a CIDR with host bits"),
        pytest.param("https://11.0.0.1:6443", "10.0.0.0/8", False, id="a CIDR of others"),
        pytest.param("https://10.example", "10.0.0.0/8", False, id="a name is in no CIDR"),
        pytest.param("https://10.0.0.1", "10.0.0.0/99", False, id="what is no CIDR is nothing"),
        pytest.param("https://[fd00::1]:6443", "fd00::/8", True, id="a CIDR of IPv6"),
        pytest.param("https://[fd00::1]:6443", "fd00:0::1", True, id="an address of IPv6, however written"),
        pytest.param("https://[fd00::1]:6443", "[fd00::1]:6443", True, id="an address of IPv6 with its port"),
        pytest.param("https://[fd00::1]:6443", "[fd00::1]:1", False, id="an address of IPv6 with another port"),
        pytest.param("https://[::ffff:10.0.0.1]", "10.0.0.0/8", True, id="an IPv4 address in IPv6 clothes"),
        pytest.param("https://10.0.0.1", "fd00::/8", False, id="a CIDR of the other family"),
        pytest.param("https://api", ":443", False, id="a port without a host"),
    ],
)
def test_no_proxy_names_what_is_asked_directly(server: str, no_proxy: str, *, direct: bool) -> None:
    environment = {"HTTPS_PROXY": PROXY, "NO_PROXY": no_proxy}
    assert environments_proxy(server, environment) == ("" if direct else PROXY)


@pytest.mark.parametrize("proxy", ["socks5://me:secret@p:1080", "http://", "http://[bad", "proxy"])
def test_what_is_no_http_proxy_is_refused_without_its_password(proxy: str) -> None:
    with pytest.raises(ClusterError, match="of the environment can't be used; write http") as caught:
        checked_proxy(proxy, "the environment")
    assert "secret" not in str(caught.value)


def test_a_proxy_with_a_password_is_shown_without() -> None:
    assert checked_proxy("http://me:secret@p:1", "x") == "http://me:secret@p:1"
    assert without_password("http://me:sec@ret@p:1") == "http://p:1"
    assert without_password("p:1") == "p:1"
