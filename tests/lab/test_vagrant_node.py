"""What a VM of the Vagrant lab says of itself, and its Pods' attachment by CNI plugins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nfagent.errors import HostError, UsageError
from nfagent.lab.vagrant.cni import Network
from nfagent.lab.vagrant.node import VagrantNode, pod_document, this_node

# A plugin that answers as one of CNI does: with what it was given, and an address more than the plugin before it.
PLUGIN = """#!/bin/sh
configuration=$(cat)
printf '%s %s %s %s\\n' "$CNI_COMMAND" "$CNI_CONTAINERID" "$CNI_NETNS" "$configuration" >>"$(dirname "$0")/calls"
case $configuration in
*refuse*) echo '{"code": 7, "msg": "no address is left"}'; exit 1 ;;
*prevResult*) echo '{"ips": [{"address": "10.244.1.2/24"}, {"address": "fd00::2/64"}]}' ;;
*) echo '{"ips": [{"address": "10.244.1.2/24"}]}' ;;
esac
"""


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    for name in ("ptp", "second"):
        (tmp_path / name).write_text(PLUGIN, "ascii")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def configured(folder: Path, *types: str, **more: str) -> Network:
    listed = {"name": "lab", "cniVersion": "1.0.0", "plugins": [{"type": each, **more} for each in types]}
    (folder / "10-lab.conflist").write_text(json.dumps(listed), "utf-8")
    return Network.read(folder, folder)


def test_a_pod_is_attached_by_the_plugins_in_their_order_each_with_the_result_before_it(plugins: Path) -> None:
    network = configured(plugins, "ptp", "second")
    assert network.add("shop-web", "shop.web") == ("10.244.1.2", "fd00::2")
    first, second = (plugins / "calls").read_text("utf-8").splitlines()
    assert first.startswith("ADD shop-web /run/netns/shop.web ")
    assert json.loads(second.split(" ", 3)[3])["prevResult"]["ips"] == [{"address": "10.244.1.2/24"}]


def test_a_pod_is_detached_in_the_opposite_order(plugins: Path) -> None:
    configured(plugins, "ptp", "second").delete("shop-web", "shop.web")
    called = [json.loads(line.split(" ", 3)[3])["type"] for line in (plugins / "calls").read_text("utf-8").splitlines()]
    assert called == ["second", "ptp"]


def test_the_error_of_a_plugin_is_told_in_its_words(plugins: Path) -> None:
    with pytest.raises(HostError, match=r"CNI ADD of shop\.web: .*/ptp: no address is left"):
        configured(plugins, "ptp", mode="refuse").add("shop-web", "shop.web")


def test_a_missing_plugin_is_named(plugins: Path) -> None:
    with pytest.raises(HostError, match=r"/bridge: .*No such file"):
        configured(plugins, "bridge").add("shop-web", "shop.web")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "lab"}'], ids=["empty", "cut", "a list", "no plugins"])
def test_a_configuration_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "10-lab.conflist").write_text(text, "utf-8")
    with pytest.raises(HostError, match=r"10-lab\.conflist: no CNI configuration list"):
        Network.read(tmp_path, tmp_path)


def test_a_folder_without_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"no CNI configuration: .* has no file \*\.conflist"):
        Network.read(tmp_path, tmp_path)


def test_nodes_and_their_pods_have_ranges_and_names_of_their_own() -> None:
    first, second = VagrantNode(1, 150, 4), VagrantNode(2, 150, 3)
    assert first.document()["spec"]["podCIDRs"] == ["10.244.1.0/24", "fd00:10:244:1::/64"]
    assert first.pod_names() == [("shop", "web-1"), ("shop", "db-1"), ("guest", "visitor-1"), ("shop", "web-1-2")]
    assert not {*first.pod_names(), *first.addresses} & {*second.pod_names(), *second.addresses}


def test_a_pod_is_labelled_by_its_role_and_runs_with_all_its_addresses() -> None:
    document = pod_document("worker-1", "shop", "web-1-2", ("10.244.1.2", "fd00::2"))
    assert document["metadata"]["labels"] == {"app": "web"}
    assert document["status"] == {"phase": "Running", "podIPs": [{"ip": "10.244.1.2"}, {"ip": "fd00::2"}]}


@pytest.mark.parametrize(("number", "said"), [("", "LAB_NODE is ''"), ("x", "LAB_NODE is 'x'")], ids=["none", "a word"])
def test_a_vm_without_its_number_says_which_variable_is_wrong(
    monkeypatch: pytest.MonkeyPatch, number: str, said: str
) -> None:
    monkeypatch.setenv("LAB_NODE", number)
    with pytest.raises(UsageError, match=said):
        this_node()
