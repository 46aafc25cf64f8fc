"""What a VM of the Vagrant lab gives its agent."""

from __future__ import annotations

import base64

from nfagent.lab.vagrant.node import agent_kubeconfig

ADMIN = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "lab", "cluster": {"server": "https://cp:6443", "certificate-authority": "/lab/ca.crt"}}],
    "users": [{"name": "admin", "user": {"token": "all"}}],
    "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "admin"}}],
    "current-context": "lab",
}


def test_the_agent_s_kubeconfig_names_no_file_that_belongs_to_another_user_than_root() -> None:
    assert agent_kubeconfig(ADMIN, b"certificate", "own")["clusters"] == [
        {
            "name": "lab",
            "cluster": {
                "server": "https://cp:6443",
                "certificate-authority-data": base64.b64encode(b"certificate").decode(),
            },
        }
    ]


def test_the_agent_s_kubeconfig_has_its_own_token_and_none_of_the_administrator() -> None:
    found = agent_kubeconfig(ADMIN, b"certificate", "own")
    assert found["users"] == [{"name": "nfagent", "user": {"token": "own"}}]
    assert found["contexts"][0]["context"] == {"cluster": "lab", "user": "nfagent"}
    assert found["current-context"] == "lab"
