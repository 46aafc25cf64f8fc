"""A folder of manifests: the index without a disk, then a real folder under all common methods of writing files."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfagent.errors import UsageError, ValidationIssue
from nfagent.manifests.folder_listing import is_manifest
from nfagent.manifests.folder_scan import read_folder
from nfagent.manifests.follower import FolderReader, follow
from nfagent.manifests.index import FileReading, ManifestIndex
from nfagent.manifests.inotify import lookup_path
from nfagent.model.gvk import Item, ObjectChange
from nfagent.model.objects import ObjectRef, Pod
from tests.support.full_selector import FullSelector, run_with

DEADLINE = 60.0
WEB, DB = ObjectRef("Pod", "shop", "web"), ObjectRef("Pod", "shop", "db")


def pod(name: str = "web", node: str = "a", **more: str) -> str:
    """Write a Pod's manifest; its node tells versions apart."""
    status = f"status: {{podIP: {more['ip']}}}\n" if "ip" in more else ""
    head = f"apiVersion: v1\nkind: Pod\nmetadata: {{namespace: shop, name: {name}}}\n"
    return f"{head}spec: {{nodeName: {node}}}\n{status}"


def together(*texts: str) -> str:
    return "---\n".join(texts)


BROKEN = "a: [\n"
REJECTED = pod().replace("apiVersion: v1\n", "apiVersion: v1beta1\n")


def brief(events: Iterable[ObjectChange | None]) -> list[str]:
    """Write events as `shop/web@a` and `-shop/web`."""
    return [
        f"-{event.path}" if isinstance(event, ObjectRef) else f"{event.ref.path}@{event.node}"
        for event in events
        if isinstance(event, ObjectRef | Pod)
    ]


def said(folder: ManifestIndex) -> list[str]:
    return [str(problem) for problem in folder.problems]


def folder_of(**texts: str) -> ManifestIndex:
    folder = ManifestIndex()
    for name, text in texts.items():
        folder.update(f"{name}.yaml", text)
    return folder


class TestIndex:
    def test_objects_are_added_changed_and_removed_with_their_file(self) -> None:
        folder = ManifestIndex()
        assert brief(folder.update("f.yaml", together(pod("web"), pod("db")))) == ["shop/db@a", "shop/web@a"]
        assert brief(folder.update("f.yaml", together(pod("web", "b"), pod("db")))) == ["shop/web@b"]
        assert brief(folder.update("f.yaml", pod("web", "b"))) == ["-shop/db"]
        assert brief(folder.update("f.yaml", None)) == ["-shop/web"]
        assert (folder.names, folder.digests, folder.problems) == (frozenset(), {}, ())

    def test_unchanged_content_makes_no_event(self) -> None:
        folder = folder_of(f=pod())
        assert folder.update("f.yaml", pod()) == []
        assert folder.update("f.yaml", f"# moved\n{pod()}") == []

    def test_removing_an_unknown_file_makes_no_event(self) -> None:
        assert ManifestIndex().update("f.yaml", None) == []

    def test_an_invalid_file_keeps_its_last_good_content_until_it_is_fixed_or_gone(self) -> None:
        folder = folder_of(f=pod())
        assert folder.update("f.yaml", BROKEN) == []
        assert said(folder) == [
            (
                "f.yaml:2: is not valid YAML: while parsing a flow node did not find expected node content; what it "
                "held before stays in force"
            )
        ]
        assert brief(folder.update("f.yaml", pod(node="b"))) == ["shop/web@b"]
        assert said(folder) == []
        folder.update("f.yaml", BROKEN)
        assert brief(folder.update("f.yaml", None)) == ["-shop/web"]
        assert said(folder) == []

    def test_an_invalid_file_that_gets_its_old_content_is_fixed(self) -> None:
        folder = folder_of(f=pod())
        folder.update("f.yaml", BROKEN)
        assert folder.update("f.yaml", pod()) == []
        assert said(folder) == []

    def test_a_file_that_can_not_be_read_keeps_its_last_good_content(self) -> None:
        folder = folder_of(f=pod())
        assert folder.update("f.yaml", ValidationIssue(place="f.yaml", reason="can't be read: I/O error")) == []
        assert said(folder) == ["f.yaml: can't be read: I/O error; what it held before stays in force"]
        assert folder.update("f.yaml", pod()) == []
        assert said(folder) == []

    def test_a_file_that_was_never_valid_has_only_an_issue(self) -> None:
        folder = folder_of(f=BROKEN)
        assert folder.names == {"f.yaml"}
        assert folder.update("f.yaml", None) == []
        assert folder.names == frozenset()

    def test_a_rejected_object_keeps_its_last_good_version_and_others_change(self) -> None:
        folder = folder_of(f=together(pod("web"), pod("db")))
        assert brief(folder.update("f.yaml", together(REJECTED, pod("db", "b")))) == ["shop/db@b"]
        (problem,) = said(folder)
        assert problem.startswith("f.yaml:1: Pod shop/web: apiVersion 'v1beta1': is not read for this kind")
        assert folder.update("f.yaml", together(REJECTED, "\n", pod("db", "b"))) == [], "however often"
        assert brief(folder.update("f.yaml", pod("db", "b"))) == ["-shop/web"]

    def test_a_partly_readable_object_makes_an_event_and_an_issue(self) -> None:
        folder = folder_of(f=pod())
        assert brief(folder.update("f.yaml", pod(node="b", ip="nonsense"))) == ["shop/web@b"]
        (problem,) = said(folder)
        assert problem.startswith("f.yaml:1: Pod shop/web: status.podIP 'nonsense': is not an IP address; write one")
        assert brief(folder.update("f.yaml", pod(node="b"))) == ["shop/web@b"]
        assert said(folder) == []

    def test_an_object_that_was_never_valid_is_absent(self) -> None:
        folder = ManifestIndex()
        assert folder.update("f.yaml", REJECTED) == []
        assert brief(folder.update("f.yaml", pod())) == ["shop/web@a"]

    def test_a_policy_that_can_not_be_compiled_makes_an_event_and_an_issue(self) -> None:
        text = (
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {namespace: shop, name: p}\n"
            "spec: {podSelector: {matchExpressions: [{key: app, operator: Like}]}}\n"
        )
        folder = ManifestIndex()
        (event,) = folder.update("f.yaml", text)
        assert getattr(event, "problem", None) is not None
        (problem,) = said(folder)
        where = "f.yaml:1: NetworkPolicy shop/p: spec.podSelector.matchExpressions[0].operator 'Like'"
        assert problem == f"{where}: is not an operator; write In, NotIn, Exists or DoesNotExist"

    @pytest.mark.parametrize(
        ("now", "reason"),
        [
            pytest.param(
                pod().replace("kind: Pod", "kind: Pood"), "did you mean Pod (apiVersion v1)?", id="a misspelt kind"
            ),
            pytest.param(pod().replace("kind: Pod", "kind: Quux"), "nfagent reads Namespace,", id="an unknown kind"),
            pytest.param(pod().replace("v1", "v2"), "write it as v1 has it", id="another version of its group"),
            pytest.param(pod().replace("v1", "extensions/v1"), "write v1", id="a group that never had it"),
            pytest.param(pod().replace("kind: Pod", ""), "write apiVersion and kind", id="no kind"),
            pytest.param(pod().replace("apiVersion: v1", ""), "write apiVersion and kind", id="no apiVersion"),
            pytest.param(pod().replace("kind: Pod", "kind: 5"), "write apiVersion and kind", id="a number as kind"),
            pytest.param(pod().replace("spec:", "sepc:"), "sepc: is not a field here", id="misspelt spec"),
            pytest.param(
                pod().replace("name: web", "name: web, label: {a: b}"), "is not a field here", id="misspelt labels"
            ),
        ],
    )
    def test_an_object_whose_new_version_is_not_readable_stays_in_force_with_an_issue(
        self, now: str, reason: str
    ) -> None:
        folder = folder_of(f=together(pod("web"), pod("db")))
        assert brief(folder.update("f.yaml", together(now, pod("db", "b")))) == ["shop/db@b"]
        (problem,) = said(folder)
        assert reason in problem
        assert problem.endswith("; its last good version stays in force")
        assert brief(folder.update("f.yaml", pod("db", "b"))) == ["-shop/web"]

    @pytest.mark.parametrize(
        "unnamed",
        [
            "nonsense",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: 5}",
            "[a, b]",
            pod().replace("name: web", "name: Web"),
            pod().replace("namespace: shop", "namespace: [shop]"),
            pod().replace("namespace: shop", "namespace: Shop"),
            pod().replace("namespace: shop", "nameSpace: shop"),
            "apiVersion: v1\nkind: List\nItems: []\n",
            "apiVersion: v1\nkind: List\nitmes: []",
        ],
    )
    def test_a_document_about_an_unknown_object_removes_no_object(self, unnamed: str) -> None:
        folder = folder_of(f=together(pod("web"), pod("db")))
        assert brief(folder.update("f.yaml", together(pod("db", "b"), unnamed))) == ["shop/db@b"]
        assert "f.yaml: holds a document about an unknown object: all its previous objects (1) stay in force" in (
            said(folder)
        )
        assert brief(folder.update("f.yaml", pod("db", "b"))) == ["-shop/web"]

    def test_a_policy_whose_spec_is_misspelt_stays_in_force_with_one_issue(self) -> None:
        head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {namespace: shop, name: db}\n"
        folder = folder_of(f=f"{head}spec: {{podSelector: {{}}, policyTypes: [Egress]}}\n")
        assert folder.update("f.yaml", f"{head}sepc: {{podSelector: {{}}, policyTypes: [Egress]}}\n") == []
        (problem,) = said(folder)
        assert problem.startswith("f.yaml:1: NetworkPolicy shop/db: sepc: is not a field here; write only apiVersion,")
        assert problem.endswith("spec and status; its last good version stays in force")

    def test_a_masquerade_list_whose_namespace_is_misspelt_stays_in_force_with_an_issue(self) -> None:
        text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {namespace: kube-system, name: ip-masq-agent}\n"
        folder = folder_of(f=f"{text}data: {{config: 'nonMasqueradeCIDRs: []'}}\n")
        assert folder.update("f.yaml", text.replace("namespace:", "namespce:")) == []
        assert ["metadata.namespce" in problem for problem in said(folder)] == [False, True]

    def test_an_object_that_can_not_be_read_in_the_file_that_it_moves_to_stays_in_force(self, tmp_path: Path) -> None:
        known = ManifestIndex()
        (tmp_path / "f.yaml").write_text(pod())
        read_folder(tmp_path, known)
        (tmp_path / "f.yaml").unlink()
        (tmp_path / "g.yaml").write_text(REJECTED)
        assert brief(read_folder(tmp_path, known)) == ["-shop/web", "shop/web@a"]
        assert known.holder(WEB) == "g.yaml"

    @pytest.mark.parametrize("text", [BROKEN, "nonsense", pod().replace("name: web", "name: Web")])
    def test_an_object_that_left_its_file_stays_in_force_in_a_new_unreadable_file(
        self, tmp_path: Path, text: str
    ) -> None:
        known = ManifestIndex()
        (tmp_path / "f.yaml").write_text(together(pod("web"), pod("db")))
        (tmp_path / "g.yaml").write_text(pod("cache"))
        read_folder(tmp_path, known)
        (tmp_path / "f.yaml").unlink()
        (tmp_path / "a.yaml").write_text(text)
        (tmp_path / "h.yaml").write_text(pod("db", "b"))
        assert brief(read_folder(tmp_path, known)) == ["-shop/db", "-shop/web", "shop/web@a", "shop/db@b"]
        assert known.holder(WEB) == "a.yaml"
        kept = "a.yaml: may hold objects of files that are gone: all of these (1) stay in force"
        assert kept in said(known)
        (tmp_path / "a.yaml").write_text(f"{BROKEN}b: [\n")
        assert read_folder(tmp_path, known) == []
        (tmp_path / "a.yaml").write_text(pod("web", "b"))
        assert brief(read_folder(tmp_path, known)) == ["shop/web@b"]
        assert said(known) == []

    def test_an_object_that_left_its_file_before_the_start_stays_in_force_in_an_unreadable_file(
        self, tmp_path: Path
    ) -> None:
        [item] = ManifestIndex().update("f.yaml", pod("web"))
        assert isinstance(item, Pod)
        (tmp_path / "g.yaml").write_text(BROKEN)
        known = ManifestIndex({"f.yaml": {WEB: item}})
        assert brief(read_folder(tmp_path, known)) == ["shop/web@a"]

    def test_of_one_object_in_several_files_the_first_is_used_and_every_other_is_an_issue(self) -> None:
        folder = folder_of(b=pod(node="b"))
        assert folder.update("a.yaml", pod(node="a")) == []
        folder.update("c.yaml", f"\n{pod(node='c')}")
        assert said(folder) == [
            "a.yaml:1: Pod shop/web: is also in b.yaml:1, which is used; delete one of the two",
            "c.yaml:2: Pod shop/web: is also in b.yaml:1, which is used; delete one of the two",
        ]

    def test_when_the_file_in_force_is_removed_the_next_is_used(self) -> None:
        folder = folder_of(b=pod(node="b"), a=pod(node="a"), c=pod(node="c"))
        assert folder.update("a.yaml", pod(node="a2")) == []
        assert brief(folder.update("b.yaml", None)) == ["shop/web@a2"]
        assert brief(folder.update("a.yaml", pod("db"))) == ["shop/db@a", "shop/web@c"]
        assert said(folder) == []

    def test_a_rejected_version_in_the_file_in_force_keeps_the_last_good_one(self) -> None:
        folder = folder_of(a=pod(node="a"), b=pod(node="b"))
        assert folder.update("a.yaml", REJECTED) == []
        assert brief(folder.update("a.yaml", None)) == ["shop/web@b"]

    def test_ignored_kinds_are_listed_until_the_last_file_with_them_is_removed(self) -> None:
        event = "apiVersion: v1\nkind: Event\nmetadata: {name: x}\n"
        folder = folder_of(a=event, b=event)
        assert folder.ignored == {"v1 Event"}
        folder.update("a.yaml", None)
        folder.update("b.yaml", None)
        assert folder.ignored == frozenset()

    @pytest.mark.parametrize(
        ("version", "kind", "right"),
        [
            ("nfagent.dev/v1", "NetworkLogging", "networking.gke.io/v1alpha1"),
            ("example.com/v1", "Pod", "v1"),
            ("example.com/v1", "NetworkPolicy", "networking.k8s.io/v1"),
        ],
    )
    def test_a_kind_that_is_read_under_an_unknown_group_is_said_to_be_ignored(
        self, version: str, kind: str, right: str
    ) -> None:
        text = f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: default}}\n"
        folder = folder_of(a=text, b=text)
        (issue,) = folder.foreign
        assert (issue.place, issue.object, issue.value) == ("a.yaml", kind, version)
        assert issue.reason.endswith(f"so the object is ignored; of this kind nfagent reads apiVersion {right}")
        assert said(folder) == []
        folder.update("a.yaml", None)
        assert [problem.place for problem in folder.foreign] == ["b.yaml"]

    @pytest.mark.parametrize(
        "kind",
        [
            *("apps/v1 Deployment", "example.com/v1 Sprocket", "cilium.io/v2 CiliumNetworkPolicy", "v1 Secret"),
            *("projectcalico.org/v3 NetworkPolicy", "crd.antrea.io/v1beta1 NetworkPolicy"),
            *("serving.knative.dev/v1 Service", "networking.k8s.aws/v1alpha1 ClusterNetworkPolicy"),
        ],
    )
    def test_nothing_is_said_of_kinds_of_other_software(self, kind: str) -> None:
        version, _, name = kind.partition(" ")
        folder = folder_of(a=f"apiVersion: {version}\nkind: {name}\nmetadata: {{name: x}}\n")
        assert (folder.ignored, folder.foreign) == (frozenset({kind}), ())

    def test_the_digest_is_that_of_the_last_text_valid_or_not(self) -> None:
        folder = folder_of(f=pod())
        good = folder.digests["f.yaml"]
        folder.update("f.yaml", BROKEN)
        assert folder.digests["f.yaml"] != good
        folder.update("f.yaml", pod())
        assert folder.digests["f.yaml"] == good

    @pytest.mark.parametrize(
        ("before", "text", "unsettled"),
        [
            pytest.param(pod(), "", True, id="empty, previously valid"),
            pytest.param(pod(), BROKEN, True, id="invalid, previously valid"),
            pytest.param(pod(), pod("db"), False, id="valid again"),
            pytest.param(None, "", False, id="empty from the start"),
            pytest.param(BROKEN, BROKEN, False, id="never valid"),
        ],
    )
    def test_a_file_looks_half_written(self, before: str | None, text: str, *, unsettled: bool) -> None:
        folder = ManifestIndex()
        folder.update("f.yaml", before)
        reading = folder.read("f.yaml", text)
        assert (reading is not None and reading.maybe_partial) is unsettled


@pytest.mark.parametrize(
    ("path", "is_relevant"),
    [
        ("cluster.yaml", True),
        ("team/shop/pods.yml", True),
        ("list.json", True),
        ("README.md", False),
        ("pods.yaml~", False),
        (".pods.yaml.swp", False),
        (".pods.yaml", False),
        ("..data/pods.yaml", False),
        ("..2026_11_23/pods.yaml", False),
    ],
)
def test_manifest_names(path: str, *, is_relevant: bool) -> None:
    assert is_manifest(Path("/etc/.hidden"), Path("/etc/.hidden", path)) is is_relevant


VERSIONS = [
    "",
    BROKEN,
    REJECTED,
    pod("web", "a"),
    pod("web", "b"),
    together(pod("web", "c"), pod("db", "c")),
    together(pod("db", "d"), REJECTED),
    together(pod("db", "e"), pod("db", "f")),
]
UPDATES = st.lists(st.tuples(st.sampled_from(["a.yaml", "b.yaml", "c.yaml"]), st.sampled_from([None, *VERSIONS])))


@settings(max_examples=100)
@given(UPDATES)
def test_replayed_events_give_the_objects_of_all_files(updates: list[tuple[str, str | None]]) -> None:
    folder, replayed = ManifestIndex(), dict[ObjectRef, ObjectChange]()
    good: dict[str, dict[ObjectRef, str]] = {}
    holders: dict[ObjectRef, list[str]] = {}
    for name, text in updates:
        for event in folder.update(name, text):
            ref = event if isinstance(event, ObjectRef) else event.ref
            replayed.pop(ref, None)
            if not isinstance(event, ObjectRef):
                replayed[ref] = event
        expect(good, holders, name, text)
        assert {ref: brief([event])[0] for ref, event in replayed.items()} == {
            ref: f"{ref.path}@{good[names[0]][ref]}" for ref, names in holders.items() if names
        }


def expect(
    good: dict[str, dict[ObjectRef, str]], holders: dict[ObjectRef, list[str]], name: str, text: str | None
) -> None:
    """Return the expected state: the last good version of each object in each file; the first file is used."""
    last = good.get(name, {})
    if text == BROKEN or (text == "" and last):
        return
    kept = {WEB: last[WEB]} if text is not None and REJECTED in text and WEB in last else {}
    nodes: dict[str, dict[ObjectRef, str]] = {
        VERSIONS[3]: {WEB: "a"},
        VERSIONS[4]: {WEB: "b"},
        VERSIONS[5]: {WEB: "c", DB: "c"},
        VERSIONS[6]: {DB: "d"},
        VERSIONS[7]: {DB: "e"},
    }
    good[name] = kept | nodes.get(text or "", {})
    for ref in (WEB, DB):
        names = holders.setdefault(ref, [])
        if ref in good[name] and name not in names:
            names.append(name)
        elif ref not in good[name] and name in names:
            names.remove(name)


class TestReadFolder:
    def test_files_of_subfolders_are_named_by_path_and_removed_files_remove_objects(self, tmp_path: Path) -> None:
        (tmp_path / "team").mkdir()
        (tmp_path / "team" / "web.yml").write_text(pod())
        (tmp_path / "db.json").write_text('{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "db"}}')
        (tmp_path / "notes.txt").write_text(BROKEN)
        known = ManifestIndex()
        assert brief(read_folder(tmp_path, known)) == ["default/db@", "shop/web@a"]
        assert set(known.digests) == {"db.json", "team/web.yml"}
        (tmp_path / "db.json").unlink()
        assert brief(read_folder(tmp_path, known)) == ["-default/db"]

    def test_a_renamed_file_keeps_its_objects(self, tmp_path: Path) -> None:
        known = ManifestIndex()
        (tmp_path / "b.yaml").write_text(pod())
        read_folder(tmp_path, known)
        (tmp_path / "b.yaml").rename(tmp_path / "a.yaml")
        assert brief(read_folder(tmp_path, known)) == ["-shop/web", "shop/web@a"]
        assert said(known) == []

    def test_a_folder_may_be_named_like_a_manifest_and_other_file_types_are_issues(self, tmp_path: Path) -> None:
        (tmp_path / "folder.yaml").mkdir()
        os.mkfifo(tmp_path / "pipe.yaml")
        known = ManifestIndex()
        assert read_folder(tmp_path, known) == []
        assert said(known) == ["pipe.yaml: is a FIFO; put a regular file there, or delete it"]

    def test_a_dangling_link_is_an_issue_and_keeps_the_last_good_content(self, tmp_path: Path) -> None:
        known = ManifestIndex()
        (tmp_path / "f.yaml").write_text(pod())
        (tmp_path / "g.yaml").symlink_to("nowhere")
        read_folder(tmp_path, known)
        (tmp_path / "f.yaml").unlink()
        (tmp_path / "f.yaml").symlink_to("f.yaml")
        assert read_folder(tmp_path, known) == []
        assert said(known) == [
            "f.yaml: is a link that leads in a circle; fix it, or delete it; what it held before stays in force",
            "g.yaml: is a link that leads nowhere; fix it, or delete it",
        ]
        (tmp_path / "f.yaml").unlink()
        (tmp_path / "g.yaml").unlink()
        assert brief(read_folder(tmp_path, known)) == ["-shop/web"]
        assert said(known) == []

    def test_text_that_is_not_utf_8_is_an_issue_and_keeps_the_last_good_content(self, tmp_path: Path) -> None:
        known = ManifestIndex()
        (tmp_path / "f.yaml").write_text(pod())
        read_folder(tmp_path, known)
        (tmp_path / "f.yaml").write_bytes(b"a: b\nc: \xff\n")
        assert read_folder(tmp_path, known) == []
        assert said(known) == ["f.yaml:2: is not UTF-8 text; what it held before stays in force"]

    def test_a_name_that_is_not_utf_8_can_be_shown(self, tmp_path: Path) -> None:
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.yaml"))).write_text(BROKEN)
        known = ManifestIndex()
        read_folder(tmp_path, known)
        assert [problem.place for problem in known.problems] == [r"\xff.yaml:2"]

    @pytest.mark.parametrize("kind", ["nothing", "a file"])
    def test_a_path_that_is_no_folder_is_a_usage_error(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "manifests"
        if kind == "a file":
            path.touch()
        with pytest.raises(UsageError, match=r"manifests is not a folder; give a folder of manifests with --manifests"):
            read_folder(path, ManifestIndex())


class TestLastGood:
    """The previous process's checkpoint by file, and the files as they are now."""

    def before(self, **files: str) -> ManifestIndex:
        read = {f"{name}.yaml": ManifestIndex().update(f"{name}.yaml", text) for name, text in files.items()}
        return ManifestIndex(
            {name: {item.ref: item for item in items if isinstance(item, Pod)} for name, items in read.items()}
        )

    @pytest.mark.parametrize(
        ("now", "holds"),
        [
            pytest.param(BROKEN, ["shop/db@a", "shop/web@a"], id="a file that doesn't parse keeps all objects"),
            pytest.param(
                together(REJECTED, pod("db", "b")),
                ["shop/db@b", "shop/web@a"],
                id="a rejected object is kept",
            ),
            pytest.param(pod("db", "b"), ["shop/db@b"], id="an object that is gone is removed"),
            pytest.param(None, [], id="a file that is gone is removed"),
            pytest.param("nonsense", ["shop/db@a", "shop/web@a"], id="an unknown document keeps all objects"),
        ],
    )
    def test_it_is_in_force_for_what_can_not_be_read(self, tmp_path: Path, now: str | None, holds: list[str]) -> None:
        known = self.before(f=together(pod("web"), pod("db")))
        (tmp_path / "other.yaml").write_text("# nothing")
        if now is not None:
            (tmp_path / "f.yaml").write_text(now)
        assert brief(read_folder(tmp_path, known)) == holds
        known.forget_last_good()
        (tmp_path / "f.yaml").unlink(missing_ok=True)
        assert brief(read_folder(tmp_path, known)) == sorted(f"-{name.partition('@')[0]}" for name in holds)

    def test_it_is_in_force_in_another_file_only_where_its_own_is_gone(self, tmp_path: Path) -> None:
        (tmp_path / "g.yaml").write_text(REJECTED)
        assert brief(read_folder(tmp_path, self.before(f=pod()))) == ["shop/web@a"]
        (tmp_path / "f.yaml").write_text(pod("db"))
        assert brief(read_folder(tmp_path, self.before(f=pod()))) == ["shop/db@a"]


class Follower:
    """The events of a folder's follower so far."""

    def __init__(self, folder: Path, known: ManifestIndex | None = None, disk: FolderReader | None = None) -> None:
        self.folder = folder
        self.disk = disk
        self.known = known or ManifestIndex()
        self.told: list[str] = []
        self.batches = 0
        self.stop = asyncio.Event()
        self._news = asyncio.Condition()

    @property
    def state(self) -> set[str]:
        """Return the objects after all events."""
        there: dict[str, str] = {}
        for event in self.told:
            name, _, node = event.removeprefix("-").partition("@")
            there.pop(name, None)
            if not event.startswith("-"):
                there[name] = node
        return {f"{name}@{node}" for name, node in there.items()}

    async def run(self, scan_seconds: float) -> None:
        async for events in follow(self.folder, self.known, self.stop, scan_seconds, self.disk):
            async with self._news:
                self.told += brief(events)
                self.batches += 1
                self._news.notify_all()

    async def until(self, wanted: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE), self._news:
            await self._news.wait_for(wanted)

    async def holds(self, *pods: str) -> None:
        await self.until(lambda: self.state == set(pods))

    async def complains(self, *problems: str) -> None:
        await self.until(lambda: said(self.known) == list(problems))


@asynccontextmanager
async def following(
    folder: Path, scan_seconds: float = 60.0, known: ManifestIndex | None = None, disk: FolderReader | None = None
) -> AsyncIterator[Follower]:
    follower = Follower(folder, known, disk)
    task = asyncio.create_task(follower.run(scan_seconds))
    try:
        await follower.until(lambda: follower.batches > 0 or not folder.exists())
        yield follower
        follower.stop.set()
        async with asyncio.timeout(DEADLINE):
            await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def replace(path: Path, text: str) -> None:
    """Write as kubectl, editors and configuration management do: to another file, then renamed."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text)
    beside.rename(path)


def swap(folder: Path, name: str, text: str | None) -> None:
    """Replace a folder by another with one file, or none without text."""
    if folder.exists():
        folder.rename(folder.with_name(f"{folder.name}-before"))
    if text is not None:
        beside = folder.with_name(f"{folder.name}-next")
        beside.mkdir()
        (beside / name).write_text(text)
        beside.rename(folder)


Body = Callable[[Path], Coroutine[Any, Any, None]]


def scenario(body: Body) -> Callable[[Path], None]:
    """Run a test's coroutine in an event loop of its own, with a folder."""

    def test(tmp_path: Path) -> None:
        (tmp_path / "manifests").mkdir()
        asyncio.run(body(tmp_path / "manifests"))

    test.__name__ = getattr(body, "__name__", "test")
    return test


@scenario
async def test_a_file_is_followed_through_renames_and_writes_until_it_is_deleted(folder: Path) -> None:
    async with following(folder) as follower:
        replace(folder / "f.yaml", pod(node="a"))
        await follower.holds("shop/web@a")
        replace(folder / "f.yaml", pod(node="b"))
        await follower.holds("shop/web@b")
        (folder / "f.yaml").write_text(pod(node="c"))
        await follower.holds("shop/web@c")
        (folder / "f.yaml").rename(folder / "g.yaml")
        await follower.until(lambda: set(follower.known.digests) == {"g.yaml"})
        await follower.holds("shop/web@c")
        (folder / "g.yaml").unlink()
        await follower.holds()


@pytest.fixture
def _endless_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the collection of further events wait for longer than any test does."""
    monkeypatch.setattr("nfagent.manifests.inotify._BATCH_SECONDS", 10 * DEADLINE)


@pytest.mark.usefixtures("_endless_pause")
def test_a_file_renamed_into_place_is_read_at_once(tmp_path: Path) -> None:
    async def body(folder: Path) -> None:
        async with following(folder) as follower:
            replace(folder / "f.yaml", pod(node="a"))
            await follower.holds("shop/web@a")
            (folder.parent / "g.yaml").write_text(pod("api", node="b"))
            (folder.parent / "g.yaml").rename(folder / "g.yaml")
            await follower.holds("shop/web@a", "shop/api@b")

    scenario(body)(tmp_path)


async def turns() -> None:
    """Let the event loop run until inotify events are read."""
    for _ in range(100):
        await asyncio.sleep(0)


BEGINNINGS: dict[str, Callable[[Path], object]] = {
    "written in place": lambda path: path.write_text(pod(node="b")),
    "deleted, and maybe written again": Path.unlink,
    "renamed, as editors do with the text before": lambda path: path.rename(path.with_name("f.yaml~")),
}


@pytest.mark.usefixtures("_endless_pause")
@pytest.mark.parametrize("begin", BEGINNINGS.values(), ids=BEGINNINGS.keys())
def test_further_events_are_collected_after_a_file_is(begin: Callable[[Path], object], tmp_path: Path) -> None:
    async def body(folder: Path) -> None:
        path = folder / "f.yaml"
        path.write_text(pod(node="a"))
        async with following(folder) as follower:
            begin(path)
            await turns()
            assert follower.told == ["shop/web@a"]
            path.write_text(pod(node="c"))
            for number in range(10):
                await turns()
                (folder / f"more{number}").touch()
            await follower.holds("shop/web@c")
            assert follower.told == ["shop/web@a", "shop/web@c"], "it was never gone"

    scenario(body)(tmp_path)


@scenario
async def test_changes_before_the_watch_are_reported_first(folder: Path) -> None:
    (folder / "f.yaml").write_text(pod())
    async with following(folder) as follower:
        assert follower.state == {"shop/web@a"}


@scenario
async def test_a_change_while_the_consumer_is_busy_is_not_lost(folder: Path) -> None:
    known, stop = ManifestIndex(), asyncio.Event()
    async with asyncio.timeout(DEADLINE):
        batches = follow(folder, known, stop)
        assert brief(await anext(batches)) == []
        for number in range(5):
            (folder / f"{number}.yaml").write_text(pod(f"web{number}"))
        found: list[str] = []
        while len(found) < 5:
            found += brief(await anext(batches))
        assert sorted(found) == [f"shop/web{number}@a" for number in range(5)]
        stop.set()
        assert [brief(batch) async for batch in batches] in ([], [[]])


class Half(ManifestIndex):
    """Reports when it reads a half-written file."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    def read(
        self,
        name: str,
        text: str | ValidationIssue | None,
        orphaned: Mapping[ObjectRef, tuple[Item, int]] | None = None,
    ) -> FileReading | None:
        found = super().read(name, text, orphaned)
        if found is not None and found.maybe_partial:
            self.loop.call_soon_threadsafe(self.seen.set)
        return found


@pytest.mark.parametrize("half", ["", "apiVersion: ["], ids=["emptied", "cut short"])
def test_a_slow_writer_never_removes_its_objects(tmp_path: Path, half: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(pod(node="a"))

    async def body() -> None:
        known = Half()
        async with following(tmp_path, known=known) as follower:
            path.write_text(half)
            async with asyncio.timeout(DEADLINE):
                await known.seen.wait()
            # Due before the follower's next scan: timers of one loop run in their order.
            asyncio.get_running_loop().call_later(0.02, path.write_text, pod(node="b"))
            await follower.holds("shop/web@b")
            assert follower.told == ["shop/web@a", "shop/web@b"]
            assert said(known) == []

    asyncio.run(body())


@scenario
async def test_an_empty_file_keeps_its_objects_and_one_with_a_comment_removes_them(folder: Path) -> None:
    (folder / "f.yaml").write_text(pod(node="a"))
    async with following(folder) as follower:
        (folder / "f.yaml").write_text("")
        await follower.complains(
            "f.yaml: is empty (0 bytes), as a full disk leaves it; delete it, or write a comment into it, to "
            "remove its objects; what it held before stays in force"
        )
        assert follower.told == ["shop/web@a"]
        (folder / "f.yaml").write_text("# nothing")
        await follower.holds()
        assert said(follower.known) == []


@scenario
async def test_a_file_of_blanks_keeps_its_objects(folder: Path) -> None:
    (folder / "f.yaml").write_text(pod(node="a"))
    async with following(folder) as follower:
        (folder / "f.yaml").write_text("\ufeff\r\n \t\n")
        await follower.complains(
            "f.yaml: is empty (blanks alone), as a full disk leaves it; delete it, or write a comment into it, to "
            "remove its objects; what it held before stays in force"
        )
        assert follower.told == ["shop/web@a"]
        (folder / "f.yaml").unlink()
        await follower.holds()
        assert said(follower.known) == []


def test_an_empty_new_file_keeps_the_objects_of_one_that_was_deleted(tmp_path: Path) -> None:
    """On a full disk the new file stays empty, and its writer deletes the old one all the same."""
    known = ManifestIndex()
    (tmp_path / "old.yaml").write_text(pod(node="a"))
    assert brief(read_folder(tmp_path, known)) == ["shop/web@a"]
    (tmp_path / "new.yaml").touch()
    (tmp_path / "old.yaml").unlink()
    assert brief(read_folder(tmp_path, known))[-1:] == ["shop/web@a"]
    empty, held = said(known)
    assert empty.startswith("new.yaml: is empty (0 bytes), as a full disk leaves it")
    assert held == "new.yaml: may hold objects of files that are gone: all of these (1) stay in force"
    (tmp_path / "new.yaml").write_text("# nothing")
    assert brief(read_folder(tmp_path, known)) == ["-shop/web"]
    assert said(known) == []


@scenario
async def test_a_half_written_file_keeps_its_last_good_content_until_it_is_complete(folder: Path) -> None:
    (folder / "f.yaml").write_text(pod(node="a"))
    async with following(folder) as follower:
        (folder / "f.yaml").write_text("apiVersion: [")
        await follower.until(lambda: bool(follower.known.problems))
        assert follower.told == ["shop/web@a"]
        (folder / "f.yaml").write_text(pod(node="b"))
        await follower.holds("shop/web@b")
        assert said(follower.known) == []


@scenario
async def test_folders_are_created_renamed_and_deleted_with_their_files(folder: Path) -> None:
    async with following(folder) as follower:
        (folder / "team").mkdir()
        (folder / "team" / "f.yaml").write_text(pod())
        await follower.holds("shop/web@a")
        (folder / "team").rename(folder / "crew")
        await follower.until(lambda: set(follower.known.digests) == {"crew/f.yaml"})
        (folder / "crew" / "f.yaml").write_text(pod(node="b"))
        await follower.holds("shop/web@b")
        (folder / "crew").rename(folder.parent / "away")
        await follower.holds()


@scenario
async def test_hidden_files_and_other_suffixes_are_not_read(folder: Path) -> None:
    async with following(folder) as follower:
        for name in (".f.yaml", "f.yaml~", "f.yaml.bak", "f.txt"):
            (folder / name).write_text(pod("db"))
        (folder / "f.yaml").write_text(pod())
        await follower.holds("shop/web@a")
        assert set(follower.known.digests) == {"f.yaml"}


@scenario
async def test_a_mounted_config_map_changes_all_its_files_by_one_link(folder: Path) -> None:
    for version, node in (("..1", "a"), ("..2", "b")):
        (folder / version).mkdir()
        (folder / version / "web.yaml").write_text(pod("web", node))
        (folder / version / "db.yaml").write_text(pod("db", node))
    (folder / "..data").symlink_to("..1")
    for name in ("web.yaml", "db.yaml"):
        (folder / name).symlink_to(Path("..data", name))
    async with following(folder) as follower:
        await follower.holds("shop/web@a", "shop/db@a")
        (folder / "..new").symlink_to("..2")
        (folder / "..new").rename(folder / "..data")
        await follower.holds("shop/web@b", "shop/db@b")
        assert len(follower.told) == 4


@scenario
async def test_a_deleted_folder_keeps_its_objects_and_is_followed_again_when_it_is_back(folder: Path) -> None:
    (folder / "f.yaml").write_text(pod())
    async with following(folder) as follower:
        swap(folder, "g.yaml", pod("db"))
        await follower.holds("shop/db@a")
        assert follower.told == ["shop/web@a", "-shop/web", "shop/db@a"], "gone with the next folder, not before"
        (folder / "g.yaml").write_text(pod("db", "b"))
        await follower.holds("shop/db@b")


def link(path: Path, target: str) -> None:
    """Replace a symbolic link atomically, as git-sync and `ln -sfn` do."""
    beside = path.with_name(f".{path.name}.new")
    beside.symlink_to(target)
    beside.rename(path)


@pytest.mark.parametrize("within", ["", "manifests/team"], ids=["the folder itself", "a folder on the way"])
@pytest.mark.parametrize("start", ["", "first"], ids=["a link to it", "a link to a link"])
def test_a_replaced_link_is_followed(tmp_path: Path, within: str, start: str) -> None:
    scenario(lambda folder: _swapped_links(folder.parent, within, start))(tmp_path)


async def _swapped_links(root: Path, within: str, start: str) -> None:
    for version, node in (("1", "a"), ("2", "b"), ("3", "c")):
        (root / version / within).mkdir(parents=True)
        (root / version / within / "f.yaml").write_text(pod(node=node))
    link(root / "current", "1")
    if start:
        link(root / "first", "current")
    async with following(root / (start or "current") / within) as follower:
        await follower.holds("shop/web@a")
        link(root / "current", "2")
        await follower.holds("shop/web@b")
        replace(root / "2" / within / "f.yaml", pod(node="d"))
        await follower.holds("shop/web@d")
        (root / "current").unlink()
        (root / "current").symlink_to("3")
        await follower.holds("shop/web@c")
        assert not any(event.startswith("-") for event in follower.told), "it was never gone"


@pytest.mark.parametrize("target", ["a file", "nothing", "current"], ids=["to a file", "to nothing", "in a circle"])
def test_a_link_to_no_folder_keeps_the_objects_and_is_an_issue(tmp_path: Path, target: str) -> None:
    scenario(lambda folder: _link_to_no_folder(folder.parent, target))(tmp_path)


async def _link_to_no_folder(root: Path, target: str) -> None:
    (root / "1").mkdir()
    (root / "1" / "f.yaml").write_text(pod())
    (root / "a file").write_text(pod("db"))
    link(root / "current", "1")
    async with following(root / "current") as follower:
        await follower.holds("shop/web@a")
        link(root / "current", target)
        await follower.complains(f"{root / 'current'}: is no folder now; what was read before stays in force")
        (root / "1" / "f.yaml").write_text(pod(node="b"))
        link(root / "current", "1")
        await follower.holds("shop/web@b")
        await follower.complains()
    assert not any(event.startswith("-") for event in follower.told)


@scenario
async def test_a_link_to_a_folder_within_is_followed_and_so_are_changes_there(folder: Path) -> None:
    for version, node in (("1", "a"), ("2", "b")):
        (folder.parent / version).mkdir()
        (folder.parent / version / "f.yaml").write_text(pod(node=node))
    link(folder / "team", "../1")
    (folder / "circle").symlink_to(".")
    (folder / "twice").symlink_to("team")
    async with following(folder) as follower:
        await follower.holds("shop/web@a")
        replace(folder.parent / "1" / "f.yaml", pod(node="c"))
        await follower.holds("shop/web@c")
        link(folder / "team", "../2")
        await follower.holds("shop/web@b")
        assert said(follower.known) == [], "each folder is read once"
        (folder / "team").unlink()
        (folder / "twice").unlink()
        await follower.holds()


@scenario
async def test_a_replaced_parent_folder_is_followed(folder: Path) -> None:
    for version, node in (("1", "a"), ("2", "b")):
        (folder.parent / version / "team").mkdir(parents=True)
        (folder.parent / version / "team" / "f.yaml").write_text(pod(node=node))
    async with following(folder.parent / "1" / "team") as follower:
        await follower.holds("shop/web@a")
        (folder.parent / "1").rename(folder.parent / "before")
        (folder.parent / "2").rename(folder.parent / "1")
        await follower.holds("shop/web@b")


def test_the_lookup_path_of_a_folder_is_every_link_and_folder_that_is_resolved(tmp_path: Path) -> None:
    (tmp_path / "real" / "team").mkdir(parents=True)
    (tmp_path / "b").symlink_to("real")
    (tmp_path / "a").symlink_to(tmp_path / "b")
    above = [*[Path("/"), *reversed(tmp_path.parents)][2:], tmp_path]
    names = [tmp_path / name for name in ("a", "b", "real")]
    assert lookup_path(tmp_path / "a" / "team") == [*above, names[0], *above, *names[1:]]
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="Too many levels"):
        lookup_path(tmp_path / "circle" / "team")


@scenario
async def test_a_folder_that_does_not_exist_yet_is_waited_for(folder: Path) -> None:
    swap(folder, "f.yaml", None)
    async with following(folder) as follower:
        swap(folder, "f.yaml", pod())
        await follower.holds("shop/web@a")


@scenario
async def test_a_change_without_inotify_event_is_found_by_a_scan(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere.yaml"
    elsewhere.write_text(pod(node="a"))
    (folder / "f.yaml").symlink_to(elsewhere)
    async with following(folder, scan_seconds=0.05) as follower:
        await follower.holds("shop/web@a")
        elsewhere.write_text(pod(node="b"))
        await follower.holds("shop/web@b")


def test_a_folder_is_polled_while_the_event_loop_can_watch_no_descriptor_more(tmp_path: Path) -> None:
    selector = FullSelector()

    async def body() -> None:
        (tmp_path / "f.yaml").write_text(pod(node="a"))
        selector.full = True
        async with following(tmp_path, scan_seconds=0.05) as follower:
            await follower.holds("shop/web@a")
            await follower.complains(
                f"{tmp_path}: events of inotify can't be read: No space left on device; the folder is polled every 2 s "
                "instead; see fs.epoll.max_user_watches"
            )
            replace(tmp_path / "f.yaml", pod(node="b"))
            await follower.holds("shop/web@b")
            selector.full = False
            await follower.complains()
            replace(tmp_path / "f.yaml", pod(node="c"))
            await follower.holds("shop/web@c")

    run_with(selector, body())


@scenario
async def test_stop_ends_it_and_cancelling_does_not_change_the_callers_event(folder: Path) -> None:
    async with following(folder) as follower:
        pass
    assert follower.batches >= 1
    stop = asyncio.Event()
    other = Follower(folder)
    other.stop = stop
    task = asyncio.create_task(other.run(60.0))
    await other.until(lambda: other.batches > 0)
    task.cancel()
    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(task, return_exceptions=True)
    assert not stop.is_set()
