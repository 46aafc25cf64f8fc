"""Explains verdicts: why a connection is allowed or denied, and which change of policies would reverse that.

`endpoints` parses the two ends, `service_routes` finds the Pods behind a Service, `flow_explainer` evaluates each flow,
`phrasing` and `suggestions` provide the lines, `source_translation` that on egress NAT, `explanation` composes them.
Every verdict is the evaluator's. Pure.
May import: desired and below. Guarantees: each suggestion has the effect that it states; tests apply it and evaluate
the flow again.
"""
