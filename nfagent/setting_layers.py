"""The layers that settings come from, and where each value is from: files, the environment, flags.

Drop-in files are `conf.d/*.toml` beside the settings file, in the order of their names; those of another user than root
and the one who reads them are refused.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec

from nfagent.errors import SettingError
from nfagent.model.printable import printable
from nfagent.system.regular_file import UnsuitableError, read_regular

DROP_INS = "conf.d"
_PREFIX = "NFAGENT_"
_NULL_DEVICE = os.makedev(1, 3)
_SERVICE_LINK = re.compile(r"NFAGENT_(\w+_)?SERVICE_(HOST|PORT(_\w+)?)", re.ASCII)
_PORT_LINK = re.compile(r"NFAGENT_(\w+_)?PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?", re.ASCII)
"""Variables that kubelet sets in containers for Services, here for one named nfagent or nfagent-…"""

_TEXTS = tuple[str, ...]


class Origin(msgspec.Struct, frozen=True):
    """Where the value of a setting comes from.

    where: the file, the variable or the flag; '' for a default
    """

    kind: Literal["default", "file", "conf.d", "environment", "flag"] = "default"
    where: str = ""

    def __str__(self) -> str:
        """Return it as text: `default`, `/etc/nfagent/nfagent.toml`, `NFAGENT_NODE`, `--node`."""
        return self.where or self.kind


class Layer(msgspec.Struct, frozen=True):
    """Settings of one source, as written, by key and section.

    name: of the source, for errors
    """

    name: str
    values: dict[str, Any]
    kind: Literal["file", "conf.d", "environment", "flag"]

    def origin(self, key: str) -> Origin:
        """Return the origin of a setting of this layer."""
        if self.kind == "environment":
            return Origin(self.kind, variable(key))
        if self.kind == "flag":
            return Origin(self.kind, f"--{key.replace('_', '-')}")
        return Origin(self.kind, self.name)


def variable(key: str) -> str:
    """Return the name of the variable of a setting: `NFAGENT_LOGGING_GROUP` for `logging.group`."""
    return f"{_PREFIX}{key.replace('.', '_')}".upper()


@cache
def fields(kind: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """Return the fields of a struct. msgspec evaluates their annotations anew at each call, which is most of a load."""
    return msgspec.structs.fields(kind)


def setting_keys(kind: type[msgspec.Struct]) -> Iterator[tuple[str, object]]:
    """Yield the key and the type of every setting of a struct with sections: `node`, `logging.group`."""
    for field in fields(kind):
        section = _section(field)
        if section is None:
            yield field.name, field.type
        else:
            yield from ((f"{field.name}.{inner.name}", inner.type) for inner in fields(section))


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by section as settings by key: `logging.group`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{inner}": item for inner, item in value.items()}
        else:
            found[key] = value
    return found


def file_layers(file: Path | None, default: Path) -> list[Layer]:
    """Return the settings file, the default one unless another is named, and its drop-in files. Raises SettingError."""
    path = file or default
    layers = [Layer(str(path), _from_file(path, required=file is not None), "file")]
    return [*layers, *(Layer(str(each), _from_file(each, required=True), "conf.d") for each in drop_ins(path))]


def drop_ins(file: Path) -> list[Path]:
    """Return the drop-in files of a settings file, in the order in which they override. Raises SettingError."""
    folder = file.parent / DROP_INS
    try:
        # As in shells, not what begins with a dot: a ConfigMap's volume has folders of its own.
        found = sorted(path for path in folder.iterdir() if path.suffix == ".toml" and not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise SettingError(f"{error.filename or folder}: {error.strerror}") from None
    try:
        # Also of a link that leads nowhere: one that was left out in silence would take its settings along.
        owners = {path: path.stat().st_uid for path in (folder, *found)} if found else {}
    except OSError as error:
        raise SettingError(f"{error.filename or folder}: {error.strerror}") from None
    for path, owner in owners.items():
        if owner not in {0, os.geteuid()}:
            raise SettingError(f"{path}: belongs to user {owner}: run chown root, or remove it")
    return found


def environment_layer(environment: Mapping[str, str], kind: type[msgspec.Struct]) -> Layer:
    """Return the settings that variables name. An empty variable sets nothing, except a list, which it empties."""
    found: dict[str, Any] = {}
    for key, wanted in setting_keys(kind):
        text = environment.get(variable(key))
        if text is None or not (text or wanted == _TEXTS):
            continue
        section, _, name = key.rpartition(".")
        into = found.setdefault(section, {}) if section else found
        into[name] = _from_text(wanted, text)
    return Layer("environment", found, "environment")


def unknown_variables(environment: Mapping[str, str], kind: type[msgspec.Struct]) -> list[str]:
    """Return what is said of each variable NFAGENT_* that is no setting: its name, and one that is like it."""
    known = {variable(key) for key, _ in setting_keys(kind)}
    return [
        _unknown(name, known)
        for name, value in sorted(environment.items())
        if name.startswith(_PREFIX) and name not in known and not _is_service_link(name, value)
    ]


def require_text(layer: Layer) -> None:
    """Raise SettingError for a value that isn't text, as variables and flags may be: it could be written nowhere."""
    for key, value in flat(layer.values).items():
        for text in value if isinstance(value, tuple | list) else (value,):
            try:
                str(text).encode()
            except UnicodeEncodeError:
                raise SettingError(f"{layer.origin(key)}: '{printable(str(text))}' isn't UTF-8 text") from None


def merged(layers: Iterable[Layer]) -> tuple[dict[str, Any], dict[str, Origin]]:
    """Return the settings of all layers, of which later ones override, and the origin of each by key."""
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for layer in layers:
        for key, value in layer.values.items():
            if isinstance(value, dict) and isinstance(values.get(key), dict):
                values[key] = values[key] | value
            else:
                values[key] = value
        origins |= {key: layer.origin(key) for key in flat(layer.values)}
    return values, origins


def _section(field: msgspec.structs.FieldInfo) -> type[msgspec.Struct] | None:
    return field.type if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct) else None


def _from_file(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        # The empty device stands for no settings: as --config, and as a link where systemd and others mask a file.
        return {} if path.stat().st_rdev == _NULL_DEVICE else tomllib.loads(read_regular(path).decode())
    except FileNotFoundError:
        if not required:
            return {}
        raise SettingError(f"{path}: there is no such file; give the right one with --config") from None
    except UnsuitableError as error:
        raise SettingError(f"{path}: {error.strerror}") from None
    except OSError as error:
        raise SettingError(f"{path}: {error.strerror}; give another with --config") from None
    except (ValueError, RecursionError) as error:
        raise SettingError(f"{path}: is not TOML: {error}") from None


def _from_text(wanted: object, text: str) -> object:
    return [part.strip() for part in text.split(",") if part.strip()] if wanted == _TEXTS else text


def _is_service_link(name: str, value: str) -> bool:
    if _SERVICE_LINK.fullmatch(name) is not None:
        return True
    return _PORT_LINK.fullmatch(name) is not None and (name.count("_PORT_") > 0 or "://" in value)


def _unknown(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name.removeprefix(_PREFIX), [each.removeprefix(_PREFIX) for each in known], 1)
    meant = f"did you mean {_PREFIX}{near[0]}?" if near else "nfagent.toml(5) has all settings"
    return f"{name} in the environment is no setting, and has no effect; {meant}"
