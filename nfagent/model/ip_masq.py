"""The ip-masq-agent configuration: ConfigMap kube-system/ip-masq-agent, or the file that it is mounted as."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from nfagent.errors import ValidationIssue
from nfagent.model.netaddr import Range, parse_cidr, subtract
from nfagent.model.objects import ObjectRef

CONFIG_MAP = ObjectRef("ConfigMap", "kube-system", "ip-masq-agent")
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


LIST_KEY = "nonMasqueradeCIDRs"


INVERSE_KEY = "masqueradeCIDRs"
"""The inverse list, which ip-masq-agent lacks."""


SWITCH_KEYS = ("masqLinkLocal", "masqLinkLocalIPv6")


class IpMasqConfig(msgspec.Struct, frozen=True):
    """The configuration.

    cidrs:       destinations that keep the Pod's address; None if the key is omitted (the default list applies)
    link_local:  whether link-local destinations are translated, by family (IPv4, IPv6)
    problems:    problems of invalid keys; the other keys apply
    unread:      invalid keys, which keep their last good value; after that, those that have none
    translated:  the inverse list: every destination outside it keeps the Pod's address, and so do those in `cidrs`,
                 if that key is given; None if the key is omitted
    """

    cidrs: tuple[Range, ...] | None = None
    link_local: tuple[bool, bool] = (False, False)
    problems: tuple[ValidationIssue, ...] = ()
    unread: tuple[str, ...] = ()
    translated: tuple[Range, ...] | None = None

    @property
    def ref(self) -> ObjectRef:
        """The reference of the ConfigMap."""
        return CONFIG_MAP

    @property
    def has_list(self) -> bool:
        """Whether it has a list of its own, which replaces the default one."""
        return self.cidrs is not None or self.translated is not None

    @property
    def lacks_list(self) -> bool:
        """Whether one of its two lists can't be read and never could be."""
        return not {LIST_KEY, INVERSE_KEY}.isdisjoint(self.unread)

    def with_last_good(self, before: IpMasqConfig | None) -> IpMasqConfig:
        """Return the configuration with the unread keys of the version before, which may lack some of them too.

        Where one list can't be read and the other is omitted, both are of the version before: without the other one,
        the default list would hold.
        """
        if not self.unread or before is None:
            return self
        switches = zip(SWITCH_KEYS, self.link_local, before.link_local, strict=True)
        ipv4, ipv6 = (was if key in self.unread else now for key, now, was in switches)
        cidrs, translated = self.cidrs, self.translated
        if self.lacks_list:
            cidrs = before.cidrs if cidrs is None else cidrs
            translated = before.translated if translated is None else translated
        unread = tuple(key for key in self.unread if key in before.unread)
        return msgspec.structs.replace(self, cidrs=cidrs, link_local=(ipv4, ipv6), unread=unread, translated=translated)

    def listed(self, *, all_reserved_ranges: bool) -> tuple[Range, ...]:
        """Return the destinations outside the cluster that aren't masqueraded: its lists, or the default one."""
        if self.translated is not None:
            return (*(self.cidrs or ()), *_outside(self.translated))
        if self.cidrs is not None:
            return self.cidrs
        return DEFAULT_CIDRS + (RESERVED_CIDRS if all_reserved_ranges else ())

    @property
    def link_local_kept(self) -> tuple[Range, ...]:
        """The link-local destinations that aren't masqueraded."""
        return tuple(cidr for cidr, masked in zip(LINK_LOCAL, self.link_local, strict=True) if not masked)


_EVERYTHING = tuple(map(parse_cidr, ("0.0.0.0/0", "::/0")))


@lru_cache(maxsize=4)
def _outside(ranges: tuple[Range, ...]) -> tuple[Range, ...]:
    """Return all addresses of both families outside the ranges."""
    return tuple(piece for whole in _EVERYTHING for piece in subtract(whole, ranges))
