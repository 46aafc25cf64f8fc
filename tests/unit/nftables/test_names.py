from __future__ import annotations

import re
from copy import deepcopy
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.model.admin_policy import SHORT_KINDS, NodePeer, Tier
from nfagent.model.netaddr import FAMILIES, parse_cidr
from nfagent.model.networkpolicy import PodPeer
from nfagent.model.objects import ObjectRef
from nfagent.model.selectors import Requirement, Selector
from nfagent.nftables import names
from nfagent.policy.chain_plan import AUDIT_PARTS, AuditChainKey
from nfagent.policy.compiler import CIDRSet, CompiledRule, NamedPorts, PolicySetKey, TierChainKey
from nfagent.policy.merged_peers import AnyOf, PortNumbers, any_of

LONGEST_NAMESPACE, LONGEST_NAME = "n" * 63, "p" * 253
TIER_NAMES: tuple[Tier, Tier] = ("admin", "baseline")


def refs(namespace: str, *policies: str) -> tuple[ObjectRef, ...]:
    return tuple(ObjectRef("NetworkPolicy", namespace, name) for name in policies)


def test_20_namespace_and_policy_never_run_together() -> None:
    chains = {
        names.policy_set_chain(PolicySetKey("ingress", refs("a", "bc"))),
        names.policy_set_chain(PolicySetKey("ingress", refs("ab", "c"))),
        names.policy_set_chain(PolicySetKey("ingress", refs("a", "b-c"))),
        names.policy_set_chain(PolicySetKey("ingress", refs("a", "b", "c"))),
        names.policy_set_chain(PolicySetKey("ingress", refs("a", "b.c"))),
        names.policy_set_chain(PolicySetKey("egress", refs("a", "bc"))),
    }
    assert len(chains) == 6


def test_names_read_as_what_they_are() -> None:
    key = PolicySetKey("ingress", refs("shop", "db", "default-deny"))
    assert names.policy_set_chain(key) == "ingress/shop/db_default-deny"
    assert names.verdict_chain_name("deny", "ingress", key.policies) == "deny/ingress/shop/db_default-deny"
    assert names.verdict_chain_name("allow", "egress", refs("shop", "db")) == "allow/egress/shop/db"
    assert names.log_prefix("deny", "ingress", refs("shop", "db", "x")) == "deny ingress shop/db_x"


def tiers(*policies: str) -> tuple[ObjectRef, ...]:
    """Write policies of the tiers as their names do: anp.guard."""
    kinds = {short: kind for kind, short in SHORT_KINDS.items()}
    return tuple(ObjectRef(kinds[item.partition(".")[0]], "", item.partition(".")[2]) for item in policies)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        pytest.param(PolicySetKey("ingress", (), tiers("anp.a")), "ingress/admin_anp.a", id="the admin tier alone"),
        pytest.param(
            PolicySetKey("egress", (), (), tiers("banp.default")),
            "egress/baseline_banp.default",
            id="the baseline alone",
        ),
        pytest.param(
            PolicySetKey("ingress", refs("shop", "db", "x"), tiers("anp.a", "cnp.b")),
            "ingress/admin_anp.a_cnp.b/shop/db_x",
            id="the admin tier before NetworkPolicies",
        ),
        pytest.param(
            PolicySetKey("egress", (), tiers("cnp.a"), tiers("cnp.b", "banp.default")),
            "egress/admin_cnp.a/baseline_cnp.b_banp.default",
            id="both tiers",
        ),
    ],
)
def test_a_policy_set_is_named_by_its_tiers_in_order_of_evaluation(key: PolicySetKey, name: str) -> None:
    assert names.policy_set_chain(key) == name


def test_names_of_tier_chains_verdict_chains_and_prefixes() -> None:
    both = tiers("anp.a", "cnp.a")
    assert names.tier_chain_name(TierChainKey("admin", "ingress", both)) == "admin/ingress/anp.a_cnp.a"
    assert (
        names.tier_chain_name(TierChainKey("baseline", "egress", tiers("banp.default")))
        == "baseline/egress/banp.default"
    )
    assert names.verdict_chain_name("deny", "egress", both[:1]) == "deny/egress/anp.a"
    assert names.log_prefix("allow", "ingress", both[1:]) == "allow ingress cnp.a"


POLICIES: st.SearchStrategy[tuple[ObjectRef, ...]] = st.lists(
    st.sampled_from(["a", "b", "c", "a.b", "b.c", "a-b", "anp.a", "default"]), max_size=3, unique=True
).map(lambda some: refs("a", *some))
SPACES = st.sampled_from(["a", "anp", "admin", "baseline", "ingress"])
TIERS = st.lists(
    st.builds(
        ObjectRef,
        st.sampled_from(sorted(SHORT_KINDS)),
        st.just(""),
        st.sampled_from(["a", "b", "a.b", "anp.a", "cnp.b"]),
    ),
    max_size=3,
    unique=True,
).map(tuple)


@given(st.lists(st.tuples(POLICIES, SPACES, TIERS, TIERS), min_size=2, max_size=2, unique=True))
def test_20_no_two_policy_sets_tier_chains_or_verdicts_share_a_name(
    drawn: list[tuple[tuple[ObjectRef, ...], str, tuple[ObjectRef, ...], tuple[ObjectRef, ...]]],
) -> None:
    keys = [
        PolicySetKey("ingress", tuple(msgspec.structs.replace(ref, namespace=space) for ref in some), admin, baseline)
        for some, space, admin, baseline in drawn
    ]
    classes = {key: names.policy_set_chain(key) for key in keys if key.policies or key.tier_chains}
    assert len(set(classes.values())) == len(classes)
    sections = {section: names.tier_chain_name(section) for key in keys for section in key.tier_chains}
    assert len(set(sections.values())) == len(sections)
    deciding = {
        refs for key in keys for refs in (key.policies, *((ref,) for ref in (*key.admin, *key.baseline))) if refs
    }
    assert len({names.verdict_chain_name("deny", "ingress", refs) for refs in deciding}) == len(deciding)
    assert not set(classes.values()) & set(sections.values())


@given(st.lists(st.tuples(POLICIES, SPACES, TIERS, TIERS, st.randoms()), min_size=2, max_size=2, unique=True))
def test_20_no_two_policy_sets_with_audited_policies_share_a_name(
    drawn: list[tuple[tuple[ObjectRef, ...], str, tuple[ObjectRef, ...], tuple[ObjectRef, ...], Random]],
) -> None:
    kept: dict[ObjectRef, bool] = {}
    keys: set[PolicySetKey] = set()
    for some, space, admin, baseline, random in drawn:
        isolating = tuple(msgspec.structs.replace(ref, namespace=space) for ref in some)
        enforced = [
            tuple(ref for ref in refs if kept.setdefault(ref, random.random() < 0.5))
            for refs in (isolating, admin, baseline)
        ]
        without = PolicySetKey("ingress", enforced[0], enforced[1], () if enforced[0] else enforced[2])
        key = PolicySetKey("ingress", isolating, admin, () if isolating else baseline)
        keys.add(key if key == without else msgspec.structs.replace(key, enforced=(without,)))
    made = {key: names.policy_set_chain(key) for key in keys if key.refs}
    assert len(set(made.values())) == len(made)
    shared = {
        AuditChainKey(part, "ingress", key.admin, named, key.baseline)
        for key in keys
        for part in AUDIT_PARTS
        for named in ((), *((ref,) for ref in key.refs))
    }
    parts = {key: names.chain_name(key) for key in shared}
    assert len(set(parts.values())) == len(parts)
    assert not {*made.values()} & {*parts.values()}
    assert all(len(name) <= 255 - len("stray/") for name in parts.values())


@pytest.mark.parametrize("policies", [1, 2, 50])
def test_21_the_longest_names_fit_and_stay_apart(policies: int) -> None:
    some = refs(LONGEST_NAMESPACE, *(f"{number:03}{LONGEST_NAME[3:]}" for number in range(policies)))
    other = refs(LONGEST_NAMESPACE, *(f"{number:03}{LONGEST_NAME[4:]}q" for number in range(policies)))
    for key in (PolicySetKey("egress", some), PolicySetKey("ingress", some)):
        assert len(names.policy_set_chain(key)) <= 255
        assert len(names.verdict_chain_name("deny", key.direction, key.policies)) <= 255
    assert len(names.log_prefix("audit-deny", "ingress", some)) <= 127
    assert names.policies_name(some) != names.policies_name(other)
    assert names.policies_name(some).startswith(f"{LONGEST_NAMESPACE}/")


@pytest.mark.parametrize("name", ["fwd", "drop", "ip", "chain", "0"])
def test_21_names_that_are_keywords_never_stand_alone(name: str) -> None:
    key = PolicySetKey("ingress", refs(name, name))
    policy = ObjectRef("AdminNetworkPolicy", "", name)
    made = [names.policy_set_chain(key), names.policy_set_chain(PolicySetKey("ingress", (), (policy,)))]
    made += [names.tier_chain_name(TierChainKey(tier, "ingress", (policy,))) for tier in TIER_NAMES]
    made += [
        names.verdict_chain_name(word, "ingress", by) for word in ("deny", "allow") for by in (key.policies, (policy,))
    ]
    for found in made:
        assert re.match(r"(ingress|admin|baseline|deny|allow)/", found)


@pytest.mark.parametrize("policies", [1, 2, 100])
def test_21_the_longest_names_of_tiers_fit_and_stay_apart(policies: int) -> None:
    some = tuple(ObjectRef("ClusterNetworkPolicy", "", f"{number:03}{LONGEST_NAME[3:]}") for number in range(policies))
    other = (*some[:-1], msgspec.structs.replace(some[-1], name=f"{some[-1].name[:-1]}q"))
    classes = [
        PolicySetKey("ingress", refs(LONGEST_NAMESPACE, LONGEST_NAME), some),
        PolicySetKey("ingress", refs(LONGEST_NAMESPACE, LONGEST_NAME), other),
        PolicySetKey("ingress", (), some, some),
        PolicySetKey("ingress", (), some, other),
        PolicySetKey("ingress", (), other, some),
        PolicySetKey("ingress", (), some),
        PolicySetKey("ingress", (), (), some),
    ]
    made = [names.policy_set_chain(key) for key in classes]
    made += [
        names.tier_chain_name(TierChainKey(tier, "ingress", policies))
        for tier in TIER_NAMES
        for policies in (some, other)
    ]
    made += [names.verdict_chain_name("deny", "ingress", (ref,)) for ref in {*some, *other}]
    assert len(set(made)) == len(made)
    assert max(map(len, made)) <= 255
    assert all(len(names.log_prefix("allow", "ingress", (ref,))) <= 127 for ref in some)


@pytest.mark.parametrize(
    ("words", "comment"),
    [
        pytest.param('pods a="b"', "pods a='b'", id="quotes are made single"),
        pytest.param("x" * 127, "x" * 127, id="127 bytes stay as they are"),
        pytest.param("x" * 128, "x" * 124 + "...", id="[21] 128 bytes are cut"),
        pytest.param("ü" * 64, "ü" * 62 + "...", id="never within a character"),
        pytest.param("no\nway\tout\r\0", "no way out  ", id="it stays one line, without characters that steer"),
        pytest.param("a\u2028b\u202ec\u200bd", "a b c d", id="nor any that Unicode has"),
        pytest.param("\ud800", " ", id="half a character is no character"),
        pytest.param("'\\*${}#;", "'\\*${}#;", id="what nft reads between quotes as it is stays"),
        pytest.param("🚫 no way", "🚫 no way", id="emoji stay"),
        pytest.param("𐍈" * 100, "𐍈" * 31 + "...", id="[21] a hundred characters of four bytes are cut"),
    ],
)
def test_comment(words: str, comment: str) -> None:
    assert names.comment(words) == comment
    assert len(comment.encode()) <= 127


@pytest.mark.parametrize(
    ("rule", "comment"),
    [
        pytest.param(CompiledRule(refs("shop", "db")[0], 2), "shop/db ingress[2]", id="a NetworkPolicy's"),
        pytest.param(
            CompiledRule(tiers("anp.a")[0], 0, action="deny"), "anp.a ingress[0]", id="a tier's without a name"
        ),
        pytest.param(
            CompiledRule(tiers("cnp.a")[0], 7, name="no metadata service"),
            "cnp.a ingress[7] 'no metadata service'",
            id="one with a name",
        ),
        pytest.param(
            CompiledRule(tiers("cnp.a")[0], 7, name='say "no"\nto all'),
            "cnp.a ingress[7] 'say 'no' to all'",
            id="a name of two lines with quotes",
        ),
    ],
)
def test_the_comment_of_a_rule_names_policy_and_index(rule: CompiledRule, comment: str) -> None:
    assert names.rule_comment("ingress", rule) == comment


@given(st.text(max_size=100), st.sampled_from(["a", LONGEST_NAME]), st.integers(0, 99))
def test_21_any_rule_name_results_in_a_comment_that_the_kernel_accepts(name: str, policy: str, index: int) -> None:
    written = names.rule_comment(
        "egress", CompiledRule(ObjectRef("ClusterNetworkPolicy", "", policy), index, name=name)
    )
    assert len(written.encode()) <= 127
    assert written.isprintable()
    assert '"' not in written
    assert policy != "a" or written.startswith(f"cnp.a egress[{index}]")


def test_equal_contents_share_a_name_and_others_do_not() -> None:
    web = Selector((Requirement("app", "In", ("web",)),))
    ten, eleven = parse_cidr("10.0.0.0/8"), parse_cidr("11.0.0.0/8")
    mixed: list[PodPeer | NodePeer] = [PodPeer(web, namespace="shop"), NodePeer(web)]
    contents: list[PodPeer | NodePeer | AnyOf | CIDRSet | NamedPorts] = [
        NodePeer(web),
        NodePeer(Selector()),
        PodPeer(web, namespace="shop"),
        PodPeer(web, namespace="ops"),
        PodPeer(web, namespaces=Selector()),
        PodPeer(Selector(), namespaces=web),
        any_of((PodPeer(web, namespace="shop"), PodPeer(web, namespace="ops"))),
        any_of(mixed),
        CIDRSet((ten,), "10.0.0.0/8"),
        CIDRSet((eleven,), "11.0.0.0/8"),
        NamedPorts("http", "tcp", None, local=True),
        NamedPorts("http", "udp", None, local=True),
        NamedPorts("http", "tcp", None, local=False),
        NamedPorts("http", "tcp", PodPeer(web, namespace="shop"), local=False),
        NamedPorts("http", "any", PodPeer(web, namespace="shop"), local=False),
        NamedPorts("http", "any", any_of((PodPeer(web, namespace="shop"), PodPeer(web, namespace="ops"))), local=False),
        NamedPorts("http", "any", CIDRSet((), "nodes app=web"), local=False),
    ]
    assert len({names.content_name(content, 4) for content in contents}) == len(contents)
    for content in contents:
        assert (
            names.content_name(deepcopy(content), 4) == names.content_name(content, 4) != names.content_name(content, 6)
        )


def test_the_order_in_which_peers_are_listed_makes_no_other_set() -> None:
    peers = [PodPeer(Selector(), namespace=name) for name in ("shop", "ops", "data")]
    assert len({names.content_name(any_of(tuple(order)), 4) for order in (peers, peers[::-1], [*peers, *peers])}) == 1


def test_ports_are_one_set_for_both_families_and_all_protocols() -> None:
    ranges = ((1, 1), (3, 9))
    found = {
        names.content_name(PortNumbers(protocol, ranges), family) for protocol in ("tcp", "udp") for family in FAMILIES
    }
    assert len(found) == 1
    assert found != {names.content_name(PortNumbers("tcp", ((1, 1),)), 4)}
