"""The network-namespace lab: nodes, Pods and outside hosts as network namespaces of one machine, with probes.

May import any package of nfagent, and do I/O. No package of the agent imports it. A package of the lab imports only
what stands below it in this list:

    check      what the lab's commands need of the machine, all of it: `nfagent lab check`
    vagrant    the lab of virtual machines
    report     `nfagent lab report`: page, plots and verdict of a latency run
    latency    `nfagent lab latency`: how long until a change takes effect
    demo       `nfagent lab demo`
    cluster    a topology with an agent on every node; `nfagent lab up`
    ebpf       the path to compare with: the same policies by a tc program
    apiserver  a real kube-apiserver, and clients of it
    probes     connections and packets: which are answered, which are lost, and when
    objects    objects of a cluster as documents, templates of policies, synthetic clusters; pure
    topology   nodes, Pods and outside hosts as plans, and as network namespaces
    machine    what the machine must have, and long commands; how patient the lab is

Needs root, iproute2's `ip`, br_netfilter where Pods share a bridge, and the kernel's VLAN (8021q) or vxlan devices
where nodes are joined by them. Guarantees: no traffic leaves the lab's own namespaces, and everything that a lab made
is removed, also when making it was interrupted.
"""
