"""The network-namespace lab: nodes, Pods and hosts outside as namespaces of this machine, and probes between them.

May import: anything of the agent, and the world. Nothing of the agent imports it.
Needs root, iproute2's `ip`, br_netfilter where Pods share a bridge, and the kernel's VLAN (8021q) or vxlan devices
where nodes are joined by them.

    plan      what a lab consists of, as plain values
    wiring    the `ip -batch` lines that make a namespace what its plan says; pure
    netns     network namespaces: names, entering one, sysctls, sweeping what dead processes left
    fabric    a plan built: nodes forwarding, Pods attached, taken away without a trace
    packet    the SCTP and ICMP packets that probes send without the kernel's help; pure
    servers   listeners in any namespace, and who they saw knocking
    flow      one connection under probe: TCP, UDP, SCTP or ICMP
    probe     many probes at once: who reaches whom, seen from which address
    stream    a probe a millisecond, to find the first packet that meets a changed verdict
    talk      live connections under traffic, and who still hears whom
    counter   the packets that come into a namespace, and when the kernel saw each
    forgetting  when a namespace's conntrack forgot which connection
    cluster   an agent on every node, all following one folder of manifests
    api_cluster  the same, all following one API server
    control_plane  a real kube-apiserver and its etcd; assets finds or builds them, processes and credentials keep them
    api_client  changing objects as kubectl does; over https, by what discovery and resources know

Promises: no traffic leaves the lab's own namespaces; whatever it made is gone after `down()`, also when `up()` was
interrupted half way; namespaces of processes that were killed are found by `netns.sweep`. The fabric loads no
nftables rules: enforcement is the business of whoever runs in a node's namespace.
"""
