"""Reads the policy files of `nfagent try`: from disk or standard input, and from text to policies."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from nfagent.errors import UsageError, ValidationIssue
from nfagent.manifests.file_content import FileContent, read_documents
from nfagent.manifests.folder_listing import list_folders
from nfagent.model.admin_policy import POLICY_KINDS, Policy, TierPolicy
from nfagent.model.egress_nat import EgressNATPolicy, NetworkGatewayGroup
from nfagent.model.gvk import EgressObject
from nfagent.model.ip_masq import IpMasqConfig
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.model.objects import ObjectRef
from nfagent.simulate.policy_files import PolicyFile, PolicyFiles
from nfagent.system.bounded_calls import BoundedCalls
from nfagent.system.regular_file import UnsuitableError, read_regular

MAX_BYTES = 1024 * 1024
"""Limit of all files together: the agent parses them between other work."""

_STDIN = "-"
_SHOWN = 5
_KINDS = (*POLICY_KINDS, "EgressNATPolicy", "NetworkGatewayGroup")


def read_policy_files(paths: Sequence[str]) -> tuple[PolicyFile, ...]:
    """Read files, the manifests in folders, and standard input for `-`. Raises UsageError."""
    if paths.count(_STDIN) > 1:
        raise UsageError("standard input can be read only once; give `-f -` once")
    files = tuple(file for path in paths for file in _files(path))
    if sum(len(file.text) for file in files) > MAX_BYTES:
        raise UsageError(f"more than {MAX_BYTES // 1024} KiB of manifests at once; give the policies in parts")
    return files


def decode_policies(files: Iterable[PolicyFile]) -> PolicyFiles:
    """Decode the policies in files. Raises UsageError for other objects, unreadable ones, and duplicates."""
    places: dict[ObjectRef, str] = {}
    policies: list[Policy] = []
    egress: list[EgressObject] = []
    problems: list[ValidationIssue] = []
    others: list[str] = []
    for file in files:
        content = _content(file)
        others += [f"{kind} in {file.name}" for kind in sorted(content.ignored)]
        for ref, (item, line) in content.items.items():
            place = f"{file.name}:{line}"
            if not isinstance(item, NetworkPolicy | TierPolicy | EgressNATPolicy | IpMasqConfig | NetworkGatewayGroup):
                others.append(f"{ref} in {place}")
                continue
            if ref in places:
                raise UsageError(f"{ref} is given twice, in {places[ref]} and in {place}; give it once")
            places[ref] = place
            if isinstance(item, EgressNATPolicy | IpMasqConfig | NetworkGatewayGroup):
                egress.append(item)
            else:
                policies.append(item)
            problems += [msgspec.structs.replace(flaw, place=place) for flaw in item.problems]
    if others:
        raise _not_policies_error(others)
    if not policies and not egress:
        raise UsageError(f"the files hold no policy; give one with {', '.join(_KINDS)} objects")
    return PolicyFiles(tuple(policies), tuple(problems), tuple(egress))


def _files(path: str) -> Iterator[PolicyFile]:
    if path == _STDIN:
        yield PolicyFile("stdin", _decoded("stdin", sys.stdin.buffer.read()))
        return
    found = Path(path)
    if not found.is_dir():
        if found.is_fifo():
            # As a shell makes of <(kubectl get …): it ends when its writer does.
            yield PolicyFile(path, _decoded(path, _piped(found)))
        else:
            yield _file(path, found)
        return
    listing = list_folders(found, BoundedCalls())
    for name, error in listing.unlisted.items():
        if name not in listing.links:
            raise UsageError(
                f"{found / name} can't be listed: {error.strerror}; give the files of the policies with -f"
            )
    if not listing.files:
        raise UsageError(f"{path}: there are no manifests in this folder; they end in .yaml, .yml or .json")
    for file in sorted(listing.files.values()):
        yield _file(str(file), file)


def _file(shown: str, path: Path) -> PolicyFile:
    try:
        return PolicyFile(shown, _decoded(shown, read_regular(path)))
    except UnsuitableError as error:
        raise UsageError(f"{shown} {error.strerror}") from None
    except OSError as error:
        raise UsageError(f"{shown} can't be read: {error.strerror}; give the files of the policies with -f") from None


def _piped(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}; give the files of the policies with -f") from None


def _decoded(name: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{name}:{line}: is not UTF-8 text; give YAML or JSON") from None


def _content(file: PolicyFile) -> FileContent:
    """Decode a file in which every object can be read, or fails closed. Raises UsageError."""
    content = read_documents(file.name, file.text)
    if isinstance(content, ValidationIssue):
        raise UsageError(f"{content}; fix it first")
    kept = {
        msgspec.structs.replace(flaw, place=f"{file.name}:{line}")
        for item, line in content.items.values()
        for flaw in item.problems
    }
    for problem in content.problems:
        if problem not in kept:
            raise UsageError(f"{problem}; an API server would refuse it, so there is nothing to try")
    return content


def _not_policies_error(others: list[str]) -> UsageError:
    more = len(others) - _SHOWN
    named = ", ".join([*others[:_SHOWN], *([f"{more} more"] if more > 0 else [])])
    return UsageError(
        f"only policies can be tried, and the files hold other objects too: {named}; give files with "
        f"{', '.join(_KINDS)} objects alone, or try against a changed copy of all manifests with --manifests"
    )
