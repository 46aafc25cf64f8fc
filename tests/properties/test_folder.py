"""The incremental index of a folder compared with one built from all files."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from nfagent.manifests.file_content import FileContent, read_documents
from nfagent.manifests.index import ManifestIndex

NAMES = ("a.yaml", "b.yaml", "c.yaml")
DOCUMENTS = (
    "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}",
    "{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: web}}",
    "{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: db}, spec: {nodeName: a}}",
    "{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: web}}",
    "{apiVersion: v1, kind: Secret, metadata: {namespace: shop, name: web}}",
    "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: odd}, spec: {policyTypes: [Inwards]}}",
)
TEXTS = st.lists(st.sampled_from(DOCUMENTS), max_size=4, unique=True).map("\n---\n".join)


@settings(max_examples=4 * settings().max_examples)
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.none() | TEXTS | st.just("{broken")), max_size=12))
def test_problems_and_ignored_kinds_are_those_of_the_files_as_they_are(changes: list[tuple[str, str | None]]) -> None:
    folder, files = ManifestIndex(), dict[str, FileContent]()
    broken: set[str] = set()
    for name, text in changes:
        folder.update(name, text)
        content = read_documents(name, text) if text is not None else None
        broken.discard(name)
        if text is not None and not text.strip():
            broken.add(name)  # emptied, as a full disk does, or come so
            if name not in files:
                files[name] = FileContent({})
        elif isinstance(content, FileContent):
            files[name] = content
        elif content is None:
            files.pop(name, None)
        else:
            broken.add(name)

        assert folder.ignored == {kind for content in files.values() for kind in content.ignored}
        problems = list(folder.problems)
        assert {problem.place.partition(":")[0] for problem in problems} >= broken
        twice = [problem for problem in problems if "is also in" in problem.reason]
        held = [ref for content in files.values() for ref in content.items]
        assert sorted(problem.object for problem in twice) == sorted(
            str(ref) for ref in set(held) for _ in range(held.count(ref) - 1)
        )
        own = sorted(str(problem) for content in files.values() for problem in content.problems)
        said = [problem for problem in problems if problem not in twice]
        assert sorted(str(problem) for problem in said if problem.place.partition(":")[0] not in broken) == [
            words for words in own if words.partition(":")[0] not in broken
        ]
