"""Writes the chart's values.schema.json: the settings are those of nfagent.config, the rest is in this file.

python -m tests.support.chart_schema        # after a change of the settings
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from nfagent.config import LIMITS, LOG_LEVELS, SINKS, Settings
from tests.support.deployed_objects import CHART

SCHEMA = CHART / "values.schema.json"

_TEXT = {"type": "string"}
_FLAG = {"type": "boolean"}
_MAP = {"type": "object"}
_LIST = {"type": "array", "items": {"type": "object"}}
_NUMBER_OF_PORT = r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_BYTE = r"(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])"
_LISTEN = {"type": "string", "pattern": rf"^({_BYTE}([.]{_BYTE}){{3}}|\[[0-9a-fA-F:.]+\]):{_NUMBER_OF_PORT}$"}
_LOOPBACK = {"type": "string", "pattern": rf"^((127([.]{_BYTE}){{3}}|\[::1\]):{_NUMBER_OF_PORT})?$"}
_FOLDERS = ("RUNTIME_DIR", "LOG_DIR", "STATE_DIR")
_QUANTITIES = {"type": "object", "additionalProperties": {"type": ["string", "number"]}}


def _texts(*reserved: str) -> dict[str, object]:
    """Return the schema of a map of texts, without the keys that the chart sets itself."""
    return {"type": "object", "properties": dict.fromkeys(reserved, False), "additionalProperties": _TEXT}


def _variables(*reserved: str) -> dict[str, object]:
    """Return the schema of a container's variables, without those that the chart sets itself: the last one counts."""
    name = {"type": "string", "minLength": 1, "not": {"enum": reserved}}
    return {"type": "array", "items": {"type": "object", "properties": {"name": name}, "required": ["name"]}}


def _section(**properties: object) -> dict[str, object]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def schema() -> dict[str, Any]:
    """Return the schema of the chart's values."""
    settings = msgspec.json.schema(Settings)
    for definition in settings["$defs"].values():
        # Defaults are documented in systemd/nfagent.toml, and an empty list of what is required isn't valid everywhere.
        definition.pop("required", None)
        for member in definition["properties"].values():
            member.pop("default", None)
    definitions = settings["$defs"]
    definitions["MetricsSection"] |= {"required": ["listen"]}
    definitions["MetricsSection"]["properties"]["listen"] = _LISTEN
    definitions["UiSection"]["properties"]["listen"] = _LOOPBACK
    definitions["Settings"] |= {"required": ["metrics"]}
    top = definitions["Settings"]["properties"]
    top["log_level"] = {"enum": LOG_LEVELS}
    # The lock is there, and the folder is mounted; the others' mounts follow the settings.
    top["runtime_dir"] = {"const": "/run/nfagent"}
    top["log_dir"] = top["state_dir"] = {"type": "string", "pattern": "^/[^/]"}
    definitions["LoggingSection"]["properties"]["sinks"]["items"] = {"enum": SINKS}
    for key, (least, most) in LIMITS.items():
        section, _, name = key.partition(".")
        definition = top[section]["$ref"].rpartition("/")[2]
        definitions[definition]["properties"][name] |= {"minimum": least, "maximum": most}
    values = _section(
        image=_section(
            repository={"type": "string", "minLength": 1},
            tag=_TEXT,
            digest={"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
            pullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
        ),
        imagePullSecrets=_LIST,
        settings={"$ref": "#/$defs/Settings"},
        extraEnv=_variables("NFAGENT_NODE", *(f"NFAGENT_{key}" for key in ("METRICS_LISTEN", *_FOLDERS))),
        extraVolumes=_LIST,
        extraVolumeMounts=_LIST,
        apiServer=_section(host=_TEXT, port={"type": "integer", "minimum": 1, "maximum": 65535}),
        rbac=_section(create=_FLAG),
        namespace=_section(create=_FLAG),
        capabilities={"type": "array", "items": {"enum": ["NET_ADMIN", "NET_RAW"]}, "contains": {"const": "NET_ADMIN"}},
        resources=_section(requests=_QUANTITIES, limits=_QUANTITIES),
        priorityClassName=_TEXT,
        tolerations=_LIST,
        nodeSelector=_MAP,
        affinity=_MAP,
        maxUnavailable={
            "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^([1-9][0-9]?|100)%$"}]
        },
        terminationGracePeriodSeconds={"type": "integer", "minimum": 1},
        podAnnotations=_texts("kubectl.kubernetes.io/default-container", "checksum/settings"),
        podLabels=_texts("app.kubernetes.io/name"),
        metrics=_section(
            service=_section(enabled=_FLAG),
            serviceMonitor=_section(enabled=_FLAG, interval=_TEXT, labels=_texts("app.kubernetes.io/name")),
        ),
        # Of Helm itself, for charts that have this one as a part.
        **{"global": _MAP},
    )
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **values, "$defs": settings["$defs"]}


def text() -> str:
    """Return the file's content."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(text(), encoding="utf-8")
