"""nftables as values: the objects of a ruleset, their nft syntax, the parser of listings, the diff of two rulesets.

One table, `inet nfagent`. May import: policy, egress, state and below. Pure. Invariants: parse(list(apply(text(r)))) ==
r; apply(diff(a, b), a) == b.
"""
