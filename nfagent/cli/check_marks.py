"""The check of the bits of the packet mark that floating addresses need, for `nfagent check`."""

from __future__ import annotations

from collections.abc import Iterator

from nfagent.cli.check_result import Check
from nfagent.config import Settings
from nfagent.errors import HostError, KernelError, WireError
from nfagent.kernel.foreign_marks import read_mark_uses
from nfagent.kernel.nft_client import NftClient
from nfagent.model.plurals import counted
from nfagent.nftables.gateway_chains import GATEWAYS_CHAIN

_NAME = "mark bits"
_SHOWN = 5
_FIX = (
    "choose eight bits that no other program uses: masquerade.gateway_mark in /etc/nfagent/nfagent.toml, "
    "the same on every node is easiest"
)


def mark_checks(settings: Settings, *, root: bool) -> Iterator[Check]:
    """Check that no other program uses the bits of masquerade.gateway_mark."""
    if not root:
        yield Check(_NAME, "warn", "not tried: needs root")
        return
    mask = settings.masquerade_settings().gateway_mark.mask
    try:
        found, in_use = read_mark_uses(mask), _has_gateways()
    except (KernelError, HostError) as error:
        yield Check(_NAME, "warn", error.reason, error.hint)
        return
    except WireError as error:
        yield Check(_NAME, "warn", f"the rules of other programs can't be read: {error}")
        return
    bits = f"{mask:#010x}"
    if not found:
        yield Check(_NAME, "ok", f"no other program uses the bits {bits} of the packet mark")
    elif not in_use:
        rules = counted(len(found), "rule")
        text = f"{rules} of other programs, first {found[0]}; no matter while no EgressNATPolicy has a gatewayRef"
        yield Check(_NAME, "ok", text)
    else:
        for use in found[:_SHOWN]:
            yield Check(_NAME, "warn", f"{use}, of which nfagent needs {bits} for floating addresses", _FIX)
        if len(found) > _SHOWN:
            yield Check(
                _NAME, "warn", f"{counted(len(found) - _SHOWN, 'more rule')} of other programs use these bits", _FIX
            )


def _has_gateways() -> bool:
    """Return whether the table of nfagent has the chains of floating addresses."""
    kernel = NftClient()
    try:
        return GATEWAYS_CHAIN in kernel.read_now().chains
    finally:
        kernel.close()
