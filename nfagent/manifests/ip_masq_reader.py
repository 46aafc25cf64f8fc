"""Reads the ip-masq-agent configuration from its file: what a mounted ConfigMap has under the key `config`."""

from __future__ import annotations

from pathlib import Path

from nfagent.decode.ip_masq import decode_ip_masq_text
from nfagent.errors import ObjectError, ValidationIssue
from nfagent.model.ip_masq import IpMasqConfig
from nfagent.system.regular_file import read_regular


def read_ip_masq_file(path: str) -> tuple[IpMasqConfig | None, tuple[ValidationIssue, ...]]:
    """Return what can be read, and what is wrong; None without a file or a configuration in it; path '': no file."""
    try:
        content = read_regular(Path(path)) if path else None
    except FileNotFoundError:
        content = None
    except OSError as error:
        return None, (unreadable(path, error),)
    return (None, ()) if content is None else decode_ip_masq_file(path, content)


def decode_ip_masq_file(path: str, content: bytes) -> tuple[IpMasqConfig | None, tuple[ValidationIssue, ...]]:
    """Return what can be read of the file's content, and what is wrong; None where it is no configuration."""
    owner = f"file {path}"
    try:
        found = decode_ip_masq_text(owner, content.decode())
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8 at byte {error.start}; write the configuration as YAML or JSON"
        return None, (ValidationIssue(object=owner, reason=reason),)
    except ObjectError as error:
        return None, (error.problem,)
    return found, found.problems


def unreadable(path: str, error: OSError) -> ValidationIssue:
    """Return the issue of a file that can't be opened or read."""
    return ValidationIssue(object=f"file {path}", reason=f"cannot be read: {error.strerror or error}")
