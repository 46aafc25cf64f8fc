"""The checks of settings, of those that the running agent has, and of the source of objects that is in use."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

import nfagent.config
from nfagent.cli.check_result import Check
from nfagent.cli.running_settings import differing, is_outdated, running_settings
from nfagent.config import Settings
from nfagent.errors import ClusterError, HostError, NfagentError, SettingError
from nfagent.introspection.agent_client import get_json
from nfagent.kube.credentials import find_client_config
from nfagent.loaded_settings import ConfigView, LoadedSettings, load_with_origins
from nfagent.model.plurals import counted
from nfagent.setting_layers import unknown_variables

_NAME = "settings"
_IN_USE = "settings in use"
_SOURCES = ("manifests", "kubeconfig")
_SHOWN = 5


class CheckedSettings(msgspec.Struct, frozen=True):
    """The settings to check by.

    checks: the results of their own checks
    agent:  the settings of the running agent; None where none runs, or it can't be asked
    named:  a flag names the source of objects
    """

    settings: Settings
    checks: list[Check]
    agent: ConfigView | None = None
    named: bool = False


def read_settings(config: Path | None, flags: Mapping[str, object]) -> CheckedSettings:
    """Read and check the settings; invalid ones are replaced by the defaults, to check the rest."""
    named = any(flags.get(key) for key in _SOURCES)
    try:
        loaded = load_with_origins(config, flags=flags)
    except SettingError as error:
        found = Check(
            _NAME,
            "FAIL",
            f"{error}; all checks below go by the defaults",
            f"edit {config or nfagent.config.DEFAULT_FILE}, or the environment",
        )
        given = {key: value for key, value in flags.items() if value and key != "backend"}
        return CheckedSettings(msgspec.convert(given, Settings), [found, *_unknown()], named=named)
    checks = [Check(_NAME, "ok", _layers(config or nfagent.config.DEFAULT_FILE, loaded)), *_unknown()]
    agent = None
    try:
        agent = running_settings(loaded.settings.socket_path)
    except HostError as error:
        checks.append(Check(_IN_USE, "warn", f"not known: {error.reason}", error.hint))
    except NfagentError as error:
        checks.append(Check(_IN_USE, "warn", f"not known: {error.reason}", "systemctl restart nfagent"))
    if agent is not None:
        checks += _in_use(loaded, agent)
    return CheckedSettings(loaded.settings, checks, agent, named)


def _layers(file: Path, loaded: LoadedSettings) -> str:
    """Return which files and variables the settings are from: `/etc/nfagent/nfagent.toml, NFAGENT_NODE`."""
    origins = [origin for origin in loaded.origins.values() if origin.kind != "flag"]
    others = dict.fromkeys(origin.where for origin in origins if origin.where != str(file))
    if not file.exists() and not others:
        return f"defaults (there is no {file})"
    return ", ".join([str(file)] * file.exists() + sorted(others))


def _unknown() -> list[Check]:
    fix = "remove it, in the service: from /etc/default/nfagent"
    return [Check(_NAME, "warn", words, fix) for words in unknown_variables(os.environ, Settings)]


def _in_use(loaded: LoadedSettings, agent: ConfigView) -> Iterator[Check]:
    """Yield what the running agent has otherwise than the files, and what its variables and flags say."""
    pairs = differing(loaded.entries(), agent)
    outdated = [pair for pair in pairs if is_outdated(*pair)]
    waiting = {entry.key for entry in agent.pending}
    for here, there in outdated[:_SHOWN]:
        fix = f"systemctl {'restart' if here.key in waiting else 'reload'} nfagent"
        yield Check(_IN_USE, "warn", f"the running agent has {there}; the files now say {here} ({here.origin})", fix)
    if len(outdated) > _SHOWN:
        more = counted(len(outdated) - _SHOWN, "more setting")
        yield Check(_IN_USE, "warn", f"the running agent has otherwise: {more}", "nfagent config shows them")
    if agent.problem:
        yield Check(_IN_USE, "warn", f"the last reload kept every setting as it was: {agent.problem}", "nfagent config")
    own = [f"{there} ({there.origin})" for _, there in pairs if there.origin.kind in {"environment", "flag"}]
    if not (outdated or agent.problem):
        besides = f"; besides: {', '.join(own)}" if own else ""
        yield Check(_IN_USE, "ok", f"the running agent has what the files say{besides}")


def objects_check(checked: CheckedSettings, *, cluster: bool) -> Check:
    """Check where Kubernetes objects come from: the source of the running agent, unless a flag names one.

    cluster: the API server is checked too, and its credentials with it, so they are left out here
    """
    settings = checked.settings
    if checked.agent is not None and not checked.named:
        try:
            state = get_json(settings.socket_path, "/v1/dump/state", {"form": "summary"})
            return _source_in_use(state, checked.agent)
        except (NfagentError, KeyError) as error:
            return Check("objects", "warn", f"the running agent doesn't say what it reads: {error}")
    return _source_of_settings(settings, cluster=cluster)


def _source_of_settings(settings: Settings, *, cluster: bool) -> Check:
    folder = settings.manifests
    if folder and not Path(folder).is_dir():
        return Check("objects", "FAIL", f"there is no folder {folder}", f"mkdir -p {folder}")
    if folder:
        return Check("objects", "ok", f"folder {folder}")
    if cluster:
        return Check("objects", "ok", "API server, with the credentials below")
    try:
        access = asyncio.run(find_client_config(settings.kubeconfig, settings.context, settings.token_file))
    except ClusterError as error:
        # Without any of these settings, a flag of `nfagent run` may still name a source.
        named = settings.kubeconfig or settings.context or settings.token_file
        return Check("objects", "FAIL" if named else "warn", error.reason, error.hint)
    return Check("objects", "ok", f"API server {access.server}, with {access.origin}; check it with --cluster")


def _source_in_use(state: dict[str, Any], agent: ConfigView) -> Check:
    parts, problems = state["agent"], len(state["problems"])
    following = parts.get("apiserver")
    if following is None:
        folder = next((entry.value for entry in agent.settings if entry.key == "manifests"), "")
        words = f"the running agent reads {counted(len(parts['files']), 'file')} of folder {folder}"
    else:
        words = f"the running agent reads API server {following['server'] or '(its credentials are being looked for)'}"
        failing = {kind: each["trouble"] for kind, each in following["resources"].items() if each["trouble"]}
        if failing or not following["synced"]:
            state_of = "interrupted" if following["synced"] else "not everything was read yet"
            troubles = "; ".join(dict.fromkeys(failing.values()))
            found = f"{words}: {state_of}{f': {troubles}' if troubles else ''}"
            return Check("objects", "warn", found, "nfagent check --cluster, journalctl -u nfagent")
    if problems:
        found = f"{words}; {counted(problems, 'problem')} with objects"
        return Check("objects", "warn", found, "nfagent dump state shows them")
    return Check("objects", "ok", words)
