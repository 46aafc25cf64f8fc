"""Reads fields of a Kubernetes document, with errors that name object, field and value.

A `DocumentField` is a value in a document, and its path. Absent and null are the same, as in the API server. Every
error is an ObjectError, for any document.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from nfagent.errors import ObjectError, ValidationIssue
from nfagent.model.netaddr import AddressError, Range, canonical, parse_cidr
from nfagent.model.objects import Labels, Protocol

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
DNS_LABEL = re.compile(rf"{_LABEL}\Z")
DNS_SUBDOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*\Z")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?\Z")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*\Z")
_PROTOCOLS: dict[str, Protocol] = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}
LABEL_MAX = 63
SUBDOMAIN_MAX = 253
_PORT_NAME_MAX = 15
_PORT_MAX = 65535
_LONGEST_DECIMAL = 128
"""Maximum bits of a number that a message has in decimal."""


class DocumentField:
    """A field of a document: the object, the path, the value."""

    __slots__ = ("owner", "path", "value")

    def __init__(self, owner: str, path: str, value: Any) -> None:
        """Create the field at `path` ('': the whole document); messages name the object as `owner`."""
        self.owner = owner
        self.path = path
        self.value = value

    def __truediv__(self, key: str) -> DocumentField:
        """Return the field of a key in this mapping; a missing one is null. `spec / "podSelector"`."""
        value = self.mapping().get(key)
        return DocumentField(self.owner, f"{self.path}.{key}" if self.path else key, value)

    @property
    def missing(self) -> bool:
        """Return whether the field is absent or null."""
        return self.value is None

    def error(self, reason: str) -> ObjectError:
        """Return an error about this field, with its value."""
        shown = "" if self.value is None or isinstance(self.value, dict | list) else _written(self.value)
        return ObjectError(ValidationIssue(object=self.owner, field=self.path, value=shown, reason=reason))

    def mapping(self) -> dict[str, Any]:
        """Read a mapping; empty when missing."""
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            raise self.error("is not a mapping; write `key: value` pairs")
        return self.value

    def items(self) -> Iterator[DocumentField]:
        """Read a list's entries in order; none when missing."""
        if self.value is None:
            return
        if not isinstance(self.value, list):
            raise self.error("is not a list; write `- ` before each entry")
        for index, entry in enumerate(self.value):
            yield DocumentField(self.owner, f"{self.path}[{index}]", entry)

    def string(self, default: str = "") -> str:
        """Read a string."""
        if self.value is None:
            return default
        if not isinstance(self.value, str):
            raise self.error("is not a string; put it in quotes")
        return self.value

    def boolean(self, *, default: bool = False) -> bool:
        """Read a boolean."""
        if self.value is None:
            return default
        if not isinstance(self.value, bool):
            raise self.error("is not a boolean; write true or false, without quotes")
        return self.value

    def integer(self) -> int:
        """Read an integer; the field is required."""
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            raise self.error("is not a whole number; write it without quotes")
        return self.value

    def port_number(self) -> int:
        """Read a port number, 1 to 65535."""
        port = self.integer()
        if not 1 <= port <= _PORT_MAX:
            raise self.error("is not a port number; write 1 to 65535")
        return port

    def port_name(self) -> str:
        """Read a port's name (RFC 6335: lower case, digits and inner hyphens, a letter, 15 characters)."""
        name = self.string()
        if len(name) > _PORT_NAME_MAX or not _PORT_NAME.match(name):
            raise self.error("is not a port name; write a number without quotes, or at most 15 of a-z, 0-9 and '-'")
        return name

    def protocol(self) -> Protocol:
        """Read a transport protocol; TCP when missing (docs/semantics.md, edge case 10)."""
        name = self.string("TCP")
        if name not in _PROTOCOLS:
            raise self.error("is not a protocol; write TCP, UDP or SCTP")
        return _PROTOCOLS[name]

    def cidr(self, *, strict: bool = False) -> Range:
        """Read a CIDR; host bits are an error if `strict`."""
        try:
            return parse_cidr(self.string(), strict=strict)
        except AddressError as error:
            raise self.error(str(error)) from None

    def address(self) -> str:
        """Read an address in canonical form."""
        try:
            return canonical(self.string())
        except AddressError as error:
            raise self.error(str(error)) from None

    def dns_label(self) -> str:
        """Read a DNS label (RFC 1123), as a Namespace's name is."""
        name = self.string()
        if len(name) > LABEL_MAX or not DNS_LABEL.match(name):
            raise self.error("is not a valid name; write at most 63 of a-z, 0-9 and inner '-'")
        return name

    def dns_subdomain(self) -> str:
        """Read a DNS subdomain (RFC 1123), as most objects' names are."""
        name = self.string()
        if len(name) > SUBDOMAIN_MAX or not DNS_SUBDOMAIN.match(name):
            raise self.error("is not a valid name; write at most 253 of a-z, 0-9, '-' and '.'")
        return name

    def label_key(self) -> str:
        """Read a label's key: an optional DNS subdomain and '/', then a name of at most 63 characters."""
        key = self.string()
        prefix, slash, name = key.rpartition("/")
        valid = 0 < len(name) <= LABEL_MAX and _QUALIFIED.match(name)
        if slash:
            valid = valid and len(prefix) <= SUBDOMAIN_MAX and DNS_SUBDOMAIN.match(prefix)
        if not valid:
            raise self.error("is not a label key; write one like app or example.com/tier")
        return key

    def label_value(self) -> str:
        """Read a label's value: empty, or at most 63 of letters, digits and inner '-', '_', '.'."""
        value = self.string()
        if isinstance(self.value, str) and value and (len(value) > LABEL_MAX or not _QUALIFIED.match(value)):
            raise self.error("is not a label value; write at most 63 letters, digits, and inner '-', '_' or '.'")
        return value

    def labels(self) -> Labels:
        """Read a label map, sorted by key."""
        pairs = []
        for key, value in self.mapping().items():
            at = f"{self.path}.{key}"
            pairs.append(
                (DocumentField(self.owner, at, key).label_key(), DocumentField(self.owner, at, value).label_value())
            )
        return tuple(sorted(pairs))


def _written(value: object) -> str:
    # Python refuses to convert a number of more than 4300 decimal digits, which YAML allows.
    return hex(value) if isinstance(value, int) and value.bit_length() > _LONGEST_DECIMAL else str(value)
