"""The tunnel by which packets reach a floating address's holder that is on no link of their node."""

TUNNEL_LINK = "nfagent-gw"
"""The name of its interface."""
TUNNEL_PORT = 4790
"""Of UDP: VXLAN with the generic protocol extension, by IANA's registry."""
