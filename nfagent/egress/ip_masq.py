"""The ip-masq-agent configuration: ConfigMap kube-system/ip-masq-agent, key `config`, YAML or JSON."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

import msgspec

from nfagent.cluster.address import Range, parse_cidr
from nfagent.cluster.decode import document_field, namespaced_name
from nfagent.cluster.field_errors import FieldErrors
from nfagent.cluster.fields import Field
from nfagent.cluster.model import Ref
from nfagent.cluster.yaml_values import YamlError, yaml_documents
from nfagent.errors import ObjectError, Problem

CONFIG_MAP = Ref("ConfigMap", "kube-system", "ip-masq-agent")
"""The one ConfigMap that is read."""

DEFAULT_CIDRS = tuple(map(parse_cidr, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
RESERVED_CIDRS = tuple(
    map(
        parse_cidr,
        (
            "100.64.0.0/10",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "240.0.0.0/4",
        ),
    )
)
"""Added to the default list by the setting masquerade.all_reserved_ranges (--nomasq-all-reserved-ranges)."""

LINK_LOCAL = (parse_cidr("169.254.0.0/16"), parse_cidr("fe80::/10"))
_LIST = "nonMasqueradeCIDRs"
_LIMIT = "cidrLimit"
_INTERVAL = "resyncInterval"
_SWITCHES = ("masqLinkLocal", "masqLinkLocalIPv6")
_KEYS = (_LIST, _LIMIT, *_SWITCHES, _INTERVAL)
_CIDR_LIMIT = 64
_CLOSE = 0.8
"""How alike a key is to the one that it was to be, from 0 to 1."""
_MOST_UNKNOWN = 16
"""Unknown keys beyond which nobody compares them with the known ones: each of these may be misspelt."""

LONGEST = 64 * 1024
"""Characters of the configuration. It is read on the event loop; with 64 CIDRs, the reference's limit, it has 2,000."""

MOST_VALUES = 1_000
"""Values in it: a key, a CIDR, a list are one each."""

_GO_DURATION = re.compile(r"(\d+(\.\d*)?(ns|us|µs|ms|s|m|h))+\Z|0\Z")


class IpMasqConfig(msgspec.Struct, frozen=True):
    """What the configuration says.

    cidrs:       destinations that keep the Pod's address; None where the key is omitted (the default list holds)
    link_local:  whether link-local destinations are translated, by family (IPv4, IPv6)
    problems:    what is wrong with it, for people; the rest of it holds
    unread:      keys that can't be read, and stay as the last good version has them
    """

    cidrs: tuple[Range, ...] | None = None
    link_local: tuple[bool, bool] = (False, False)
    problems: tuple[Problem, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def ref(self) -> Ref:
        """Name the ConfigMap."""
        return CONFIG_MAP

    def with_last_good(self, before: IpMasqConfig | None) -> IpMasqConfig:
        """Return the configuration with its unread keys as the version before has them."""
        if not self.unread or before is None:
            return self
        switches = zip(_SWITCHES, self.link_local, before.link_local, strict=True)
        ipv4, ipv6 = (was if key in self.unread else now for key, now, was in switches)
        cidrs = before.cidrs if _LIST in self.unread else self.cidrs
        return msgspec.structs.replace(self, cidrs=cidrs, link_local=(ipv4, ipv6))

    def listed(self, *, all_reserved_ranges: bool) -> tuple[Range, ...]:
        """Give the destinations outside the cluster that are not translated by its list, or by the default one."""
        if self.cidrs is not None:
            return self.cidrs
        return DEFAULT_CIDRS + (RESERVED_CIDRS if all_reserved_ranges else ())

    @property
    def link_local_kept(self) -> tuple[Range, ...]:
        """Give the link-local destinations that are not translated."""
        return tuple(cidr for cidr, masked in zip(LINK_LOCAL, self.link_local, strict=True) if not masked)


def decode_ip_masq(document: dict[str, Any]) -> IpMasqConfig | None:
    """Read the ConfigMap; None for any other ConfigMap. Raises ObjectError where its text is no mapping."""
    top = document_field(document)
    if namespaced_name(top) != (CONFIG_MAP.namespace, CONFIG_MAP.name):
        return None
    text = top / "data" / "config"
    content = _content(text)
    config = Field(top.owner, text.path, content)
    errors = FieldErrors(config)
    data = top / "data"
    if text.missing and ({**data.mapping(), **(top / "binaryData").mapping()}).keys() - {"config"}:
        wrong = data.error("has no key config, which alone is read; write the configuration there")
        for key in (_LIST, *_SWITCHES):
            errors.note(wrong, keep=key)
    return _decode_config(config, errors)


def _content(text: Field) -> Any:  # noqa: ANN401 - whatever the text holds
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


def _refused(text: Field, reason: str) -> ObjectError:
    """Say what is wrong with the text, which would be too long to be shown."""
    return Field(text.owner, text.path, None).error(reason)


def _decode_config(config: Field, errors: FieldErrors) -> IpMasqConfig:
    spelt = _spellings(config, errors)
    errors.read(spelt.get(_INTERVAL, _INTERVAL), _interval, None)
    most = errors.read(spelt.get(_LIMIT, _LIMIT), _limit, _CIDR_LIMIT)
    for key in (_LIST, *_SWITCHES):
        if key not in spelt and _misspelt(key, config):
            errors.keep(key)
    # The reference tells an omitted key (default list) from null and [] (translate everything).
    cidrs = None if _LIST not in spelt else errors.read(spelt[_LIST], lambda field: _cidrs(field, most), None, _LIST)
    ipv4, ipv6 = (errors.read(spelt.get(key, key), Field.boolean, instead=False, keep=key) for key in _SWITCHES)
    return IpMasqConfig(cidrs, (ipv4, ipv6), errors.problems, errors.unread)


def _spellings(config: Field, errors: FieldErrors) -> dict[str, str]:
    """Return the keys that are there, each as it is spelt: the reference reads them in any letter case.

    Keys that aren't known, and a second spelling of one, are noted.
    """
    given = config.mapping()
    found = {key: key for key in _KEYS if key in given}
    for key in given:
        known = next((name for name in _KEYS if name.casefold() == key.casefold()), None)
        if known is None:
            errors.note((config / key).error(f"is not read; the keys are {', '.join(_KEYS)}"))
        elif found.setdefault(known, key) != key:
            errors.note((config / key).error(f"is {found[known]} in other letters, which holds; delete one of the two"))
    return found


def _misspelt(known: str, config: Field) -> bool:
    """Tell whether a key that isn't known was to be this one: then what it said before stays."""
    given = [key.casefold() for key in config.mapping()]
    unknown = [key for key in given if key not in {name.casefold() for name in _KEYS}]
    return len(unknown) > _MOST_UNKNOWN or bool(get_close_matches(known.casefold(), unknown, n=1, cutoff=_CLOSE))


def _interval(field: Field) -> None:
    if not field.missing and not _GO_DURATION.match(field.string()):
        raise field.error("is not a duration; write one like 60s or 1m30s")


def _limit(field: Field) -> int:
    return _CIDR_LIMIT if field.missing else field.integer()


def _cidrs(field: Field, most: int) -> tuple[Range, ...]:
    cidrs = tuple(entry.cidr(strict=True) for entry in field.items())
    if len(cidrs) > most:
        number = "1 CIDR" if len(cidrs) == 1 else f"{len(cidrs)} CIDRs"
        raise field.error(f"has {number}, more than cidrLimit {most}; merge some, or raise cidrLimit")
    return cidrs
