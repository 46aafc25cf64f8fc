"""Writes the chart's values.schema.json: the settings are those of nfagent.config, the rest is in this file.

python -m tests.support.chart_schema        # after a change of the settings
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from nfagent.config import Settings
from tests.support.deployed_objects import CHART

SCHEMA = CHART / "values.schema.json"

_TEXT = {"type": "string"}
_FLAG = {"type": "boolean"}
_MAP = {"type": "object"}
_LIST = {"type": "array", "items": {"type": "object"}}
_QUANTITIES = {"type": "object", "additionalProperties": {"type": ["string", "number"]}}


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
    listen = {"type": "string", "pattern": r"^([0-9.]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}$"}
    settings["$defs"]["MetricsSection"] |= {"required": ["listen"]}
    settings["$defs"]["MetricsSection"]["properties"]["listen"] = listen
    settings["$defs"]["Settings"] |= {"required": ["metrics"]}
    values = _section(
        image=_section(
            repository={"type": "string", "minLength": 1},
            tag=_TEXT,
            digest={"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
            pullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
        ),
        imagePullSecrets=_LIST,
        settings={"$ref": "#/$defs/Settings"},
        extraEnv=_LIST,
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
        maxUnavailable={"type": ["integer", "string"]},
        terminationGracePeriodSeconds={"type": "integer", "minimum": 1},
        podAnnotations=_MAP,
        podLabels=_MAP,
        metrics=_section(
            service=_section(enabled=_FLAG),
            serviceMonitor=_section(enabled=_FLAG, interval=_TEXT, labels=_MAP),
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
