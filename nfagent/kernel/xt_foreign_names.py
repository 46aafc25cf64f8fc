"""Names chains and sets of other programs that have names of ours: they are removed, and their makers should know."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from nfagent.kernel.xt_extensions import PROBE
from nfagent.model.netaddr import Family
from nfagent.xtables.names import PREFIX, TEMPORARY_PREFIX, is_made
from nfagent.xtables.objects import XtRuleset

log = logging.getLogger(__name__)
_COMMANDS: dict[Family, str] = {4: "iptables", 6: "ip6tables"}


class ForeignNames:
    """What was said of one kernel's chains and sets: of each once."""

    def __init__(self, variant: str) -> None:
        """Begin with nothing said. variant: of iptables, `legacy` or `nft`."""
        self._variant = variant
        self._said: frozenset[str] = frozenset()

    def report(self, found: XtRuleset) -> None:
        """Log which of the chains and sets that are there have names that nfagent never makes."""
        texts = frozenset(_texts(found, self._variant))
        for text in sorted(texts - self._said):
            log.warning("%s", text)
        self._said = texts


def _texts(found: XtRuleset, variant: str) -> Iterator[str]:
    for family, table, name in found.chains:
        if _is_foreign(name):
            made = f"{_COMMANDS[family]}-{variant} -t {table} -N {_other(name)}"
            yield (
                f"chain {name} of table {table}, IPv{family}, is another program's; it is removed, as chains named "
                f"{PREFIX}… are nfagent's; by another name it stays: `{made}`"
            )
    for name in found.sets:
        if _is_foreign(name):
            yield (
                f"set {name} is another program's; it is removed, as sets named {PREFIX}… and {TEMPORARY_PREFIX}… "
                f"are nfagent's; by another name it stays: `ipset rename {name} {_other(name)}`"
            )


def _is_foreign(name: str) -> bool:
    """Return whether nfagent never makes a name; that of a probe stays where an agent is killed meanwhile."""
    return not (is_made(name) or name.startswith(PROBE))


def _other(name: str) -> str:
    """Return a name as long, that isn't one of ours: both prefixes have four bytes."""
    return f"my-{name[len(PREFIX) :]}"
