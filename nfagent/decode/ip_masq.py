"""Decodes the ip-masq-agent configuration, YAML or JSON: `config` of ConfigMap kube-system/ip-masq-agent, a file."""

from __future__ import annotations

import re
from collections.abc import Container
from difflib import get_close_matches
from typing import Any

from nfagent.decode.core import document_field, namespaced_name
from nfagent.decode.field_errors import FieldErrors
from nfagent.decode.fields import DocumentField
from nfagent.decode.yaml_values import YamlError, yaml_documents
from nfagent.errors import ObjectError
from nfagent.model.ip_masq import CONFIG_MAP, INVERSE_KEY, LIST_KEY, SWITCH_KEYS, IpMasqConfig
from nfagent.model.netaddr import Range

_LIMIT = "cidrLimit"
_INTERVAL = "resyncInterval"
_KEPT_KEYS = (LIST_KEY, INVERSE_KEY, *SWITCH_KEYS)
"""Keys that keep their last good value."""
_KEYS = (LIST_KEY, INVERSE_KEY, _LIMIT, *SWITCH_KEYS, _INTERVAL)
_CIDR_LIMIT = 64
_CLOSE = 0.8
"""Minimum similarity of a misspelt key to a known one, from 0 to 1."""
_MOST_UNKNOWN = 16
"""With more unknown keys than this, they aren't compared with the known ones: any known key may be misspelt."""

LONGEST = 64 * 1024
"""Maximum characters of the configuration, which is parsed on the event loop. With 1,000 CIDRs it
has 20,000 to 40,000."""

MOST_VALUES = 1_100
"""Maximum number of values in it: a key, a CIDR and a list count one each."""

_GO_DURATION = re.compile(r"(\d+(\.\d*)?(ns|us|µs|ms|s|m|h))+\Z|0\Z")


def decode_ip_masq(document: dict[str, Any]) -> IpMasqConfig | None:
    """Read the ConfigMap; None for any other ConfigMap. Raises ObjectError if its text isn't a mapping."""
    top = document_field(document)
    if namespaced_name(top) != (CONFIG_MAP.namespace, CONFIG_MAP.name):
        return None
    text = top / "data" / "config"
    content = _content(text)
    config = DocumentField(top.owner, text.path, content)
    errors = FieldErrors(config)
    data = top / "data"
    if text.missing and ({**data.mapping(), **(top / "binaryData").mapping()}).keys() - {"config"}:
        wrong = data.error("has no key config, the only one that is read; write the configuration there")
        for key in _KEPT_KEYS:
            errors.add(wrong, keep=key)
    return _decode_config(config, errors)


def decode_ip_masq_text(owner: str, text: str) -> IpMasqConfig:
    """Read the configuration of a file; messages name it as `owner`. Raises ObjectError if it isn't a mapping."""
    config = DocumentField(owner, "", _content(DocumentField(owner, "", text)))
    return _decode_config(config, FieldErrors(config))


def _content(text: DocumentField) -> Any:  # noqa: ANN401 - any YAML value
    """Parse the configuration. Raises ObjectError."""
    given = text.string()
    if len(given) > LONGEST:
        raise _refused(text, f"has more than {LONGEST >> 10} KiB; give the list of CIDRs alone, and merge some")
    content: Any = None
    try:
        for count, (line, value) in enumerate(yaml_documents(given, MOST_VALUES)):
            if count:
                raise _refused(text, f"has a second document at its line {line}; give one")
            content = value
    except YamlError as error:
        where = "" if error.line is None else f" at its line {error.line}"
        raise _refused(text, f"is neither YAML nor JSON{where}: {error}") from None
    return content


def _refused(text: DocumentField, reason: str) -> ObjectError:
    """Return an error about the text without its value, which may be long."""
    return DocumentField(text.owner, text.path, None).error(reason)


def _decode_config(config: DocumentField, errors: FieldErrors) -> IpMasqConfig:
    spelt = _spellings(config, errors)
    errors.read(spelt.get(_INTERVAL, _INTERVAL), _interval, None)
    most = errors.read(spelt.get(_LIMIT, _LIMIT), _limit, _CIDR_LIMIT)
    for key in _KEPT_KEYS:
        if key not in spelt and _misspelt(key, config):
            errors.keep(key)
    # As in ip-masq-agent, an omitted key means the default list, null and [] mean no exceptions.
    cidrs = (
        None
        if LIST_KEY not in spelt
        else errors.read(spelt[LIST_KEY], lambda field: _cidrs(field, most), None, LIST_KEY)
    )
    translated = errors.read(
        spelt.get(INVERSE_KEY, INVERSE_KEY), lambda field: _inverse(field, most, spelt), None, INVERSE_KEY
    )
    ipv4, ipv6 = (
        errors.read(spelt.get(key, key), DocumentField.boolean, instead=False, keep=key) for key in SWITCH_KEYS
    )
    return IpMasqConfig(cidrs, (ipv4, ipv6), errors.problems, errors.unread, translated)


def _spellings(config: DocumentField, errors: FieldErrors) -> dict[str, str]:
    """Return known key -> key as written: ip-masq-agent ignores letter case.

    Adds errors for unknown keys, and for a second spelling of a key.
    """
    given = config.mapping()
    found = {key: key for key in _KEYS if key in given}
    for key in given:
        known = next((name for name in _KEYS if name.casefold() == key.casefold()), None)
        if known is None:
            errors.add((config / key).error(f"is not read; the keys are {', '.join(_KEYS)}"))
        elif found.setdefault(known, key) != key:
            errors.add(
                (config / key).error(f"is {found[known]} in other letter case, which is used; delete one of the two")
            )
    return found


def _misspelt(known: str, config: DocumentField) -> bool:
    """Return whether an unknown key may be a misspelling of `known`, whose last good value then stays."""
    given = [key.casefold() for key in config.mapping()]
    unknown = [key for key in given if key not in {name.casefold() for name in _KEYS}]
    return len(unknown) > _MOST_UNKNOWN or bool(get_close_matches(known.casefold(), unknown, n=1, cutoff=_CLOSE))


def _interval(field: DocumentField) -> None:
    if not field.missing and not _GO_DURATION.match(field.string()):
        raise field.error("is not a duration; write one like 60s or 1m30s")


def _limit(field: DocumentField) -> int:
    return _CIDR_LIMIT if field.missing else field.integer()


def _inverse(field: DocumentField, most: int, spelt: Container[str]) -> tuple[Range, ...] | None:
    # A null nonMasqueradeCIDRs hides Pods' addresses everywhere. A null inverse list would show them everywhere.
    if field.missing and INVERSE_KEY in spelt:
        raise field.error("is null; write [] to masquerade nothing, or leave the key out")
    return None if field.missing else _cidrs(field, most)


def _cidrs(field: DocumentField, most: int) -> tuple[Range, ...]:
    cidrs = tuple(entry.cidr(strict=True) for entry in field.items())
    if len(cidrs) > most:
        number = "1 CIDR" if len(cidrs) == 1 else f"{len(cidrs)} CIDRs"
        raise field.error(f"has {number}, more than cidrLimit {most}; merge some, or raise cidrLimit")
    return cidrs
