"""How long the lab waits: on an emulated machine, such as a VM without KVM, everything takes many times longer."""

from __future__ import annotations

import os

VARIABLE = "NETNS_LAB_PATIENCE"
"""The environment variable with the factor, a number from 1 on. What isn't one is taken as 1."""


def patient(seconds: float) -> float:
    """Return a deadline in seconds, multiplied by the machine's factor."""
    text = os.environ.get(VARIABLE, "")
    return seconds * int(text) if text.isdecimal() and int(text) > 0 else seconds
