"""A store never goes back in time, keeps incarnations apart, and reports each change once."""

from __future__ import annotations

import pytest

from finetune_operator.core.store import Store
from finetune_operator.kube import Object

Reported = tuple[str | None, str | None]


def pod(version: int, uid: str = "u1", name: str = "a", **labels: str) -> Object:
    metadata = {"namespace": "ns", "name": name, "uid": uid, "resourceVersion": str(version), "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}


@pytest.fixture
def reported() -> list[Reported]:
    return []


@pytest.fixture
def store(reported: list[Reported]) -> Store:
    def seen(obj: Object | None) -> str | None:
        return None if obj is None else f"{obj['metadata']['uid']}@{obj['metadata']['resourceVersion']}"

    return Store(
        {"job": lambda obj: [obj["metadata"]["labels"].get("job", "none")]},
        on_change=lambda old, new: reported.append((seen(old), seen(new))),
    )


def versions(store: Store) -> list[str]:
    return [obj["metadata"]["resourceVersion"] for obj in store.all()]


def test_changes_are_reported_with_what_was_and_what_is(store: Store, reported: list[Reported]) -> None:
    store.put(pod(1))
    store.put(pod(2))
    store.deleted(pod(3))
    assert reported == [(None, "u1@1"), ("u1@1", "u1@2"), ("u1@3", None)]
    assert store.get("ns", "a") is None
    assert len(store) == 0


def test_the_answer_to_a_write_is_seen_at_once_and_its_event_is_no_news(store: Store, reported: list[Reported]) -> None:
    store.put(pod(1))
    store.put(pod(5))  # the answer to our write
    store.put(pod(3))  # the event of somebody's write before it, which the answer includes
    store.put(pod(5))  # the event of ours
    assert versions(store) == ["5"]
    assert reported == [(None, "u1@1"), ("u1@1", "u1@5")]


def test_versions_are_compared_as_numbers(store: Store) -> None:
    store.put(pod(9))
    store.put(pod(10))
    store.put(pod(9))
    assert versions(store) == ["10"]


def test_an_object_made_again_under_its_name_is_an_end_and_a_beginning(store: Store, reported: list[Reported]) -> None:
    store.put(pod(1, "old"))
    store.put(pod(7, "new"))
    assert reported == [(None, "old@1"), ("old@1", None), (None, "new@7")]


def test_late_events_of_an_earlier_incarnation_harm_the_new_one_not(store: Store, reported: list[Reported]) -> None:
    store.put(pod(7, "new"))
    store.put(pod(5, "old"))
    store.deleted(pod(6, "old"))
    store.deleted(pod(8, "old"))
    assert reported == [(None, "new@7")]
    assert versions(store) == ["7"]


def test_an_end_older_than_what_is_known_is_no_end(store: Store) -> None:
    """A watch by label says DELETED when the label goes; a write of ours may have brought it back since."""
    store.put(pod(9))
    store.deleted(pod(8))
    assert versions(store) == ["9"]


def test_what_our_delete_ended_does_not_come_back_with_late_events(store: Store, reported: list[Reported]) -> None:
    store.put(pod(1))
    store.remove("ns", "a", "u1")
    store.put(pod(2))  # an event from before the delete
    assert store.get("ns", "a") is None
    store.deleted(pod(3))
    assert reported == [(None, "u1@1"), ("u1@1", None)]


def test_what_our_delete_ended_before_it_was_ever_seen_does_not_appear(store: Store, reported: list[Reported]) -> None:
    store.remove("ns", "a", "u1")
    store.put(pod(2))
    assert reported == []


def test_an_answer_that_is_read_after_the_end_was_told_brings_nothing_back(
    store: Store, reported: list[Reported]
) -> None:
    store.put(pod(1))
    store.deleted(pod(3))
    store.put(pod(2))  # the answer to the delete that set the deletionTimestamp
    assert len(store) == 0
    store.put(pod(4, uid="u2"))
    assert reported == [(None, "u1@1"), ("u1@3", None), (None, "u2@4")]


def test_an_answer_that_is_read_after_a_list_without_the_object_brings_nothing_back(store: Store) -> None:
    store.put(pod(1))
    store.keep([], "5")
    store.put(pod(2))
    assert len(store) == 0


def test_an_object_that_the_watch_selects_again_is_there_again(store: Store) -> None:
    store.put(pod(1))
    store.deleted(pod(2))  # what a selector no longer chooses is told as deleted
    store.put(pod(3))
    assert versions(store) == ["3"]


def test_only_the_last_ends_are_remembered(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_operator.core.store.REMEMBERED", 2)
    for number in range(1, 4):
        store.deleted(pod(number, uid=f"u{number}"))
    store.put(pod(2, uid="u2"))
    assert len(store) == 0
    store.put(pod(1, uid="u1"))
    assert versions(store) == ["1"]


def test_our_delete_of_one_incarnation_leaves_the_next_alone(store: Store) -> None:
    store.put(pod(7, "new"))
    store.remove("ns", "a", "old")
    assert versions(store) == ["7"]


def test_a_list_ends_what_it_does_not_have_but_not_what_is_newer(store: Store, reported: list[Reported]) -> None:
    store.put(pod(1, "gone", "gone"))
    store.put(pod(2, "there", "there"))
    store.put(pod(30, "made", "made"))  # by us, while the list was under way
    store.keep(["there"], "20")
    assert sorted(obj["metadata"]["name"] for obj in store.all()) == ["made", "there"]
    assert reported[3:] == [("gone@1", None)]


def test_a_list_made_before_our_delete_does_not_bring_the_object_back(store: Store) -> None:
    store.put(pod(1))
    store.remove("ns", "a", "u1")
    store.put(pod(1))  # an item of a list that was under way
    store.keep(["u1"], "1")
    store.put(pod(2))  # the watch goes on from the list
    assert store.get("ns", "a") is None


def test_ends_that_a_list_confirms_are_forgotten(store: Store) -> None:
    for number in range(1000):
        store.remove("ns", "a", f"uid-{number}")
    store.keep([], "5")
    assert len(store._removed) == 0


def test_objects_are_found_by_index_as_long_as_they_belong_there(store: Store) -> None:
    store.put(pod(1, "u1", "a", job="x"))
    store.put(pod(2, "u2", "b", job="x"))
    assert [obj["metadata"]["name"] for obj in store.by("job", "x")] == ["a", "b"]
    store.put(pod(3, "u1", "a", job="y"))
    store.deleted(pod(4, "u2", "b", job="x"))
    assert store.by("job", "x") == []
    assert [obj["metadata"]["name"] for obj in store.by("job", "y")] == ["a"]


def test_the_index_is_current_when_a_change_is_reported() -> None:
    found: list[int] = []

    def count(old: Object | None, new: Object | None) -> None:
        found.append(len(pods.by("job", "x")))

    pods = Store({"job": lambda obj: ["x", "x"]}, on_change=count)
    pods.put(pod(1))
    pods.put(pod(2))
    pods.deleted(pod(3))
    assert found == [1, 1, 0]


def test_only_what_is_left_of_an_object_is_kept(store: Store) -> None:
    def trim(obj: Object) -> Object:
        return {"metadata": obj["metadata"]}

    kept = Store(trim=trim)
    kept.put(pod(1))
    assert kept.get("ns", "a") == {"metadata": pod(1)["metadata"]}
