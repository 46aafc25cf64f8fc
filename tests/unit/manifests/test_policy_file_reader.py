"""Policy files of `nfagent try`: what is read, what is rejected, and the messages."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from nfagent.errors import UsageError
from nfagent.manifests.policy_file_reader import MAX_BYTES, decode_policies, read_policy_files
from nfagent.simulate.policy_files import PolicyFile

POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: wall}
spec: {podSelector: {}}
"""
GUARD = """
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: guard}
spec: {priority: 1, subject: {namespaces: {}}}
"""
BROKEN = POLICY.replace("podSelector: {}", "podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]")
POD = "apiVersion: v1\nkind: Pod\nmetadata: {namespace: shop, name: web}\n"
DEPLOYMENT = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {namespace: shop, name: web}\n"
OLD = POLICY.replace("networking.k8s.io/v1", "networking.k8s.io/v1beta1")


def files(*texts: str) -> list[PolicyFile]:
    return [PolicyFile(f"{number}.yaml", text) for number, text in enumerate(texts, start=1)]


def test_policies_of_every_kind_are_read_from_all_files() -> None:
    given = decode_policies(files(POLICY, GUARD))
    assert [str(policy.ref) for policy in given.policies] == ["NetworkPolicy shop/wall", "AdminNetworkPolicy guard"]
    assert given.problems == ()


def test_a_policy_that_fails_closed_is_returned_with_its_issue() -> None:
    given = decode_policies(files(BROKEN))
    assert [policy.name for policy in given.policies] == ["wall"]
    [problem] = given.problems
    assert (problem.place, problem.value) == ("1.yaml:2", "10.0.0.0/33")


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ((f"{POLICY}---\n{POD}",), ["only policies can be tried", "Pod shop/web in 1.yaml:7", "--manifests"]),
        ((POLICY, DEPLOYMENT), ["apps/v1 Deployment in 2.yaml"]),
        ((*(POD.replace("web", f"web-{n}") for n in range(9)),), ["shop/web-4 in 5.yaml:1, 4 more;"]),
        ((POLICY, POLICY), ["NetworkPolicy shop/wall is given twice, in 1.yaml:2 and in 2.yaml:2; give it once"]),
        ((f"{POLICY}---{POLICY}",), ["is in this file twice"]),
        (("kind: [}\n",), ["1.yaml:1", "is not valid YAML"]),
        ((OLD,), ["1.yaml:2: NetworkPolicy shop/wall", "is not read for this kind", "nothing to try"]),
        ((POLICY.replace("name: wall", "name: Wall!"),), ["is not a valid name"]),
        (("# nothing\n",), ["hold no policy", "NetworkPolicy, AdminNetworkPolicy"]),
        ((), ["hold no policy"]),
    ],
    ids=[
        "a kind that is read",
        "a kind that isn't",
        "many of them",
        "twice in two files",
        "twice in one file",
        "no YAML",
        "another version",
        "no name",
        "nothing in it",
        "no file",
    ],
)
def test_objects_that_can_not_be_tried_are_named_in_the_error(texts: tuple[str, ...], words: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        decode_policies(files(*texts))
    assert [word for word in words if word not in str(refused.value)] == []


def test_files_folders_and_standard_input_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "more" / "deep").mkdir(parents=True)
    (tmp_path / "one.yaml").write_text("1")
    (tmp_path / "more" / "two.yml").write_text("2")
    (tmp_path / "more" / "deep" / "three.json").write_text("3")
    for ignored in ("readme.txt", ".hidden.yaml"):
        (tmp_path / "more" / ignored).write_text("no")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"4")))
    found = read_policy_files([str(tmp_path / "one.yaml"), str(tmp_path / "more"), "-"])
    assert [(Path(file.name).name, file.text) for file in found] == [
        ("one.yaml", "1"),
        ("three.json", "3"),
        ("two.yml", "2"),
        ("stdin", "4"),
    ]


@pytest.mark.parametrize(
    ("content", "paths", "words"),
    [
        (b"", ["nowhere.yaml"], "nowhere.yaml can't be read: No such file or directory"),
        (b"a\n\xff", ["file.yaml"], "file.yaml:2: is not UTF-8 text"),
        (b"x" * (MAX_BYTES + 1), ["file.yaml"], "more than 1024 KiB"),
        (b"", ["."], "there are no manifests in this folder"),
        (b"", ["-", "-"], "standard input can be read only once"),
    ],
    ids=["a file that isn't there", "no text", "too much", "an empty folder", "standard input twice"],
)
def test_errors_of_unreadable_files_tell_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, paths: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if content:
        (tmp_path / "file.yaml").write_bytes(content)
    with pytest.raises(UsageError, match=words):
        read_policy_files(paths)


def test_only_regular_files_of_a_folder_are_read(tmp_path: Path) -> None:
    (tmp_path / "wall.yaml").write_text(POLICY)
    (tmp_path / "z.yaml").symlink_to("/proc/kmsg")
    with pytest.raises(UsageError, match=r"z\.yaml is in a file system of the kernel's own"):
        read_policy_files([str(tmp_path)])
