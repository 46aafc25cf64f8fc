"""The ip-masq-agent configuration: ConfigMap kube-system/ip-masq-agent, key `config`, YAML or JSON."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import yaml

from nfagent.cluster.address import Range, parse_cidr
from nfagent.cluster.decode import document_field, namespaced_name
from nfagent.cluster.fields import Field
from nfagent.cluster.model import Ref

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
_CIDR_LIMIT = 64
_GO_DURATION = re.compile(r"(\d+(\.\d*)?(ns|us|µs|ms|s|m|h))+\Z|0\Z")


class IpMasqConfig(msgspec.Struct, frozen=True):
    """What the configuration says.

    cidrs:       destinations that keep the Pod's address; None where the key is omitted (the default list holds)
    link_local:  whether link-local destinations are translated, by family (IPv4, IPv6)
    """

    cidrs: tuple[Range, ...] | None = None
    link_local: tuple[bool, bool] = (False, False)

    @property
    def ref(self) -> Ref:
        """Name the ConfigMap."""
        return CONFIG_MAP

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
    """Read the ConfigMap; None for any other ConfigMap. Raises ObjectError."""
    top = document_field(document)
    if namespaced_name(top) != (CONFIG_MAP.namespace, CONFIG_MAP.name):
        return None
    text = top / "data" / "config"
    try:
        content = yaml.safe_load(text.string())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at its line {mark.line + 1}" if mark else ""
        raise Field(top.owner, text.path, None).error(f"is neither YAML nor JSON{where}") from None
    except (ValueError, RecursionError, LookupError, AttributeError) as error:  # what PyYAML makes of `!!bool x`
        # PyYAML lets through what int() and date() refuse, as in 2001-99-99, and gives up on deep nesting.
        raise Field(top.owner, text.path, None).error(f"has a value that can't be read: {error}") from None
    return _decode_config(Field(top.owner, text.path, content))


def _decode_config(config: Field) -> IpMasqConfig:
    interval = config / "resyncInterval"
    if not interval.missing and not _GO_DURATION.match(interval.string()):
        raise interval.error("is not a duration; write one like 60s or 1m30s")
    limit = config / "cidrLimit"
    most = _CIDR_LIMIT if limit.missing else limit.integer()
    # The reference tells an omitted key (default list) from null and [] (translate everything).
    omitted = "nonMasqueradeCIDRs" not in config.mapping()
    listed = config / "nonMasqueradeCIDRs"
    cidrs = tuple(entry.cidr(strict=True) for entry in listed.items())
    if len(cidrs) > most:
        raise listed.error(f"has {len(cidrs)} CIDRs, more than cidrLimit {most}; merge some, or raise cidrLimit")
    return IpMasqConfig(
        cidrs=None if omitted else cidrs,
        link_local=((config / "masqLinkLocal").boolean(), (config / "masqLinkLocalIPv6").boolean()),
    )
