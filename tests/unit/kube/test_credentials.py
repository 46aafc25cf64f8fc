"""The places of credentials, their order, and the error where there are none."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import pytest
import yaml

from nfagent.errors import ClusterError
from nfagent.kube import credentials as module
from nfagent.kube.credential_cache import CredentialCache
from nfagent.kube.credentials import ClientConfig, CredentialPaths, find_client_config

SECRET = "s3cret-value"  # noqa: S105 - one to look for in messages
POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
DEADLINE = 60.0
_T = TypeVar("_T")


def run(found: Coroutine[Any, Any, _T]) -> _T:
    async def in_time() -> _T:
        async with asyncio.timeout(DEADLINE):
            return await found

    return asyncio.run(in_time())


def config(path: Path, server: str = "https://api:6443", **user: object) -> Path:
    document = {
        "current-context": "prod",
        "contexts": [{"name": "prod", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user or {"token": SECRET}}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def places(tmp_path: Path) -> CredentialPaths:
    (tmp_path / "account").mkdir()
    return CredentialPaths(tmp_path / "account", (tmp_path / "kubelet.conf", tmp_path / "bootstrap.conf"))


@pytest.fixture
def in_pod(places: CredentialPaths) -> dict[str, str]:
    (places.service_account / "token").write_text("of the Pod")
    (places.service_account / "ca.crt").write_text("PEM")
    return POD | {"PATH": os.environ["PATH"]}


def test_the_setting_has_precedence_and_is_read_by_a_child_process(
    tmp_path: Path, places: CredentialPaths, in_pod: dict[str, str]
) -> None:
    file = config(tmp_path / "mine", "https://mine:6443/")
    in_pod["KUBECONFIG"] = str(config(tmp_path / "other"))
    (tmp_path / "yaml.py").write_text("raise SystemExit")
    in_pod["PYTHONPATH"] = str(tmp_path)  # a plugin may need it, the child doesn't heed it
    found = run(find_client_config(f"{tmp_path}/none:{file}", environment=in_pod, places=places))
    assert found == ClientConfig(
        server="https://mine:6443",
        origin=f"kubeconfig {file}, context prod",
        auth_method="token in the kubeconfig",
        authorization=f"Bearer {SECRET}",
        sources=(str(file),),
    )
    assert SECRET not in repr(found)


def test_the_variable_has_precedence_over_the_service_account_and_a_token_file_replaces_credentials(
    tmp_path: Path, places: CredentialPaths, in_pod: dict[str, str]
) -> None:
    in_pod["KUBECONFIG"] = str(config(tmp_path / "theirs", exec={"command": "/bin/false", "apiVersion": "x"}))
    found = run(find_client_config(token_file="~/token", environment=in_pod, places=places))  # noqa: S106 - a path
    assert found.origin == f"$KUBECONFIG {tmp_path}/theirs, context prod"
    assert (found.token_file, found.auth_method) == (
        str(Path("~/token").expanduser()),
        f"token file {Path.home()}/token",
    )


def test_a_service_account_has_precedence_over_the_nodes_files_and_a_variable_without_a_file(
    tmp_path: Path, places: CredentialPaths, in_pod: dict[str, str]
) -> None:
    config(places.node_files[0])
    found = run(find_client_config(environment=in_pod | {"KUBECONFIG": f"{tmp_path}/none"}, places=places))
    assert found == ClientConfig(
        server="https://10.96.0.1:443",
        origin="in-cluster service account",
        auth_method=f"token file {places.service_account}/token",
        ca_file=f"{places.service_account}/ca.crt",
        token_file=f"{places.service_account}/token",
    )


def test_a_pods_server_can_have_an_ipv6_address(places: CredentialPaths, in_pod: dict[str, str]) -> None:
    in_pod["KUBERNETES_SERVICE_HOST"] = "fd00::1"
    assert run(find_client_config(environment=in_pod, places=places)).server == "https://[fd00::1]:443"


def test_missing_credentials_are_reported_with_the_places(tmp_path: Path, places: CredentialPaths) -> None:
    with pytest.raises(ClusterError) as caught:
        run(find_client_config(environment={"KUBECONFIG": "/none"}, places=places))
    assert str(caught.value) == (
        "no credentials for an API server; looked for the setting kubeconfig (empty);"
        " $KUBECONFIG (/none: no such file);"
        f" a Pod's service account ({tmp_path}/account); the node's files ({tmp_path}/kubelet.conf,"
        f" {tmp_path}/bootstrap.conf); name a kubeconfig with --kubeconfig, or run from a folder with --manifests"
    )


def test_a_ca_of_a_service_account_that_leads_nowhere_does_not_mean_the_system_s_authorities(
    places: CredentialPaths, in_pod: dict[str, str]
) -> None:
    ca = places.service_account / "ca.crt"
    ca.unlink()
    ca.symlink_to("..data/ca.crt")
    found = run(find_client_config(environment=in_pod, places=places))
    assert found.ca_file == str(ca)
    ca.unlink()
    assert run(find_client_config(environment=in_pod, places=places)).ca_file == "", "as in client-go"


def test_with_a_context_the_service_account_is_skipped(places: CredentialPaths, in_pod: dict[str, str]) -> None:
    with pytest.raises(ClusterError, match=r"a Pod's service account \(not with the setting context\)"):
        run(find_client_config(context="prod", environment=in_pod, places=places))


def test_a_named_kubeconfig_must_exist(places: CredentialPaths, in_pod: dict[str, str]) -> None:
    with pytest.raises(ClusterError, match="kubeconfig /none: no such file; name an existing one"):
        run(find_client_config("/none", environment=in_pod, places=places))


def test_the_first_of_the_nodes_files_is_used_and_its_error_is_one_line(
    places: CredentialPaths,
) -> None:
    file = config(places.node_files[0])
    config(places.node_files[1])
    with pytest.raises(ClusterError) as caught:
        run(find_client_config(context="test", environment=POD, places=places))
    assert str(caught.value) == f"kubeconfig {file}: has no context 'test'; it has: prod"


def test_a_hanging_plugin_is_killed_when_its_caller_is_cancelled(tmp_path: Path, places: CredentialPaths) -> None:
    # The plugin says by a pipe that it runs, and holds its end as long as it lives.
    os.mkfifo(tmp_path / "lives")
    (tmp_path / "plugin").write_text(f"#!/bin/sh\nexec 3>{tmp_path}/lives; echo >&3; exec sleep 1000\n")
    (tmp_path / "plugin").chmod(0o755)
    file = config(tmp_path / "config", exec={"command": "./plugin", "apiVersion": "client.authentication.k8s.io/v1"})

    async def ended(pipe: BinaryIO) -> bytes:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        finding = asyncio.create_task(find_client_config(str(file), environment=dict(os.environ), places=places))
        try:
            assert await reader.readexactly(1) == b"\n"
            finding.cancel()
            with pytest.raises(asyncio.CancelledError):
                await finding
            return await reader.read()
        finally:
            transport.close()

    # Without blocking: the other end is opened later.
    with open(tmp_path / "lives", "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as pipe:
        assert run(ended(pipe)) == b"", "the other end is closed: the plugin is gone"


@pytest.mark.parametrize(
    ("said", "server"),
    [
        pytest.param({"server": "https://api:6443///"}, "https://api:6443", id="trailing slashes are removed"),
        pytest.param({"server": "https://api/k8s/c1/"}, "https://api/k8s/c1", id="a path is kept"),
        pytest.param({"server": "api:6443"}, "http://api:6443", id="http without a scheme"),
        pytest.param({"server": "api:6443", "ca": "PEM"}, "https://api:6443", id="https without a scheme, with a CA"),
    ],
)
def test_a_servers_url_is_completed_as_kubectl_does(said: dict[str, Any], server: str) -> None:
    assert module._url(ClientConfig(origin="here", **said)) == server  # noqa: SLF001 - a child for each case takes long


@pytest.mark.parametrize("server", ["ftp://api", "https://", "https://[api", "https://api:99999", "https://api:x"])
def test_a_server_that_is_no_url_is_rejected(server: str) -> None:
    with pytest.raises(ClusterError, match=r"here: server '.*' is not a URL; write https://HOST:PORT"):
        module._url(ClientConfig(origin="here", server=server))  # noqa: SLF001 - as above


def test_a_child_process_that_can_not_start_is_reported_and_tried_again(
    tmp_path: Path, places: CredentialPaths
) -> None:
    file = config(tmp_path / "mine", "https://mine:6443")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def body() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            with pytest.raises(
                ClusterError, match=r"mine: the child process that reads it can't be started: Too many open"
            ):
                await find_client_config(str(file), environment={}, places=places)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        found = await find_client_config(str(file), environment={}, places=places)
        assert found.server == "https://mine:6443"

    run(body())


@pytest.mark.parametrize(
    ("keeps", "during"),
    [
        pytest.param("", SECRET, id="to nothing"),
        pytest.param("clusters:\n- cluster:", SECRET, id="within the cluster"),
        pytest.param("current-context: prod\n", SECRET, id="before the user"),
        pytest.param(SECRET[:4], SECRET[:4], id="within the token, which the server refuses until it is whole"),
    ],
)
def test_a_kubeconfig_that_is_half_written_for_a_while_is_used_when_it_is_whole(
    keeps: str, during: str, tmp_path: Path, places: CredentialPaths
) -> None:
    file = config(tmp_path / "config")
    text = file.read_text()
    now = [1_000_000.0]

    async def story() -> None:
        environment = {"PATH": os.environ["PATH"]}
        cache = CredentialCache(
            lambda: find_client_config(str(file), environment=environment, places=places), lambda: now[0]
        )

        async def token() -> str:
            now[0] += 6
            return (await cache.access()).authorization.removeprefix("Bearer ")

        assert await token() == SECRET
        file.write_text(text[: text.index(keeps) + len(keeps)])
        assert await token() == during
        file.write_text(text.replace(SECRET, "another"))
        assert await token() == "another"

    run(story())
