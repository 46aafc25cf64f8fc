"""What people are told: why a connection is allowed or denied, what would turn that, what other policies would do.

`ends` reads what they ask, `routes` finds who stands behind a Service, `explanation` composes the answer of `words` and
`remedy`; `trial` judges before and after. All of it asks `evaluate`, and nothing here decides. May import: policy,
cluster, errors. Pure. Promises: what is suggested does what is said; tests apply it and judge again.
"""
