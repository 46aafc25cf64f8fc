"""Full-size Pod documents, as kube-apiserver 1.34 encodes the Pods of a Deployment: 3 to 5 KB of JSON each.

The parts of a running Pod `api-…` with two named ports (`sizes` counts them):

    managedFields        1.8 KB   one entry of kube-controller-manager, for the ReplicaSet's template, and one of
                                  kubelet, for the status: a path for every field that either of them wrote
    rest of the metadata 0.5 KB   names, uid, labels, an annotation, the owner
    spec                 1.4 KB   one container without environment and probes; the volume of the token and the two
                                  tolerations that admission adds; all defaults written out
    status               1.2 KB   five conditions, a container's state with image and container IDs, addresses

Pods of a Deployment differ in names, node and addresses only. So one document is encoded for each Deployment and stage,
and a Pod is its bytes with those values filled in.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import msgspec

from nfagent.lab.objects.synthetic import Deployment
from nfagent.model.objects import ContainerPort, Pod

Document: TypeAlias = dict[str, Any]

Stage: TypeAlias = Literal["pending", "scheduled", "creating", "running", "unready", "ending", "ended"]
"""Stages of a Pod; `unready`: its probe failed, a status change that no policy depends on."""

LIFE: tuple[Stage, ...] = ("pending", "scheduled", "creating", "running", "ending", "ended")
"""Stages in order; each is a watch event, followed by DELETED."""

_TIME = "2024-05-06T07:08:09Z"
_EARLY = {"pending", "scheduled", "creating"}


@lru_cache(maxsize=20_000)
def template(deployment: Deployment, stage: Stage) -> bytes:
    """Return a Deployment's Pod document with `%(name)b`, `%(uid)b`, `%(version)b`, `%(node)b`, … placeholders."""
    body = msgspec.json.encode(_pod(deployment, stage))
    return re.sub(rb"@(\w+)@", rb"%(\1)b", body.replace(b"%", b"%%"))


def written(pod: Pod, version: int, stage: Stage = "running") -> bytes:
    """Return a Pod's JSON."""
    deployment = Deployment(pod.namespace, pod.workload_name, pod.labels, pod.ports)
    name = pod.name.encode()
    return template(deployment, stage) % {
        b"name": name,
        b"uid": b"%08x-7c1d-4f0e-9a55-%012x" % (hash(name) & 0xFFFFFFFF, hash(pod.addresses[0]) & 0xFFFFFFFFFFFF),
        b"version": b"%d" % version,
        b"node": pod.node.encode(),
        b"four": pod.addresses[0].encode(),
        b"six": pod.addresses[1].encode(),
        b"digest": b"%016x" % (hash(name) & 0xFFFFFFFFFFFFFFFF) * 4,
    }


def sizes(pod: Pod) -> dict[str, int]:
    """Return the sizes of a Pod's parts in bytes."""
    document = msgspec.json.decode(written(pod, 1_234_567))
    metadata = document["metadata"]
    parts = {
        "managedFields": metadata.pop("managedFields"),
        "metadata": metadata,
        "spec": document["spec"],
        "status": document["status"],
    }
    return {name: len(msgspec.json.encode(part)) for name, part in parts.items()}


def _pod(deployment: Deployment, stage: Stage) -> Document:
    metadata = {
        "name": "@name@",
        "generateName": f"{deployment.name}-",
        "namespace": deployment.namespace,
        "uid": "@uid@",
        "resourceVersion": "@version@",
        "generation": 1,
        "creationTimestamp": _TIME,
        **({"deletionTimestamp": _TIME, "deletionGracePeriodSeconds": 30} if stage in {"ending", "ended"} else {}),
        "labels": dict(deployment.labels),
        "annotations": {"prometheus.io/scrape": "true"},
        "ownerReferences": [_owner(deployment)],
        "managedFields": _managed(deployment, stage),
    }
    node = {} if stage == "pending" else {"nodeName": "@node@"}
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": metadata,
        "spec": {**_spec(deployment), **node},
        "status": _status(deployment, stage),
    }


def _owner(deployment: Deployment) -> Document:
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": deployment.name,
        "uid": "5d0c1a52-6f5b-4a57-9d0f-6a2b9f3e7c11",
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _image(deployment: Deployment) -> str:
    return f"registry.example/{deployment.namespace}/{deployment.name}:v1.2.3"


def _port(port: ContainerPort) -> Document:
    return {"name": port.name, "containerPort": port.port, "protocol": port.protocol.upper()}


def _spec(deployment: Deployment) -> Document:
    mount = "/var/run/secrets/kubernetes.io/serviceaccount"
    container = {
        "name": "main",
        "image": _image(deployment),
        **({"ports": [_port(port) for port in deployment.ports]} if deployment.ports else {}),
        "resources": {"limits": {"memory": "256Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
        "volumeMounts": [{"name": "kube-api-access-x7k2p", "readOnly": True, "mountPath": mount}],
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "IfNotPresent",
    }
    sources = [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {
            "downwardAPI": {
                "items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]
            }
        },
    ]
    return {
        "volumes": [{"name": "kube-api-access-x7k2p", "projected": {"sources": sources, "defaultMode": 420}}],
        "containers": [container],
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "serviceAccountName": "default",
        "serviceAccount": "default",
        "securityContext": {},
        "schedulerName": "default-scheduler",
        "tolerations": [
            {
                "key": f"node.kubernetes.io/{trouble}",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": 300,
            }
            for trouble in ("not-ready", "unreachable")
        ],
        "priority": 0,
        "enableServiceLinks": True,
        "preemptionPolicy": "PreemptLowerPriority",
    }


def _status(deployment: Deployment, stage: Stage) -> Document:
    if stage == "pending":
        return {"phase": "Pending", "qosClass": "Burstable"}
    ready = {"running": "True", "ending": "True"}.get(stage, "False")
    standing = {"PodScheduled": "True", "Initialized": "True", "PodReadyToStartContainers": "True"}
    standing |= {"Ready": ready, "ContainersReady": ready}
    known = ["PodScheduled"] if stage == "scheduled" else list(standing)
    conditions = [
        {"type": name, "status": standing[name], "lastProbeTime": None, "lastTransitionTime": _TIME} for name in known
    ]
    phase = "Pending" if stage in _EARLY else "Succeeded" if stage == "ended" else "Running"
    status: Document = {"phase": phase, "conditions": conditions}
    if stage == "scheduled":
        return {**status, "qosClass": "Burstable"}
    host: Document = {"hostIP": "172.16.0.9", "hostIPs": [{"ip": "172.16.0.9"}, {"ip": "fd00:ffff::9"}]}
    if stage != "creating":
        host |= {"podIP": "@four@", "podIPs": [{"ip": "@four@"}, {"ip": "@six@"}]}
    return {
        **status,
        **host,
        "startTime": _TIME,
        "containerStatuses": [_container_status(deployment, stage)],
        "qosClass": "Burstable",
    }


def _container_status(deployment: Deployment, stage: Stage) -> Document:
    state: Document = {"running": {"startedAt": _TIME}}
    if stage == "creating":
        state = {"waiting": {"reason": "ContainerCreating"}}
    elif stage == "ended":
        state = {
            "terminated": {"exitCode": 0, "reason": "Completed", "startedAt": _TIME, "finishedAt": _TIME}
            | {"containerID": "containerd://@digest@"}
        }
    started = stage not in {"creating", "ended"}
    return {
        "name": "main",
        "state": state,
        "lastState": {},
        "ready": stage in {"running", "ending"},
        "restartCount": 0,
        "image": _image(deployment),
        "imageID": f"registry.example/{deployment.namespace}/main@sha256:" + "0f" * 32,
        "containerID": "containerd://@digest@",
        "started": started,
    }


def _managed(deployment: Deployment, stage: Stage) -> list[Document]:
    """Return managedFields as server-side apply keeps them: a key for every field."""
    entry = {"operation": "Update", "apiVersion": "v1", "time": _TIME, "fieldsType": "FieldsV1"}
    found = [{"manager": "kube-controller-manager", **entry, "fieldsV1": _owned_template(deployment)}]
    if stage == "pending":
        return found
    condition = _fields("lastProbeTime", "lastTransitionTime", "status", "type")
    conditions = {_key(type=name): {".": {}, **condition} for name in ("ContainersReady", "Initialized", "Ready")}
    addresses: Document = {_key(ip=place): {".": {}, "f:ip": {}} for place in ("@four@", "@six@")}
    status = {"f:conditions": conditions, **_fields("containerStatuses", "hostIP", "hostIPs", "phase", "podIP")}
    status |= {"f:podIPs": {".": {}, **addresses}, "f:startTime": {}}
    owned = {"f:status": {"f:conditions": {}} if stage == "scheduled" else status}
    return [*found, {"manager": "kubelet", **entry, "fieldsV1": owned, "subresource": "status"}]


def _owned_template(deployment: Deployment) -> Document:
    metadata = {
        "f:annotations": {".": {}, **_fields("prometheus.io/scrape")},
        "f:generateName": {},
        "f:labels": {".": {}, **_fields(*(key for key, _value in deployment.labels))},
        "f:ownerReferences": {".": {}, _key(uid=_owner(deployment)["uid"]): {}},
    }
    ports = {
        _key(containerPort=port.port, protocol=port.protocol.upper()): {
            ".": {},
            **_fields("containerPort", "name", "protocol"),
        }
        for port in deployment.ports
    }
    container = {
        ".": {},
        **_fields("image", "imagePullPolicy", "name", "terminationMessagePath", "terminationMessagePolicy"),
        **({"f:ports": {".": {}, **ports}} if ports else {}),
        "f:resources": {".": {}, "f:limits": {".": {}, "f:memory": {}}, "f:requests": {".": {}, "f:cpu": {}}},
    }
    spec = {"f:containers": {_key(name="main"): container}}
    spec |= _fields("dnsPolicy", "enableServiceLinks", "restartPolicy", "schedulerName", "securityContext")
    return {"f:metadata": metadata, "f:spec": spec | _fields("terminationGracePeriodSeconds")}


def _fields(*names: str) -> Document:
    return {f"f:{name}": {} for name in names}


def _key(**wanted: str | int) -> str:
    return "k:" + msgspec.json.encode(wanted).decode()
