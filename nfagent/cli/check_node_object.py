"""The checks of this node's Node object and Pods, for `nfagent check --cluster`."""

from __future__ import annotations

from contextlib import suppress
from difflib import get_close_matches
from typing import Any
from urllib.parse import quote

import msgspec

from nfagent.cli.check_result import Check
from nfagent.config import DEFAULT_FILE, Settings
from nfagent.errors import DecodeError, NfagentError, UsageError
from nfagent.introspection.agent_client import NoAgentError, get_json
from nfagent.kube.client import ApiClient, ApiResponse
from nfagent.kube.watch_codec import decode_status
from nfagent.model.plurals import counted

_NODES = "/api/v1/nodes"
_PODS = "/api/v1/pods"
_NAMES_ALONE = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
_STATE = "/v1/dump/state"

_SHOWN = 5
_OK = 200
_NOT_FOUND = 404


class _Metadata(msgspec.Struct):
    name: str
    namespace: str = ""


class _Spec(msgspec.Struct):
    hostNetwork: bool | None = None  # noqa: N815 - the API's name


class _Object(msgspec.Struct):
    metadata: _Metadata
    spec: _Spec = msgspec.field(default_factory=_Spec)


class _List(msgspec.Struct):
    items: list[_Object] | None = None


_LIST = msgspec.json.Decoder(_List)


async def node_checks(server: ApiClient, settings: Settings) -> list[Check]:
    """Check that this node's Node exists, and that the running agent has its Pods. Raises ClusterError, DecodeError."""
    name = settings.node_name
    node = await server.request("GET", f"{_NODES}/{quote(name, safe='')}")
    if node.status == _NOT_FOUND:
        return [await _missing_node(server, name)]
    if node.status != _OK:
        refusal = decode_status(node.body, node.status)
        return [Check("node", "warn", f"Node {name} can't be read: {refusal}", "see the permissions above")]
    answer = await server.request("GET", _PODS, query={"fieldSelector": f"spec.nodeName={name}"})
    found = [Check("node", "ok", f"Node {name} exists")]
    if answer.status != _OK:
        refusal = decode_status(answer.body, answer.status)
        return [*found, Check("Pods", "warn", f"can't be read: {refusal}", "see the permissions above")]
    return [*found, _pods(_objects(answer), settings)]


async def _missing_node(server: ApiClient, name: str) -> Check:
    answer = await server.request("GET", _NODES, query={"limit": 5000}, accept=_NAMES_ALONE)
    names = sorted(each.metadata.name for each in _objects(answer)) if answer.status == _OK else []
    alike = names if len(names) <= _SHOWN else get_close_matches(name, names, _SHOWN, 0.5)
    if alike:
        there = f"{'there is' if len(alike) == 1 else 'there are'} {', '.join(alike)}"
    else:
        there = f"none of {len(names)} Nodes has a similar name" if names else "the cluster has no Nodes"
    return Check("node", "FAIL", f"no Node {name}; {there}", f"give --node NAME, or set node in {DEFAULT_FILE}")


def _objects(answer: ApiResponse) -> list[_Object]:
    try:
        return _LIST.decode(answer.body).items or []
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"the list from the API server can't be decoded: {error}") from None


def _pods(pods: list[_Object], settings: Settings) -> Check:
    own = {(pod.metadata.namespace, pod.metadata.name) for pod in pods if not pod.spec.hostNetwork}
    words = f"{counted(len(pods), 'Pod')} of Node {settings.node_name}"
    if len(pods) > len(own):
        words += f", {len(pods) - len(own)} with the node's own network"
    try:
        state = _state(settings, form="summary")
        obstacle = _obstacle(state, settings.node_name)
        if obstacle:
            return Check("Pods", "warn", f"{words}; {obstacle}", "journalctl -u nfagent")
        if "apiserver" not in state["agent"]:
            return Check("Pods", "ok", f"{words}; the running agent reads a folder of manifests")
        missing = _missing(own, settings) if state["counts"]["local_pods"] != len(own) else []
    except NoAgentError:
        return Check("Pods", "ok", f"{words}; no agent runs here")
    except NfagentError as error:
        return Check("Pods", "ok", f"{words}; the agent can't be asked about them: {error}")
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else "")
        found = f"{words}; the agent doesn't know {len(missing)} of them: {shown}"
        return Check("Pods", "warn", found, "check again in a moment; then see: journalctl -u nfagent")
    return Check("Pods", "ok", f"{words}; the agent knows {'all of them' if own else 'of none either'}")


def _obstacle(state: dict[str, Any], node: str) -> str:
    """Return why the agent's Pods can't be compared with the cluster's; '' where they can."""
    if state["node"] != node:
        return f"the running agent is for Node {state['node']}"
    following = state["agent"].get("apiserver")
    if following is None or following["synced"]:
        return ""
    troubles = dict.fromkeys(each["trouble"] for each in following["resources"].values() if each["trouble"])
    return f"the agent hasn't synced yet{': ' if troubles else ''}{'; '.join(troubles)}"


def _missing(pods: set[tuple[str, str]], settings: Settings) -> list[str]:
    """Return the Pods that the agent doesn't have; it is asked by namespace, since a cluster has many Pods."""
    known: set[tuple[str, str]] = set()
    for namespace in sorted({namespace for namespace, _ in pods}):
        # The agent refuses a namespace that it doesn't know: it has none of its Pods.
        with suppress(UsageError):
            found = _state(settings, namespace=namespace)["pods"]
            known |= {(pod["namespace"], pod["name"]) for pod in found if pod["local"]}
    return [f"{namespace}/{name}" for namespace, name in sorted(pods - known)]


def _state(settings: Settings, **query: str) -> dict[str, Any]:
    return get_json(settings.socket_path, _STATE, query)
