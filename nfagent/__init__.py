"""nfagent: NetworkPolicy, masquerade and verdict logs for Kubernetes nodes without eBPF, by nftables."""

__version__ = "0.1.0"
