"""The world: sockets, files, the API server, the manifests folder, the kernel, systemd.

May import: verdicts and below, never reconcile, nor anything above config. Here, and only here, things block, fail and
take time.
Promises: loss is counted, never silent; what can't be had is said with the command that mends it; whatever
is opened here is closed here.
"""
