"""Rules of other programs that log to an NFLOG group, in the text of iptables-save."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.nftables.foreign_logs import LogUse, describe_uses, logs_in_save


@pytest.mark.parametrize(
    ("rule", "counts"),
    [
        pytest.param("-j NFLOG --nflog-group 100", True, id="the group"),
        pytest.param('-j NFLOG --nflog-prefix "a b" --nflog-group 100 --nflog-size 96', True, id="among other options"),
        pytest.param("-j NFLOG --nflog-group 10", False, id="another group"),
        pytest.param("-j NFLOG --nflog-group 1000", False, id="a group that begins alike"),
        pytest.param("-j NFLOG", False, id="no group is group 0"),
        pytest.param("-j NFLOG --nflog-group x", True, id="a group that can't be read counts"),
        pytest.param("-j LOG --log-prefix x", False, id="the kernel's log"),
        pytest.param("-j NFLOGGER --nflog-group 100", False, id="a chain whose name begins alike"),
    ],
)
def test_a_rule_of_iptables_logs_to_group_100(rule: str, *, counts: bool) -> None:
    saved = f"# Generated\n*filter\n:INPUT ACCEPT [0:0]\n-A INPUT {rule}\nCOMMIT\n"
    use = LogUse("iptables-legacy, table filter, chain INPUT", f"-A INPUT {rule}")
    assert list(logs_in_save(saved, "iptables-legacy", 100)) == ([use] if counts else [])


def test_without_a_group_it_is_group_0() -> None:
    assert len(list(logs_in_save("*filter\n-A INPUT -j NFLOG\n", "iptables-legacy", 0))) == 1


@given(st.lists(st.sampled_from(["*filter", "-A ", "-A X", "INPUT", " -j NFLOG", " --nflog-group ", "100", "\n", "²"])))
def test_any_text_gives_uses(parts: list[str]) -> None:
    assert all(use.rule.startswith("-A ") for use in logs_in_save("".join(parts), "iptables-legacy", 100))


def test_the_sentence_names_the_first_rule_and_counts_the_others() -> None:
    first, other = LogUse("table ip t, chain c", "handle 2"), LogUse("table ip t, chain d", "handle 3")
    assert describe_uses(100, [first]).startswith(
        "other programs log to NFLOG group 100 too: table ip t, chain c, `handle 2`; set another group"
    )
    assert "`handle 2` and 2 more rules; " in describe_uses(100, [first, other, other])
