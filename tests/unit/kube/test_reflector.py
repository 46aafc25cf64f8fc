"""List and watch of one resource: the requests, and the changes that responses contain."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import msgspec
import pytest

from nfagent.kube.predecode import LONG
from nfagent.kube.reflector import Reflector
from nfagent.kube.reflector_requests import LastGoodVersions, ReflectorRequest, WatchFailure
from nfagent.model.egress_nat import EgressNATPolicy
from nfagent.model.gvk import RESOURCES, Item
from nfagent.model.objects import ObjectRef, Pod
from tests.support.apiserver_documents import (
    Document,
    RecordingSink,
    added,
    bookmark,
    broken_pod,
    encoded,
    end_mark,
    error,
    event,
    page,
    pod,
    status,
)

BY_KIND = {resource.kind: resource for resource in RESOURCES}


class Followed:
    """A reflector, and a holder of the objects that it returns."""

    def __init__(self, kind: str = "Pod", page_size: int = 5000, last_good: LastGoodVersions | None = None) -> None:
        self.holder = RecordingSink()
        self.reflector = Reflector(BY_KIND[kind], self.holder.keys, page_size=page_size, last_good=last_good)

    @property
    def query(self) -> dict[str, str]:
        return self.reflector.request(300).query


Step: TypeAlias = Callable[[Followed], None]


def streamed(*chunks: bytes) -> Step:
    """Feed bytes of a watch, until the reflector ends it."""

    def step(followed: Followed) -> None:
        request = followed.reflector.request(300)
        assert request.watch, "a list was asked for"
        for chunk in chunks:
            followed.holder.take(followed.reflector.feed_watch(chunk))
            if followed.reflector.failure is not None:
                return

    return step


def ended(followed: Followed) -> None:
    """End the current response."""
    followed.reflector.end()


def paged(body: bytes) -> Step:
    """Feed a page."""

    def step(followed: Followed) -> None:
        assert not followed.reflector.request(300).watch, "a watch was asked for"
        followed.holder.take(followed.reflector.feed_page(body))
        if followed.reflector.failure is None:
            followed.holder.take(followed.reflector.end_page())

    return step


def parts(body: bytes) -> Step:
    """Feed the beginning of a page, in small parts."""

    def step(followed: Followed) -> None:
        assert not followed.reflector.request(300).watch, "a watch was asked for"
        for start in range(0, len(body), 50):
            followed.holder.take(followed.reflector.feed_page(body[start : start + 50]))

    return step


def refused(code: int, body: object = None, retry_after: float | None = None) -> Step:
    """Feed a response with a status other than 200."""

    def step(followed: Followed) -> None:
        followed.reflector.request(300)
        followed.holder.take(
            followed.reflector.end_with_error(code, b"" if body is None else encoded(body), retry_after)
        )

    return step


def looked_again(followed: Followed) -> None:
    followed.reflector.relist()


def play(steps: Iterable[Step], kind: str = "Pod", last_good: LastGoodVersions | None = None) -> Followed:
    followed = Followed(kind, last_good=last_good)
    for step in steps:
        step(followed)
    return followed


SYNCED = streamed(added(pod("a", 1), pod("b", 2)) + end_mark("5"))
"""Pods a and b are known, at version 5, by initial events."""
NO_INITIAL_EVENTS = refused(422, status(422, "Invalid", "sendInitialEvents is forbidden"))
NOT_FOUND = refused(404, status(404, "NotFound", "the server could not find the requested resource"))
GONE = status(410, "Expired", "too old resource version")
TOO_MANY = status(429, "TooManyRequests", "try again later")


class Outcome(msgspec.Struct, frozen=True):
    """The final state; `gone` has the names of removed objects, in order."""

    names: str
    phase: str
    setback: str | None = None
    version: str | None = None
    gone: str = ""
    synced: bool = True


LISTS: dict[str, tuple[list[Step], Outcome]] = {
    "initial events are complete at their end mark": ([SYNCED], Outcome("a b", "watching", version="5")),
    "initial events are incomplete before their end mark": (
        [streamed(added(pod("a"), pod("b")))],
        Outcome("a b", "initial", version="", synced=False),
    ),
    "an ordinary bookmark doesn't end the initial events": (
        [streamed(added(pod("a")), bookmark("4"))],
        Outcome("a", "initial", version="", synced=False),
    ),
    "empty initial events are complete": ([streamed(end_mark("5"))], Outcome("", "watching", version="5")),
    "a deletion within initial events is no version to continue from": (
        [streamed(added(pod("a", 1)) + event("DELETED", pod("a", 4)))],
        Outcome("", "initial", version="", gone="a", synced=False),
    ),
    "changes within initial events count": (
        [
            streamed(
                added(pod("a", 1), pod("b", 2)) + event("MODIFIED", pod("a", 3)) + event("DELETED", pod("b", 4)),
                end_mark("5"),
            )
        ],
        Outcome("a", "watching", version="5", gone="b"),
    ),
    "422 to initial events leads to pages": (
        [NO_INITIAL_EVENTS],
        Outcome("", "listing", "again", synced=False),
    ),
    "400 to initial events leads to pages": ([refused(400)], Outcome("", "listing", "again", synced=False)),
    "422 to a list by pages is an error": (
        [NO_INITIAL_EVENTS, refused(422)],
        Outcome("", "listing", "refused", synced=False),
    ),
    "422 to a watch is an error, and the watch is repeated": (
        [SYNCED, ended, refused(422)],
        Outcome("a b", "watching", "refused", version="5"),
    ),
    "a list of one page": (
        [NO_INITIAL_EVENTS, paged(page(pod("a"), pod("b"), version="9"))],
        Outcome("a b", "watching", version="9"),
    ),
    "a list by pages is complete with the last page": (
        [
            NO_INITIAL_EVENTS,
            paged(page(pod("a"), version="9", rest="t1")),
            paged(page(pod("b"), version="9", rest="t2")),
            paged(page(pod("c"), version="9")),
        ],
        Outcome("a b c", "watching", version="9"),
    ),
    "a list by pages is incomplete before its last page": (
        [NO_INITIAL_EVENTS, paged(page(pod("a"), version="9", rest="t1"))],
        Outcome("a", "listing", version="", synced=False),
    ),
    "an interrupted list continues with its next page": (
        [
            NO_INITIAL_EVENTS,
            paged(page(pod("a"), version="9", rest="t1")),
            ended,
            paged(page(pod("b"), version="9")),
        ],
        Outcome("a b", "watching", version="9"),
    ),
    "410 within a list starts it over": (
        [
            NO_INITIAL_EVENTS,
            paged(page(pod("a"), version="9", rest="t1")),
            refused(410, GONE),
            paged(page(pod("b"), version="12")),
        ],
        Outcome("b", "watching", version="12", gone="a"),
    ),
    "410 as the status of initial events starts them over": (
        [refused(410, GONE), SYNCED],
        Outcome("a b", "watching", version="5"),
    ),
    "410 within initial events starts them over": (
        [streamed(added(pod("c")) + error(410, "Expired")), SYNCED],
        Outcome("a b", "watching", version="5", gone="c"),
    ),
}

WATCHES: dict[str, tuple[list[Step], Outcome]] = {
    "what is added and deleted": (
        [SYNCED, streamed(added(pod("c", 6)) + event("DELETED", pod("a", 7)))],
        Outcome("b c", "watching", version="7", gone="a"),
    ),
    "a bookmark advances the version": ([SYNCED, streamed(bookmark("50"))], Outcome("a b", "watching", version="50")),
    "a bookmark without a version doesn't advance it": (
        [SYNCED, streamed(bookmark(""))],
        Outcome("a b", "watching", version="5"),
    ),
    "an object without a version doesn't advance it": (
        [SYNCED, streamed(added({**pod("c"), "metadata": {"namespace": "shop", "name": "c"}}))],
        Outcome("a b c", "watching", version="5"),
    ),
    "an ended watch continues from its last event": (
        [SYNCED, streamed(added(pod("c", 6))), ended],
        Outcome("a b c", "watching", version="6"),
    ),
    "half a line at the end is not read": (
        [SYNCED, streamed(added(pod("c", 6)) + added(pod("d", 7))[:-9]), ended],
        Outcome("a b c", "watching", version="6"),
    ),
    "half a line is dropped by the next watch": (
        [SYNCED, streamed(added(pod("c", 6)) + added(pod("d", 7))[:-9]), ended, streamed(added(pod("d", 7)))],
        Outcome("a b c d", "watching", version="7"),
    ),
    "410 as a status leads to a list": (
        [SYNCED, ended, refused(410, GONE)],
        Outcome("a b", "initial", "expired", version="5"),
    ),
    "410 without a Status leads to a list": ([SYNCED, refused(410)], Outcome("a b", "initial", "expired")),
    "410 as an event leads to a list": ([SYNCED, streamed(error(410, "Gone"))], Outcome("a b", "initial", "expired")),
    "the reason Expired leads to a list": (
        [SYNCED, streamed(error(0, "Expired"))],
        Outcome("a b", "initial", "expired"),
    ),
    "410 lists by pages where initial events aren't served": (
        [NO_INITIAL_EVENTS, paged(page(pod("a"))), refused(410, GONE)],
        Outcome("a", "listing", "expired"),
    ),
    "events behind an error aren't read": (
        [SYNCED, streamed(error(410, "Gone") + added(pod("c", 6)))],
        Outcome("a b", "initial", "expired"),
    ),
    "another error event continues from the last version": (
        [SYNCED, streamed(added(pod("c", 6)) + error(500, "InternalError"))],
        Outcome("a b c", "watching", "refused", version="6"),
    ),
    "an error repeated at the same version leads to a list": (
        [SYNCED, streamed(error(500, "InternalError")), streamed(error(500, "InternalError"))],
        Outcome("a b", "initial", "refused"),
    ),
    "an error repeated at another version does not": (
        [SYNCED, streamed(error(500)), streamed(added(pod("c", 6)) + error(500))],
        Outcome("a b c", "watching", "refused", version="6"),
    ),
    "nor does an error after a new list": (
        [SYNCED, streamed(error(500)), streamed(error(410)), SYNCED, streamed(error(500))],
        Outcome("a b", "watching", "refused", version="5"),
    ),
    "a server that stays busy leads to no list": (
        [SYNCED, streamed(error(429)), streamed(error(429)), streamed(error(429))],
        Outcome("a b", "watching", "busy", version="5"),
    ),
    "an error event within initial events starts them over": (
        [streamed(added(pod("a")) + error(500))],
        Outcome("a", "initial", "refused", synced=False),
    ),
    "an error that is no Status": (
        [SYNCED, streamed(event("ERROR", 5))],
        Outcome("a b", "watching", "refused", version="5"),
    ),
    "429 waits": ([SYNCED, refused(429, TOO_MANY)], Outcome("a b", "watching", "busy", version="5")),
    "500 is an error": ([SYNCED, refused(500)], Outcome("a b", "watching", "refused", version="5")),
    "403 is an error": ([SYNCED, refused(403)], Outcome("a b", "watching", "refused", version="5")),
    "an invalid line leads to a list": ([SYNCED, streamed(b"<html>\n")], Outcome("a b", "initial", "broken")),
    "an event of an unknown type leads to a new list": (
        [SYNCED, streamed(event("RENAMED", pod("a")))],
        Outcome("a b", "initial", "broken"),
    ),
    "an object without a name leads to a list": (
        [SYNCED, streamed(event("MODIFIED", {}))],
        Outcome("a b", "initial", "broken"),
    ),
}

RELISTS: dict[str, tuple[list[Step], Outcome]] = {
    "objects not listed are removed at the end mark": (
        [SYNCED, streamed(error(410)), streamed(added(pod("b", 2)) + end_mark("20"))],
        Outcome("b", "watching", version="20", gone="a"),
    ),
    "before the end mark nothing is removed": (
        [SYNCED, streamed(error(410)), streamed(added(pod("b", 2)))],
        Outcome("a b", "initial"),
    ),
    "interrupted initial events remove nothing": (
        [SYNCED, streamed(error(410)), streamed(added(pod("b", 2))), ended],
        Outcome("a b", "initial", "refused"),
    ),
    "and its objects don't count for the next ones": (
        [SYNCED, streamed(error(410)), streamed(added(pod("b", 2))), ended, streamed(added(pod("a")), end_mark("20"))],
        Outcome("a", "watching", version="20", gone="b"),
    ),
    "nor do objects before an error": (
        [
            SYNCED,
            streamed(error(410)),
            streamed(added(pod("b", 2)) + error(500)),
            streamed(added(pod("a")), end_mark("20")),
        ],
        Outcome("a", "watching", version="20", gone="b"),
    ),
    "before the last page nothing is removed": (
        [NO_INITIAL_EVENTS, paged(page(pod("a"), pod("b"))), refused(410), paged(page(pod("c"), rest="t"))],
        Outcome("a b c", "listing"),
    ),
    "an interrupted list removes nothing": (
        [
            NO_INITIAL_EVENTS,
            paged(page(pod("a"), pod("b"))),
            refused(410),
            parts(page(pod("c"), pod("b"))[:-60]),
            ended,
        ],
        Outcome("a b c", "listing"),
    ),
    "and its objects don't count for the next list": (
        [
            NO_INITIAL_EVENTS,
            paged(page(pod("a"), pod("b"))),
            refused(410),
            parts(page(pod("b"), pod("c"))[:-60]),
            ended,
            paged(page(pod("a"), pod("c"))),
        ],
        Outcome("a c", "watching", gone="b"),
    ),
    "objects on no page are removed with the last page": (
        [
            NO_INITIAL_EVENTS,
            paged(page(pod("a"), pod("b"))),
            refused(410),
            paged(page(pod("c"), rest="t")),
            paged(page(pod("b"))),
        ],
        Outcome("b c", "watching", gone="a"),
    ),
    "an empty list removes all objects": (
        [NO_INITIAL_EVENTS, paged(page(pod("a"), pod("b"))), refused(410), paged(page())],
        Outcome("", "watching", gone="a b"),
    ),
    "an invalid page removes nothing": (
        [NO_INITIAL_EVENTS, paged(page(pod("a"), pod("b"))), refused(410), paged(b"<html>")],
        Outcome("a b", "listing", "broken"),
    ),
    "a list of objects without names removes nothing": (
        [NO_INITIAL_EVENTS, paged(page(pod("a"), pod("b"))), refused(410), paged(page({}, pod("c")))],
        Outcome("a b", "listing", "broken"),
    ),
    "a Status in place of a list removes nothing": (
        [NO_INITIAL_EVENTS, paged(page(pod("a"), pod("b"))), refused(410), paged(encoded(status(200)))],
        Outcome("a b", "listing", "broken"),
    ),
    "an end mark without a version removes nothing": (
        [SYNCED, streamed(error(410)), streamed(end_mark(""))],
        Outcome("a b", "initial", "broken"),
    ),
    "an object deleted and created again during a list stays": (
        [
            SYNCED,
            streamed(error(410)),
            streamed(
                added(pod("a", 1), pod("b", 2)) + event("DELETED", pod("b", 21)) + added(pod("b", 22)), end_mark("23")
            ),
        ],
        Outcome("a b", "watching", version="23", gone="b"),
    ),
    "an object that can't be decoded any more stays": (
        [SYNCED, streamed(error(410)), streamed(added(pod("a", 1), broken_pod("b", 9)) + end_mark("20"))],
        Outcome("a b", "watching", version="20"),
    ),
    "an error event after a list leads to a list": (
        [SYNCED, looked_again, SYNCED],
        Outcome("a b", "watching", version="5"),
    ),
}


@pytest.mark.parametrize(
    ("steps", "outcome"), [*LISTS.values(), *WATCHES.values(), *RELISTS.values()], ids=[*LISTS, *WATCHES, *RELISTS]
)
def test_following(steps: list[Step], outcome: Outcome) -> None:
    followed = play(steps)
    reflector, holder = followed.reflector, followed.holder
    found = Outcome(
        holder.names,
        reflector.phase,
        reflector.failure.kind if reflector.failure is not None else None,
        reflector.version if outcome.version is not None else None,
        holder.gone,
        reflector.synced,
    )
    assert found == outcome


INITIAL = {
    "watch": "1",
    "allowWatchBookmarks": "true",
    "timeoutSeconds": "300",
    "sendInitialEvents": "true",
    "resourceVersionMatch": "NotOlderThan",
}
CACHED = {"limit": "5000", "resourceVersion": "0"}
NOT_OLDER_THAN_9 = {"resourceVersion": "9", "resourceVersionMatch": "NotOlderThan"}
TOO_LARGE = {
    **status(504, "Timeout", "Too large resource version"),
    "details": {"causes": [{"reason": "ResourceVersionTooLarge"}]},
}


def fell_silent(followed: Followed) -> None:
    followed.reflector.request(300)
    followed.reflector.end(timed_out=True)


QUERIES: dict[str, tuple[list[Step], dict[str, str]]] = {
    "the first request is for initial events": ([], INITIAL),
    "and after 410, not older than what was read": ([SYNCED, refused(410)], {**INITIAL, "resourceVersion": "5"}),
    "of any version, where the requested one is newer than the server's newest": (
        [SYNCED, refused(504, TOO_LARGE)],
        INITIAL,
    ),
    "and after two read timeouts": ([SYNCED, fell_silent, fell_silent], INITIAL),
    "not after one read timeout": (
        [SYNCED, fell_silent],
        {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": "300", "resourceVersion": "5"},
    ),
    "nor after two with an event in between": (
        [SYNCED, fell_silent, streamed(bookmark("6")), fell_silent],
        {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": "300", "resourceVersion": "6"},
    ),
    "then for events after their end mark": (
        [SYNCED],
        {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": "300", "resourceVersion": "5"},
    ),
    "or for a list from the watch cache, which ignores the limit": ([NO_INITIAL_EVENTS], CACHED),
    "the following pages are requested without a version": (
        [NO_INITIAL_EVENTS, paged(page(rest="t1"))],
        {"limit": "5000", "continue": "t1"},
    ),
    "an expired page is followed by a consistent read, by pages": (
        [NO_INITIAL_EVENTS, paged(page(rest="t1")), refused(410)],
        {"limit": "5000"},
    ),
    "a list after a watch's 410 is from the cache, not older than what was read": (
        [NO_INITIAL_EVENTS, paged(page(version="9")), refused(410)],
        NOT_OLDER_THAN_9,
    ),
    "the same after a 410 as an event": (
        [NO_INITIAL_EVENTS, paged(page(version="9")), streamed(error(410, "Expired"))],
        NOT_OLDER_THAN_9,
    ),
    "and repeated after an interruption": (
        [NO_INITIAL_EVENTS, paged(page(version="9")), refused(410), ended],
        NOT_OLDER_THAN_9,
    ),
    "a list that is expired itself is followed by a consistent read": (
        [NO_INITIAL_EVENTS, paged(page(version="9")), refused(410), refused(410, GONE)],
        {"limit": "5000"},
    ),
    "and so is one that is newer than the cache": (
        [NO_INITIAL_EVENTS, paged(page(version="9")), refused(410), refused(504, TOO_LARGE)],
        {"limit": "5000"},
    ),
    "a list stays a consistent read until one was completed": (
        [NO_INITIAL_EVENTS, paged(page(rest="t1")), refused(410), refused(500), paged(b"<html>")],
        {"limit": "5000"},
    ),
    "after a completed list, the cache is used again": (
        [
            *(NO_INITIAL_EVENTS, paged(page(version="7")), refused(410), refused(410)),
            *(paged(page(rest="t1")), paged(page(version="9")), refused(410)),
        ],
        NOT_OLDER_THAN_9,
    ),
    "a server that returns pages for version 0 has no cache of the kind": (
        [NO_INITIAL_EVENTS, paged(page(rest="t1")), paged(page(version="9")), refused(410)],
        {"limit": "5000"},
    ),
    "a requested relist is a consistent read": (
        [NO_INITIAL_EVENTS, paged(page(version="9")), looked_again],
        {"limit": "5000"},
    ),
    "expired initial events are followed by consistent ones": (
        [SYNCED, refused(410), refused(410, GONE)],
        INITIAL,
    ),
}


@pytest.mark.parametrize(("steps", "query"), QUERIES.values(), ids=QUERIES)
def test_requests(steps: list[Step], query: dict[str, str]) -> None:
    assert play(steps).query == query


def test_of_config_maps_only_the_one_is_listed_and_watched() -> None:
    followed = Followed("ConfigMap")
    selector = {"fieldSelector": "metadata.name=ip-masq-agent"}
    assert selector.items() <= followed.query.items()
    NO_INITIAL_EVENTS(followed)
    assert followed.reflector.request(300) == ReflectorRequest(
        "/api/v1/namespaces/kube-system/configmaps", {**selector, **CACHED}, watch=False
    )
    paged(page(rest="t"))(followed)
    assert followed.query == {**selector, "limit": "5000", "continue": "t"}
    paged(page(version="3"))(followed)
    assert {**selector, "resourceVersion": "3"}.items() <= followed.query.items()


def test_a_list_of_one_namespace_removes_nothing_of_another() -> None:
    held = [("kube-system", "ip-masq-agent"), ("shop", "other")]
    reflector = Reflector(BY_KIND["ConfigMap"], lambda _: held)
    assert list(reflector.feed_watch(end_mark("5"))) == [ObjectRef("ConfigMap", "kube-system", "ip-masq-agent")]


def test_the_ip_masq_agent_configuration_comes_and_goes() -> None:
    configuration = {"metadata": {"namespace": "kube-system", "name": "ip-masq-agent", "resourceVersion": "6"}}
    followed = play([streamed(end_mark("5"), added(configuration))], "ConfigMap")
    assert followed.holder.names == "ip-masq-agent"
    streamed(event("DELETED", configuration))(followed)
    assert (followed.holder.names, followed.reflector.version) == ("", "6")


WAITS = {
    "the header": (refused(429, TOO_MANY, 7.0), 7.0),
    "the Status": (refused(429, status(429, retry_after=3)), 3.0),
    "the header has precedence over the Status": (refused(429, status(429, retry_after=3), 7.0), 7.0),
    "a 503 that asks to wait": (refused(503, status(503, retry_after=2)), 2.0),
    "an error event": (streamed(error(429, retry_after=4)), 4.0),
    "no Retry-After": (refused(429), None),
}


@pytest.mark.parametrize(("step", "seconds"), WAITS.values(), ids=WAITS)
def test_retry_after_is_read_from(step: Step, seconds: float | None) -> None:
    setback = play([SYNCED, step]).reflector.failure
    assert setback is not None
    assert (setback.kind, setback.retry_after) == ("busy", seconds)


@pytest.mark.parametrize(("code", "advice"), [(401, "credentials"), (403, "deploy/rbac.yaml")])
def test_401_and_403_have_advice(code: int, advice: str) -> None:
    setback = play([refused(code, status(code, "No", "said the server"))]).reflector.failure
    assert setback is not None
    assert "said the server" in setback.reason
    assert advice in setback.reason


def test_a_failure_is_cleared_by_the_next_response() -> None:
    followed = play([SYNCED, refused(500), streamed(bookmark("6"))])
    assert followed.reflector.failure is None


def test_initial_events_without_end_mark_are_a_failure() -> None:
    followed = play([streamed(added(pod("a"))), ended])
    assert followed.reflector.failure is not None
    assert followed.reflector.failure.kind == "refused"


@pytest.mark.parametrize("size", [1, 2, 5, 31, 64, 1000])
def test_a_stream_decodes_to_the_same_objects_for_every_split(size: int) -> None:
    text = added(pod("a"), pod("b")) + end_mark("5") + event("DELETED", pod("a", 6)) + bookmark("9") + b'{"ty'
    followed = play([streamed(*(text[start : start + size] for start in range(0, len(text), size)))])
    assert (followed.holder.names, followed.reflector.version) == ("b", "9")


def test_changes_of_a_chunk_are_returned_before_its_version_is_kept() -> None:
    """A caller that is cancelled between two changes requests the second one again."""
    followed = play([SYNCED])
    changes = followed.reflector.feed_watch(added(pod("c", 6), pod("d", 7)))
    assert followed.reflector.version == "5"
    for expected in ("5", "6"):
        next(changes)
        assert followed.reflector.version == expected


RELISTED: dict[str, tuple[list[Step], bool]] = {
    "before the first list": ([], False),
    "after it": ([SYNCED], True),
    "while a requested relist is due": ([SYNCED, looked_again], False),
    "while it is being read": ([SYNCED, looked_again, streamed(added(pod("a")))], False),
    "when it has ended": ([SYNCED, looked_again, SYNCED], True),
    "when a list is due that was not requested": ([SYNCED, refused(410)], True),
}


@pytest.mark.parametrize(("steps", "listed"), RELISTED.values(), ids=RELISTED)
def test_listed_after_a_relist(steps: list[Step], listed: bool) -> None:  # noqa: FBT001 - drawn
    assert play(steps).reflector.listed == listed


class TestMissing:
    """Kinds that the server may lack."""

    OBJECT: Document = {  # noqa: RUF012 - never changed
        "metadata": {"name": "e", "resourceVersion": "6"},
        "spec": {"action": "NoSNAT", "destinations": []},
    }

    def play(self, *steps: Step) -> Followed:
        return play(steps, "EgressNATPolicy")

    def test_a_kind_that_is_missing_at_the_start_counts_as_missing_at_once(self) -> None:
        followed = self.play(NOT_FOUND)
        assert (followed.reflector.missing, followed.reflector.synced) == (True, True)
        assert followed.reflector.failure is not None
        assert followed.reflector.failure.kind == "missing"

    def test_is_watched_after_the_next_discovery(self) -> None:
        followed = self.play(NOT_FOUND, looked_again)
        assert followed.query["sendInitialEvents"] == "true"
        streamed(added(self.OBJECT) + end_mark("6"))(followed)
        assert (followed.holder.names, followed.reflector.phase) == ("e", "watching")

    def test_without_initial_events_the_first_list_is_served_from_the_cache(self) -> None:
        assert self.play(NOT_FOUND, looked_again, NO_INITIAL_EVENTS).query == CACHED

    def test_one_that_was_served_is_missing_after_the_third_404(self) -> None:
        followed = self.play(streamed(added(self.OBJECT) + end_mark("6")), ended)
        for _ in range(2):
            NOT_FOUND(followed)
            assert (followed.holder.names, followed.reflector.missing) == ("e", False)
            assert followed.reflector.failure is not None
            assert followed.reflector.failure.kind == "refused"
        NOT_FOUND(followed)
        assert (followed.holder.names, followed.reflector.missing) == ("", True)

    def test_a_list_in_between_resets_the_count(self) -> None:
        listed = streamed(added(self.OBJECT) + end_mark("6"))
        followed = self.play(listed, NOT_FOUND, NOT_FOUND, listed, NOT_FOUND, NOT_FOUND)
        assert (followed.holder.names, followed.reflector.missing) == ("e", False)

    def test_without_objects_there_is_nothing_to_lose(self) -> None:
        assert self.play(streamed(end_mark("6")), NOT_FOUND).reflector.missing

    def test_its_issues_are_removed_with_it(self) -> None:
        wrong = {"metadata": {"name": "w"}, "spec": {"action": "X"}}
        followed = self.play(streamed(added(wrong) + end_mark("6")))
        assert followed.reflector.problems
        NOT_FOUND(followed)
        assert not followed.reflector.problems

    def test_a_kind_that_every_cluster_has_is_never_missing(self) -> None:
        followed = play([NOT_FOUND])
        assert (followed.reflector.missing, followed.reflector.synced) == (False, False)
        assert followed.reflector.failure is not None
        assert followed.reflector.failure.kind == "refused"

    def test_other_error_statuses_do_not_make_a_kind_missing(self) -> None:
        followed = self.play(refused(403))
        assert (followed.reflector.missing, followed.reflector.synced) == (False, False)


PROBLEMS: dict[str, tuple[list[Step], str]] = {
    "an object that can't be decoded has one": ([streamed(added(broken_pod("c", 6)))], "c"),
    "it goes when the object is corrected": ([streamed(added(broken_pod("c", 6)), added(pod("c", 7)))], ""),
    "it goes with the object": ([streamed(added(broken_pod("c", 6)), event("DELETED", broken_pod("c", 7)))], ""),
    "it stays during an outage": ([streamed(added(broken_pod("c", 6))), ended, refused(500)], "c"),
    "it stays during a list": (
        [streamed(added(broken_pod("c", 6)) + error(410)), streamed(added(pod("a")))],
        "c",
    ),
    "it goes with a list without the object": (
        [streamed(added(broken_pod("c", 6)) + error(410)), streamed(added(pod("a")), end_mark("9"))],
        "",
    ),
    "it stays with a list that has the object": (
        [streamed(added(broken_pod("c", 6)) + error(410)), streamed(added(broken_pod("c", 6)), end_mark("9"))],
        "c",
    ),
}


@pytest.mark.parametrize(("steps", "names"), PROBLEMS.values(), ids=PROBLEMS)
def test_problems(steps: list[Step], names: str) -> None:
    followed = play([SYNCED, *steps])
    assert " ".join(ref.name for ref in followed.reflector.problems) == names


def test_an_object_that_cannot_be_read_leaves_its_last_good_version_in_force() -> None:
    followed = play([SYNCED, streamed(event("MODIFIED", broken_pod("a", 6)), added(pod("c", 7)))])
    kept = followed.holder.items[ObjectRef("Pod", "shop", "a")]
    assert isinstance(kept, Pod)
    assert kept.addresses == ("10.64.0.1",)
    assert (followed.holder.names, followed.reflector.version) == ("a b c", "7")


class Before:
    """The last good versions of the previous run."""

    def __init__(self, *items: Item) -> None:
        self.items = {item.ref: item for item in items}

    def of_object(self, ref: ObjectRef) -> Item | None:
        return self.items.get(ref)

    def knows(self, kind: str) -> bool:
        return any(ref.kind == kind for ref in self.items)

    def of_kind(self, kind: str) -> Iterator[Item]:
        return (item for ref, item in self.items.items() if ref.kind == kind)


LAST_GOOD = EgressNATPolicy(name="c", action="NoSNAT")


def egress_policy(name: str, version: int, destination: object) -> Document:
    """Return an EgressNATPolicy; with a string as destination it is rejected as a whole."""
    metadata = {"name": name, "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": {"action": "NoSNAT", "destinations": [destination]}}


def refused_policy(name: str, version: int) -> Document:
    return egress_policy(name, version, "10.0.0.0/8")


def good_policy(name: str, version: int) -> Document:
    return egress_policy(name, version, {"cidr": "10.0.0.0/8"})


@pytest.mark.parametrize(
    ("step", "names"),
    [
        pytest.param(
            streamed(added(refused_policy("c", 4)), end_mark("5")), "c", id="it can't be read, by initial events"
        ),
        pytest.param(streamed(end_mark("5")), "", id="it is gone"),
        pytest.param(streamed(added(refused_policy("d", 4)), end_mark("5")), "", id="another can't be read"),
    ],
)
def test_last_good_versions_stay_in_force_where(step: Step, names: str) -> None:
    followed = play([], "EgressNATPolicy", Before(LAST_GOOD))
    step(followed)
    assert followed.holder.names == names
    said = [str(problem) for problems in followed.reflector.problems.values() for problem in problems]
    assert [text.endswith("; its last good version stays in force") for text in said] == [bool(names)] * len(said)


def test_last_good_versions_stay_in_force_in_a_list_by_pages() -> None:
    followed = play([refused(400)], "EgressNATPolicy", Before(LAST_GOOD))
    paged(page(refused_policy("c", 4)))(followed)
    assert followed.holder.items == {LAST_GOOD.ref: LAST_GOOD}
    looked_again(followed)
    paged(page(good_policy("c", 6)))(followed)
    assert followed.holder.items != {LAST_GOOD.ref: LAST_GOOD}
    assert followed.reflector.problems == {}


def test_the_issue_of_an_object_says_that_it_stays_in_force() -> None:
    synced = streamed(added(good_policy("a", 1)) + end_mark("5"))
    events = streamed(event("MODIFIED", refused_policy("a", 6)), added(refused_policy("d", 7)))
    followed = play([synced, events], "EgressNATPolicy")
    said = {ref.name: problems[0].reason for ref, problems in followed.reflector.problems.items()}
    assert [said[name].endswith("its last good version stays in force") for name in ("a", "d")] == [True, False]


def test_a_kind_of_the_previous_run_is_missing_after_the_third_404() -> None:
    """A starting API server returns 404 for its CRDs for a moment."""
    policy = EgressNATPolicy(name="e", action="NoSNAT")
    followed = play([NOT_FOUND, NOT_FOUND], "EgressNATPolicy", Before(policy))
    assert (followed.reflector.missing, followed.reflector.synced) == (False, False)
    NOT_FOUND(followed)
    assert (followed.reflector.missing, followed.reflector.synced) == (True, True)


def withheld(followed: Followed) -> None:
    followed.holder.take(followed.reflector.keep_in_force("served as v2"))


def test_a_kind_served_only_in_other_versions_keeps_its_objects() -> None:
    synced = streamed(added(good_policy("a", 1)) + end_mark("5"))
    followed = play([synced, ended, *[withheld] * 4], "EgressNATPolicy")
    assert (followed.holder.names, followed.reflector.missing) == ("a", False)
    assert followed.reflector.failure == WatchFailure("refused", "served as v2")
    for _ in range(3):
        NOT_FOUND(followed)
    assert followed.reflector.missing, "it is gone with its definition"


def test_a_kind_served_only_in_other_versions_keeps_the_objects_of_the_previous_run() -> None:
    followed = play([], "EgressNATPolicy", Before(LAST_GOOD))
    assert (followed.reflector.has_objects, followed.reflector.synced) == (True, False)
    withheld(followed)
    assert (followed.holder.names, followed.reflector.synced) == ("c", True)


def test_a_deleted_object_is_removed_even_if_it_can_not_be_decoded() -> None:
    followed = play([SYNCED, streamed(event("MODIFIED", broken_pod("a", 6)), event("DELETED", broken_pod("a", 7)))])
    assert (followed.holder.names, followed.reflector.version) == ("b", "7")


def test_an_object_that_was_never_in_force_is_not_removed() -> None:
    """NetworkLogging has one object: the removal of one with another name must not switch it off."""
    wrong = {"metadata": {"name": "other", "resourceVersion": "6"}}
    followed = play([streamed(end_mark("5"), added(wrong), event("DELETED", wrong))], "NetworkLogging")
    assert (followed.holder.given, followed.reflector.version) == ([], "6")


def test_services_are_listed_and_not_watched_first() -> None:
    followed = Followed()
    followed.reflector.list_only()
    assert followed.query == CACHED
    paged(page(pod("a")))(followed)
    assert followed.reflector.synced


@pytest.mark.parametrize("size", [1, 500])
def test_pages_have_the_requested_size(size: int) -> None:
    followed = Followed(page_size=size)
    NO_INITIAL_EVENTS(followed)
    assert followed.query == {"limit": str(size), "resourceVersion": "0"}


def unasked(*_: Any) -> None:  # noqa: ANN401 - accepts any arguments
    raise AssertionError


def test_keys_are_read_for_lists_only() -> None:
    followed = play([SYNCED])
    followed.reflector._keys = unasked  # type: ignore[assignment]  # noqa: SLF001 - no caller can see it otherwise
    streamed(added(pod("c", 6)), event("DELETED", pod("a", 7)), bookmark("9"))(followed)
    assert followed.holder.names == "b c"


def steps(call: Callable[[], object]) -> int:
    """Count the Python function calls of a call."""
    count = 0

    def profile(_frame: object, happened: str, _argument: object) -> None:
        nonlocal count
        count += happened == "call"

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(before)
    return count


def long_policy(peers: int) -> Document:
    names = [{"podSelector": {"matchLabels": {"app": f"app-{number}"}}} for number in range(peers)]
    return {
        "metadata": {"namespace": "shop", "name": "p", "resourceVersion": "9"},
        "spec": {"podSelector": {}, "ingress": [{"from": names}]},
    }


@pytest.mark.parametrize("size", [1000, 65536, 10_000_000])
def test_a_long_object_is_decoded_ahead_of_time(size: int) -> None:
    body = added(long_policy(4000), long_policy(1))
    assert len(body) > 2 * LONG
    ahead, plain = Followed("NetworkPolicy"), Followed("NetworkPolicy")
    worked, taken = 0, 0
    for start in range(0, len(body), size):
        chunk = body[start : start + size]
        plain.holder.take(plain.reflector.feed_watch(chunk))
        if (work := ahead.reflector.predecoder.work(chunk)) is not None:
            worked += 1
            work()
        taken += steps(lambda: ahead.holder.take(ahead.reflector.feed_watch(chunk)))  # noqa: B023 - called at once
    assert ahead.reflector.version == plain.reflector.version
    assert ahead.holder.keys("NetworkPolicy") == plain.holder.keys("NetworkPolicy")
    if size < len(body):
        assert worked == 1
        assert taken < 4000, "the peers were read before"


def test_a_long_line_that_is_no_event_is_a_failure() -> None:
    followed = Followed("NetworkPolicy")
    for chunk in (b"x" * LONG, b"y\n"):
        if (work := followed.reflector.predecoder.work(chunk)) is not None:
            work()
        followed.holder.take(followed.reflector.feed_watch(chunk))
    assert followed.reflector.failure is not None
