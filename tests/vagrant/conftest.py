"""A lab of virtual machines for all tests of this folder: NFAGENT_VAGRANT_LAB names one that is up already."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from nfagent.lab.machine.binaries import CHECKOUT
from nfagent.lab.vagrant import driver as vagrant
from tests.support.vagrant_vms import VagrantVms


def _progress(text: str) -> None:
    sys.stderr.write(f"==> {text}\n")


@pytest.fixture(scope="session")
def vms(request: pytest.FixtureRequest) -> Iterator[VagrantVms]:
    """Bring up a worker and the control plane; removed at the end where these tests made them."""
    if given := os.environ.get("NFAGENT_VAGRANT_LAB", ""):
        with VagrantVms(given) as found:
            yield found
        return
    # The progress of the minutes in which the VMs start is shown.
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        vagrant.up("test", 1, 3, _progress)
    try:
        with VagrantVms("test") as made:
            yield made
    finally:
        vagrant.down("test", _progress)


@pytest.fixture(scope="session")
def facts() -> Iterator[dict[str, Any]]:
    """Collect what the tests measured; build/vagrant-test.json has it at the end."""
    found: dict[str, Any] = {}
    yield found
    text = json.dumps(found, indent=2) + "\n"
    (CHECKOUT / "build" / "vagrant-test.json").write_text(text, "utf-8")
    sys.stderr.write(text)
