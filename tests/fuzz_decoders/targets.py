"""All targets, in the order in which they run."""

from __future__ import annotations

from tests.fuzz_decoders import file_targets, iptables_targets, kernel_targets, object_targets, socket_targets

MODULES = (kernel_targets, object_targets, file_targets, iptables_targets, socket_targets)
TARGETS = tuple(target for module in MODULES for target in module.TARGETS)


def module_of(name: str) -> str:
    """Return the name of the module that has a target."""
    return next(module.__name__ for module in MODULES if any(target.name == name for target in module.TARGETS))
