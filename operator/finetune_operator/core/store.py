"""The objects of one kind, as new as anything that this process has seen of them: from watches and from its writes.

An older state never replaces a newer one, so whoever reads the store after a write sees at least that write. It brings
nothing back either: the answer to a delete may be read after the watch has told that the object is gone. This rests on
resourceVersions that rise, which Kubernetes 1.35 promises and etcd has always done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from finetune_operator.kube import Object

REMEMBERED = 10_000
"""The last deleted objects, which are remembered: more than can be deleted while an answer is on its way."""

Key = tuple[str, str]
"""Namespace (empty for objects of the cluster) and name."""

Index = Callable[[Object], Iterable[str]]
OnChange = Callable[[Object | None, Object | None], None]


def key_of(obj: Object) -> Key:
    """Return the key of an object."""
    metadata = obj["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


class Store:
    """Objects by key and by index. They are shared: nobody may change one.

    `on_change(old, new)` is told of every change, with None for what was or is not there; of a deleted object it gets
    the last state. An object that was deleted and made again under its name is two changes. It must be quick and must
    not raise. `trim` drops what nobody reads.
    """

    def __init__(
        self,
        indices: Mapping[str, Index] | None = None,
        trim: Callable[[Object], Object] = lambda obj: obj,
        on_change: OnChange = lambda old, new: None,
    ) -> None:
        self._objects: dict[Key, Object] = {}
        self._indices = dict(indices or {})
        self._found: dict[str, dict[str, dict[Key, Object]]] = {name: {} for name in self._indices}
        self._trim = trim
        self._on_change = on_change
        self._removed: set[str] = set()  # uids that a write of ours ended and the watch has not reported yet
        self._ended: dict[str, int] = {}  # uid and resourceVersion of what was deleted, the last ones

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, namespace: str, name: str) -> Object | None:
        """Return one object."""
        return self._objects.get((namespace, name))

    def all(self) -> list[Object]:
        """Return every object."""
        return list(self._objects.values())

    def by(self, index: str, key: str) -> list[Object]:
        """Return the objects that the index files under `key`."""
        return list(self._found[index].get(key, {}).values())

    def put(self, obj: Object) -> None:
        """Take the state of an object: an event of a watch, an item of a list or the answer to a write."""
        if _uid(obj) in self._removed or _version(obj) <= self._ended.get(_uid(obj), 0):
            return
        key = key_of(obj)
        old = self._objects.get(key)
        if old is None:
            self._set(key, None, self._trim(obj))
        elif _version(obj) <= _version(old):
            return
        elif _uid(obj) == _uid(old):
            self._set(key, old, self._trim(obj))
        else:
            self._drop(key, old)
            self._set(key, None, self._trim(obj))

    def remove(self, namespace: str, name: str, uid: str) -> None:
        """Forget an object because the API server said that our delete ended it."""
        old = self._objects.get((namespace, name))
        if uid not in self._ended:
            self._removed.add(uid)
        if old is not None and _uid(old) == uid:
            self._drop((namespace, name), old)

    def deleted(self, obj: Object) -> None:
        """Take the DELETED event of a watch. It ends this incarnation only, and not a state newer than the event."""
        self._removed.discard(_uid(obj))
        self._remember(_uid(obj), _version(obj))
        key = key_of(obj)
        old = self._objects.get(key)
        if old is not None and _uid(old) == _uid(obj) and _version(old) <= _version(obj):
            self._drop(key, old, self._trim(obj))

    def keep(self, uids: Iterable[str], version: str) -> None:
        """Forget all but the objects with these uids, which a list found at `version`, and newer ones."""
        listed, newest = set(uids), int(version)
        self._removed &= listed
        for key, old in list(self._objects.items()):
            if _uid(old) not in listed and _version(old) <= newest:
                self._remember(_uid(old), newest)
                self._drop(key, old)

    def _remember(self, uid: str, version: int) -> None:
        self._ended[uid] = version
        if len(self._ended) > REMEMBERED:
            del self._ended[next(iter(self._ended))]

    def _set(self, key: Key, old: Object | None, new: Object) -> None:
        if old is not None:
            self._unfile(key, old)
        self._objects[key] = new
        for name, index in self._indices.items():
            for value in index(new):
                self._found[name].setdefault(value, {})[key] = new
        self._on_change(old, new)

    def _drop(self, key: Key, old: Object, last: Object | None = None) -> None:
        self._unfile(key, old)
        del self._objects[key]
        self._on_change(last or old, None)

    def _unfile(self, key: Key, old: Object) -> None:
        for name, index in self._indices.items():
            found = self._found[name]
            for value in set(index(old)):
                del found[value][key]
                if not found[value]:
                    del found[value]


def _uid(obj: Object) -> str:
    uid: str = obj["metadata"]["uid"]
    return uid


def _version(obj: Object) -> int:
    return int(obj["metadata"]["resourceVersion"])
