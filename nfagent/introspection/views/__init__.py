"""The views of `nfagent dump`: one Struct a view, which JSON, text and the socket share.

Lists that grow with the cluster are made while they are written (`*_parts`), so that a large view never blocks the
event loop. The objects listed are those at the moment when a view begins; each is shown as it is when it is written.
An object that is removed or changed meanwhile is shown as it was, with the policies of that time. A ruleset is of one
moment. `*_view` returns the same made at once, as JSON decodes to.
"""

from nfagent.introspection.view_filter import ViewFilter, scoped
from nfagent.introspection.views.counters import CountersView, CounterView, counters_parts, counters_view
from nfagent.introspection.views.json_value import View
from nfagent.introspection.views.policies import PoliciesView, PolicyView, policies_parts, policies_view
from nfagent.introspection.views.rulesets import RulesetView, annotation, ruleset_parts, ruleset_view
from nfagent.introspection.views.state import PodView, StateView, state_parts, state_view

__all__ = [
    "CounterView",
    "CountersView",
    "PodView",
    "PoliciesView",
    "PolicyView",
    "RulesetView",
    "StateView",
    "View",
    "ViewFilter",
    "annotation",
    "counters_parts",
    "counters_view",
    "policies_parts",
    "policies_view",
    "ruleset_parts",
    "ruleset_view",
    "scoped",
    "state_parts",
    "state_view",
]
