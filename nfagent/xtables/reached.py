"""The chains that packets of their family can come to; no others are written.

A chain of nftables is for both families, in iptables it is one for each. Where Pods have addresses of one family only,
nothing leads to the policies' chains of the other: a policy then changes the tables of one family.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nfagent.xtables.objects import ChainKey, HookKey, XtChain

_NOTHING = XtChain()


class ReachedChains:
    """Chains with the rules that lead to them, kept from one change to the next. No chain leads to itself.

    known:  all chains
    chains: those that a built-in chain leads to, itself or by others; the same object until one of them changes
    """

    def __init__(self) -> None:
        """Begin without any."""
        self.known: dict[ChainKey, XtChain] = {}
        self._uses: dict[ChainKey, int] = {}  # by built-in chains, and by rules of chains that are reached
        self.chains: dict[ChainKey, XtChain] = {}

    def change(
        self,
        changed: Mapping[ChainKey, XtChain | None],
        hooks_gone: Mapping[HookKey, str],
        hooks_come: Mapping[HookKey, str],
    ) -> None:
        """Replace some chains, or remove them (None), and what built-in chains lead to."""
        differing = {key: chain for key, chain in changed.items() if self.known.get(key) is not chain}
        if not differing and hooks_gone == hooks_come:
            return
        self.chains = dict(self.chains)
        # What is led to anew comes before what no longer is goes: most of both is the same.
        self._use([(*hook[:2], name) for hook, name in hooks_come.items()])
        left = [[(*hook[:2], name) for hook, name in hooks_gone.items()]]
        for key, chain in differing.items():
            was, will = self.chains.pop(key, _NOTHING), _NOTHING
            if chain is None:
                del self.known[key]
            else:
                self.known[key] = chain
                if key in self._uses:
                    self.chains[key] = will = chain
            self._use(_keys(key, will.leads_to - was.leads_to))
            left.append(_keys(key, was.leads_to - will.leads_to))
        for keys in left:
            self._drop(keys)

    def _reach(self, key: ChainKey) -> None:
        chain = self.known.get(key)
        if chain is not None and key not in self.chains:
            self.chains[key] = chain
            self._use(_keys(key, chain.leads_to))

    def _use(self, keys: Iterable[ChainKey]) -> None:
        for key in keys:
            self._uses[key] = self._uses.get(key, 0) + 1
            self._reach(key)

    def _drop(self, keys: Iterable[ChainKey]) -> None:
        for key in keys:
            self._uses[key] -= 1
            if self._uses[key]:
                continue
            del self._uses[key]
            chain = self.chains.pop(key, None)
            if chain is not None:
                self._drop(_keys(key, chain.leads_to))


def reached(chains: Mapping[ChainKey, XtChain], hooks: Mapping[HookKey, str]) -> dict[ChainKey, XtChain]:
    """Return those of some chains that built-in chains lead to."""
    found = ReachedChains()
    found.change(chains, {}, hooks)
    return found.chains


def _keys(key: ChainKey, names: Iterable[str]) -> list[ChainKey]:
    """Return the keys of chains in the table of another one."""
    return [(*key[:2], name) for name in names]
