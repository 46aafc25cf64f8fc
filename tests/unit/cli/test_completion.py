"""`nfagent completion`: the script of each shell, run in it where this machine has the shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nfagent.cli import COMMANDS
from nfagent.config import load_settings
from nfagent.introspection.names_route import names_route
from nfagent.time_slices import TimeSlices
from tests.support.two_node_cluster import TwoNodeCluster, namespace, pod, policy
from tests.unit.cli.agents import introspection, running
from tests.unit.cli.called import Call

BASH = """
source /dev/stdin
COMP_WORDS=({words}) COMP_CWORD={last}
_nfagent_completion nfagent
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def completed(script: str, *words: str) -> list[str]:
    """Return what bash proposes for the last of these words."""
    line = BASH.format(words=" ".join(f"'{word}'" for word in words), last=len(words) - 1)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "NFAGENT_RUNTIME_DIR": load_settings().runtime_dir}
    done = subprocess.run(
        ["bash", "-c", line], input=script, env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "proposed"),
    [
        (("nfagent", "ex"), ["explain"]),
        (("nfagent", ""), list(COMMANDS)),
        (("nfagent", "lab", "de"), ["demo"]),
        (("nfagent", "dump", "c"), ["counters"]),
        (("nfagent", "render", "--mani"), ["--manifests"]),
        (("nfagent", "render", "-o", "n"), ["nft"]),
    ],
    ids=["a command", "every command", "a command of a group", "an argument", "an option", "the value of an option"],
)
def test_bash_completes(call: Call, words: tuple[str, ...], proposed: list[str]) -> None:
    found = call("completion", "bash")
    assert found.code == 0
    assert completed(found.out, *words) == proposed


@pytest.mark.parametrize(
    ("words", "proposed"),
    [
        (("explain", "shop/"), ["shop/db", "shop/web"]),
        (("explain", "shop/web", "shop/d"), ["shop/db"]),
        (("explain", ""), ["shop/", "test/"]),
        (("dump", "policies", "--pod", "te"), ["test/web"]),
        (("dump", "-n", "s"), ["shop"]),
        (("logs", "--policy", "shop/"), ["shop/p"]),
        (("try", "--filename", "x", "-n", "t"), ["test"]),
    ],
    ids=["a source", "a destination", "namespaces first", "a Pod", "a namespace", "a policy", "another command's"],
)
def test_bash_completes_names_from_the_running_agent(call: Call, words: tuple[str, ...], proposed: list[str]) -> None:
    documents = [pod("shop/web", "a", 10), pod("shop/db", "b", 11), pod("test/web", "a", 12), policy("shop/p")]
    scene = TwoNodeCluster(namespace("shop"), namespace("test"), *documents)
    desired = scene.views["a"]
    script = call("completion", "bash").out
    with running(introspection(desired), routes=[names_route(desired, TimeSlices())]):
        assert completed(script, "nfagent", *words) == proposed
    assert completed(script, "nfagent", *words) == [], "without an agent"


def test_an_agent_that_has_no_such_answer_completes_nothing(call: Call) -> None:
    script = call("completion", "bash").out
    with running(introspection(TwoNodeCluster().views["a"])):
        assert completed(script, "nfagent", "explain", "s") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_reads_its_script(call: Call, shell: str) -> None:
    found = call("completion", shell)
    assert (found.code, found.err) == (0, "")
    assert "_NFAGENT_COMPLETE" in found.out
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is missing; run: apt-get install {shell}")
    subprocess.run([shell, "-n"], input=found.out, text=True, check=True, timeout=60)


def test_zsh_finds_the_command_in_the_first_line(call: Call) -> None:
    assert call("completion", "zsh").out.splitlines()[0] == "#compdef nfagent"


def test_another_shell_is_refused_with_those_that_there_are(call: Call) -> None:
    found = call("completion", "tcsh")
    assert found.code == 2
    assert "'bash', 'zsh', 'fish'" in found.err
