"""Which records equal or closely resemble an earlier one; pure numpy.

Resemblance is the Jaccard similarity of two records' sets of shingles (runs of `SHINGLE` tokens), estimated by the
share of `PERMUTATIONS` random orders in which both sets have the same first element (Broder, On the resemblance and
containment of documents, SEQUENCES 1997). Candidates are found by locality-sensitive hashing: records that agree in
all rows of any of `BANDS` bands (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3.4), which pairs
of similarity s do with probability 1 - (1 - s^4)^32, at s = 0.8 all but 1 in 20 million. In a bucket, a record is
compared with the first and with the nearest of those before it: the work grows with the records, never with pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

SHINGLE = 5
"""Tokens of a shingle (Lee et al., Deduplicating training data makes language models better, ACL 2022)."""

PERMUTATIONS = 128
"""The estimate's standard error is sqrt(s (1 - s) / 128): 0.035 at a similarity of 0.8."""

BANDS = 32
ROWS = PERMUTATIONS // BANDS

THRESHOLD = 0.8
"""Estimated Jaccard similarity from which on a record counts as a near duplicate (SlimPajama, Cerebras 2023)."""

# Templates and system prompts are in most records and make them alike without being their content.
COMMON_SHARE = 0.5
COMMON_RECORDS = 32
COMMON_SAMPLE = 256

EMPTY = np.uint32(0xFFFFFFFF)
"""All values of a signature of no shingles: it resembles nothing."""

# Values that a permutation handles at a time: 512 KB, to stay in a core's cache.
SLICE = 65536
PAIRS = 65536

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint32]
Signatures = NDArray[np.uint32]


def shingles(documents: Sequence[NDArray[np.int32]]) -> tuple[Hashes, Ints]:
    """Hashes of every document's shingles, one document after another, and int64[documents + 1] where each begins."""
    lengths = np.array([len(ids) for ids in documents], dtype=np.int64)
    if lengths.sum() < SHINGLE:
        return np.empty(0, dtype=np.uint32), np.zeros(len(documents) + 1, dtype=np.int64)
    ids = np.concatenate(documents).astype(np.uint64)
    count = len(ids) - SHINGLE + 1
    mixed = np.zeros(count, dtype=np.uint64)
    for place in range(SHINGLE):
        mixed = _mixed(mixed + ids[place : place + count])
    owner = np.repeat(np.arange(len(documents)), lengths)
    within = owner[:count] == owner[SHINGLE - 1 :]
    return _upper(mixed[within]), _bounds(owner[:count][within], len(documents))


def common_shingles(hashes: Hashes, bounds: Ints, groups: Ints) -> Hashes:
    """Shingles in more than half of the first 256 documents of any group of at least 32: templates, system prompts.

    `groups`: int64[documents]. The shingles are ascending.
    """
    found = [np.empty(0, dtype=np.uint32)]
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)[:COMMON_SAMPLE]
        if len(members) >= COMMON_RECORDS:
            once = [np.unique(hashes[bounds[member] : bounds[member + 1]]) for member in members]
            values, counts = np.unique(np.concatenate(once), return_counts=True)
            found.append(values[counts > COMMON_SHARE * len(members)])
    return np.unique(np.concatenate(found))


def without(hashes: Hashes, bounds: Ints, left_out: Hashes) -> tuple[Hashes, Ints]:
    """Documents' shingles, as `shingles` returns them, without those in `left_out`."""
    if not len(left_out):
        return hashes, bounds
    owner = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    kept = ~np.isin(hashes, left_out)
    return hashes[kept], _bounds(owner[kept], len(bounds) - 1)


def signatures(hashes: Hashes, bounds: Ints) -> Signatures:
    """MinHash signatures of documents whose shingles are given as `shingles` returns them: uint32[documents, 128]."""
    made = np.full((len(bounds) - 1, PERMUTATIONS), EMPTY, dtype=np.uint32)
    holding = np.flatnonzero(np.diff(bounds))
    for documents in _slices(holding, bounds):
        first, end = bounds[documents[0]], bounds[documents[-1] + 1]
        values = hashes[first:end].astype(np.uint64)
        starts = bounds[documents] - first
        for number, (factor, offset) in enumerate(_FUNCTIONS):
            made[documents, number] = _upper(np.minimum.reduceat(values * factor + offset, starts))
    return made


def equal_to_earlier(digests: NDArray[np.uint64], reference: NDArray[np.bool_]) -> Ints:
    """For each record the first one before it, among `reference`, that has its digest; -1 where there is none."""
    return _earlier(digests, reference)[0]


def similar_to_earlier(signed: Signatures, rows: Ints, reference: NDArray[np.bool_]) -> Ints:
    """For each of `rows` of `signed` one before it, among `reference`, that it resembles; -1 where none was found.

    `reference`: bool[rows]. Positions returned are in `rows`.
    """
    holding = signed[rows, 0] != EMPTY
    found = np.full(len(rows), -1, dtype=np.int64)
    for band in range(BANDS):
        columns = signed[rows, band * ROWS : (band + 1) * ROWS].astype(np.uint64)
        key = np.zeros(len(rows), dtype=np.uint64)
        for column in columns.T:
            key = _mixed(key + column)
        for candidates in _earlier(key, reference & holding):
            pending = np.flatnonzero((candidates >= 0) & (found < 0) & holding)
            for start in range(0, len(pending), PAIRS):
                ours = pending[start : start + PAIRS]
                theirs = candidates[ours]
                alike = np.mean(signed[rows[ours]] == signed[rows[theirs]], axis=1) >= THRESHOLD
                found[ours[alike]] = theirs[alike]
    return found


def _earlier(keys: NDArray[np.uint64], reference: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """For each element the first and the nearest one before it, among `reference`, that has its key, or -1."""
    count = len(keys)
    order = np.argsort(keys, kind="stable")
    ordered, place = keys[order], np.arange(count)
    begins = np.concatenate([np.ones(min(count, 1), dtype=bool), ordered[1:] != ordered[:-1]])
    start = np.maximum.accumulate(np.where(begins, place, 0))
    known = reference[order]
    next_known = np.minimum.accumulate(np.where(known, place, count)[::-1])[::-1]
    last_known = np.concatenate([[-1], np.maximum.accumulate(np.where(known, place, -1))[:-1]])[:count]
    first, nearest = np.full(count, -1, dtype=np.int64), np.full(count, -1, dtype=np.int64)
    has = last_known >= start
    first[order[has]] = order[next_known[start[has]]]
    nearest[order[has]] = order[last_known[has]]
    return first, nearest


def _slices(documents: Ints, bounds: Ints) -> Iterator[Ints]:
    """Consecutive documents with some `SLICE` shingles together."""
    if len(documents):
        yield from np.split(documents, np.flatnonzero(np.diff(bounds[documents] // SLICE)) + 1)


def _bounds(owner: Ints, documents: int) -> Ints:
    return np.searchsorted(owner, np.arange(documents + 1)).astype(np.int64)


def _upper(values: NDArray[np.uint64]) -> NDArray[np.uint32]:
    return (values >> np.uint64(32)).astype(np.uint32)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


# Multiply, add and shift: strongly universal from 32 to 32 bits (Dietzfelbinger, STACS 1996).
_FUNCTIONS = _mixed(np.arange(1, 2 * PERMUTATIONS + 1, dtype=np.uint64)).reshape(PERMUTATIONS, 2)
