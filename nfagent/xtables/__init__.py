"""iptables and ipset as values: the same desired ruleset, lowered for kernels without nf_tables.

`objects` has sets and chains as the kernel holds them, `lowering` makes them of a `nftables.objects.Ruleset`, `steps`
orders a change. Pure. May import: nftables and below. docs/backends.md says what the kernel can't hold here.
"""
