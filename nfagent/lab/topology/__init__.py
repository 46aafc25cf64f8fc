"""Nodes, Pods and outside hosts: as plans, and as network namespaces of this machine.

    plan            nodes, Pods and outside hosts as plain values; pure
    ip_commands     the `ip -batch` lines that configure a namespace after its plan; pure
    netns           network namespaces: names, entering one, sysctls, removing those of dead processes
    netns_topology  builds a plan: nodes that forward, Pods attached to them; removes all of it
    processes       processes in a network namespace, and free ports for them

May import: machine. Guarantees: no traffic leaves the topology's own namespaces. Everything that `up()` made is gone
after `down()`, also when `up()` was interrupted; `netns.sweep` removes namespaces of processes that were killed. A
topology loads no nftables rules: the agent that runs in a node's namespace enforces policies.
"""
