"""A real kube-apiserver with its etcd as local processes, and synchronous clients of it.

    control_plane  both processes, without kubelet, scheduler or controllers
    credentials    bearer tokens, signing key, kubeconfigs
    https          an HTTPS client from any network namespace
    discovery      what an API server serves, from its aggregated discovery; pure
    resources      a client by paths: served kinds, all objects, deleting them
    kube_client    changes objects as kubectl does
    source         a new control plane as the source of a lab's agents: definitions, rights, objects

May import: topology and machine. Guarantee: the processes end with the process that started them, also when it is
killed.
"""
