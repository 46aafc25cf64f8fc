"""Options that several commands share, and the settings that they change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nfagent.cli.complete_names import complete_names

if TYPE_CHECKING:
    from nfagent.config import Settings

_Command = TypeVar("_Command", bound=Callable[..., Any])

_LOG_LEVELS = ("debug", "info", "warning", "error")
_LOG_FORMATS = ("text", "json")
FOLDER_HINT = "give --manifests DIR, or set manifests in /etc/nfagent/nfagent.toml"


def manifests_option(command: _Command) -> _Command:
    """`--manifests DIR`."""
    help_text = "Folder of Kubernetes manifests (YAML or JSON)."
    return click.option("--manifests", metavar="DIR", type=click.Path(path_type=Path, readable=False), help=help_text)(
        command
    )


def kubeconfig_option(command: _Command) -> _Command:
    """`--kubeconfig FILE`."""
    help_text = "Kubeconfig of the API server.  [default: $KUBECONFIG, the service account of a Pod, the node's own]"
    return click.option("--kubeconfig", metavar="FILE", default="", help=help_text)(command)


def node_option(command: _Command) -> _Command:
    """`--node NAME`."""
    help_text = "This node's name, as its Node object has it.  [default: the host name]"
    return click.option("--node", metavar="NAME", default="", help=help_text)(command)


def allow_unknown_node_option(command: _Command) -> _Command:
    """`--allow-unknown-node`."""
    help_text = "Remove rules that isolate Pods even if no Node has this node's name."
    return click.option("--allow-unknown-node", is_flag=True, default=None, help=help_text)(command)


def backend_option(command: _Command) -> _Command:
    """`--backend NAME`."""
    help_text = "Where rules are written: nf_tables, or iptables with ipset.  [default: auto, nftables where it is]"
    return click.option("--backend", type=click.Choice(("auto", "nftables", "iptables")), default=None, help=help_text)(
        command
    )


def config_option(command: _Command) -> _Command:
    """`--config FILE`."""
    help_text = "Settings file.  [default: /etc/nfagent/nfagent.toml, if it exists]"
    return click.option("--config", metavar="FILE", type=click.Path(path_type=Path, readable=False), help=help_text)(
        command
    )


def flag_options(command: _Command) -> _Command:
    """Add the flags of `nfagent run` that override settings, each named as its setting."""
    options = (
        manifests_option,
        kubeconfig_option,
        node_option,
        allow_unknown_node_option,
        backend_option,
        click.option(
            "--log-level", type=click.Choice(_LOG_LEVELS), help="Least level of the agent's own log.  [default: info]"
        ),
        click.option(
            "--log-format", type=click.Choice(_LOG_FORMATS), help="Form of the agent's own log.  [default: text]"
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def flag_values(flags: Mapping[str, Any]) -> dict[str, object]:
    """Return the values of `flag_options` as settings have them."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in flags.items()}


def output_option(*forms: str) -> Callable[[_Command], _Command]:
    """`-o FORM`: one of these forms; the first is the default."""
    return click.option(
        "-o", "--output", type=click.Choice(forms), default=forms[0], show_default=True, help="Output format."
    )


def color_option(command: _Command) -> _Command:
    """`--color WHEN`."""

    def chosen(context: click.Context, _parameter: click.Parameter, value: str) -> None:
        context.color = {"always": True, "never": False}.get(value)

    return click.option(
        "--color",
        type=click.Choice(("auto", "always", "never")),
        default="auto",
        show_default=True,
        expose_value=False,
        callback=chosen,
        help="Colour: on a terminal, always or never.",
    )(command)


def namespace_option(command: _Command) -> _Command:
    """`-n NS`."""
    return click.option(
        "-n",
        "--namespace",
        metavar="NS",
        default="",
        shell_complete=complete_names("namespaces"),
        help="Only this namespace.",
    )(command)


def pod_option(command: _Command) -> _Command:
    """`--pod NS/POD`."""

    def checked(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
        if value and value.count("/") != 1:
            raise click.BadParameter(f"{value!r} is no Pod; write NAMESPACE/NAME, like shop/web")
        return value

    return click.option(
        "--pod",
        metavar="NS/POD",
        default="",
        callback=checked,
        shell_complete=complete_names("pods"),
        help="Only this Pod, like shop/web.",
    )(command)


def settings_of(config: Path | None, manifests: Path | None = None, node: str = "") -> Settings:
    """Return the settings, overridden by the flags of a command. Raises SettingError."""
    from nfagent.config import load_settings

    return load_settings(config, flags={"manifests": str(manifests or ""), "node": node})


def view_settings_of(config: Path | None, manifests: Path | None, node: str) -> Settings:
    """Return the settings of a command that shows a node's state. Raises SettingError.

    The ip-masq-agent file is one of this machine: it isn't read where --node names another node.
    """
    import msgspec

    from nfagent.config import load_settings

    settings = settings_of(config, manifests, node)
    if settings.node_name == load_settings(config).node_name:
        return settings
    section = msgspec.structs.replace(settings.masquerade, config_file="")
    return msgspec.structs.replace(settings, masquerade=section)
