"""`nfagent completion`: the script of each shell, run in it where this machine has the shell."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

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


_T = TypeVar("_T")
_TRIES = 10


def in_time(ask: Callable[[], _T], nothing: object) -> _T:
    """Return what a shell proposes; it is asked again where it has `nothing`: the agent has two seconds to answer."""
    found = ask()
    for _ in range(_TRIES):
        found = found if found != nothing else ask()
    return found


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
        assert in_time(partial(completed, script, "nfagent", *words), []) == proposed
    assert completed(script, "nfagent", *words) == [], "without an agent"


FISH_AND_ZSH = [
    ("nfagent exp", "explain"),
    ("nfagent lab de", "demo"),
    ("nfagent dump coun", "counters"),
    ("nfagent render --mani", "--manifests"),
    ("nfagent render -o nf", "nft"),
    ("nfagent explain test/", "test/web"),
    ("nfagent explain shop/web shop/d", "shop/db"),
    ("nfagent logs --policy shop/", "shop/p"),
    ("nfagent dump -n te", "test"),
]
"""Lines with the one word that fits their end."""


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    home = load_settings().runtime_dir  # a folder of the test
    Path(home).mkdir(parents=True, exist_ok=True)
    return {"PATH": path, "NFAGENT_RUNTIME_DIR": home, "HOME": home, "TERM": "dumb", "PS1": "", "COLUMNS": "200"}


def needs(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is missing; run: apt-get install {shell}")


@contextmanager
def named_agent() -> Iterator[None]:
    """Run an agent that knows Pods and a policy."""
    documents = [pod("shop/web", "a", 10), pod("shop/db", "b", 11), pod("test/web", "a", 12), policy("shop/p")]
    desired = TwoNodeCluster(namespace("shop"), namespace("test"), *documents).views["a"]
    with running(introspection(desired), routes=[names_route(desired, TimeSlices())]):
        yield


def fish_proposes(script: Path, line: str) -> list[str]:
    """Return what fish proposes for a line, each with its description behind a tab."""
    words = ["fish", "--no-config", "-c", "source $argv[1]; complete --do-complete $argv[2]", str(script), line]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.splitlines()


def test_fish_completes(call: Call, tmp_path: Path) -> None:
    needs("fish")
    script = tmp_path / "nfagent.fish"
    script.write_text(call("completion", "fish").out)
    with named_agent():
        for line, word in FISH_AND_ZSH:
            assert [each.partition("\t")[0] for each in in_time(partial(fish_proposes, script, line), [])] == [word], (
                line
            )
        found = [each.partition("\t")[0] for each in fish_proposes(script, "nfagent ")]
        assert sorted(found) == sorted(COMMANDS)
        assert in_time(partial(fish_proposes, script, "nfagent explain "), []) == ["shop/", "test/"]


def test_a_description_in_fish_goes_on_behind_a_comma(call: Call, tmp_path: Path) -> None:
    needs("fish")
    script = tmp_path / "nfagent.fish"
    script.write_text(call("completion", "fish").out)
    found = fish_proposes(script, "nfagent ")
    assert any(each.startswith("bundle\tWrite state, rules") for each in found), found


def zsh_types(folder: Path, line: str) -> str:
    """Return what stands in zsh's line after Tab: its own line editor, on a terminal of the test."""
    setup = "unsetopt zle_bracketed_paste prompt_cr prompt_sp; PS1=; fpath=($FOLDER $fpath); autoload -Uz compinit; "
    setup += "compinit -u -D; show() { print -r -- \"<$BUFFER>\"; exit }; zle -N show; bindkey '^X' show; print ready\n"
    process, terminal = pty.fork()
    if process == 0:
        os.execvpe("zsh", ["zsh", "-f", "-i"], environment() | {"FOLDER": str(folder)})  # noqa: S606
    try:
        os.write(terminal, setup.encode())
        read_until(terminal, "\nready")
        os.write(terminal, f"{line}\t\x18".encode())
        return read_until(terminal, ">\r\n").rpartition("<")[2].partition(">")[0]
    finally:
        os.close(terminal)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def read_until(terminal: int, end: str) -> str:
    """Read from a terminal until a text came, 60 s at most."""
    found, deadline = "", time.monotonic() + 60
    while end not in found:
        ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"{end!r} didn't come behind {found!r}"
        found += os.read(terminal, 65_536).decode(errors="replace")
    return found


def test_zsh_completes(call: Call, tmp_path: Path) -> None:
    needs("zsh")
    (tmp_path / "_nfagent").write_text(call("completion", "zsh").out)
    with named_agent():
        for line, word in FISH_AND_ZSH:
            assert in_time(partial(zsh_types, tmp_path, line), line) == f"{line.rpartition(' ')[0]} {word} "
    desired = TwoNodeCluster(namespace("shop"), pod("shop/web", "a", 10), pod("shop/db", "b", 11)).views["a"]
    with running(introspection(desired), routes=[names_route(desired, TimeSlices())]):
        line = "nfagent explain "
        assert in_time(partial(zsh_types, tmp_path, line), line) == "nfagent explain shop/", "no space: it goes on"


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
