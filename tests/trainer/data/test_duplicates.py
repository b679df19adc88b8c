from __future__ import annotations

import random

import numpy as np
import pytest
from numpy.typing import NDArray

from finetune_trainer.data import duplicates
from finetune_trainer.data.duplicates import (
    PERMUTATIONS,
    SHINGLE,
    common_shingles,
    equal_to_earlier,
    shingles,
    signatures,
    similar_to_earlier,
    without,
)

Tokens = NDArray[np.int32]


def document(seed: int, length: int) -> Tokens:
    return np.random.default_rng(seed).integers(0, 50_000, length).astype(np.int32)


def sets_of(documents: list[Tokens]) -> list[set[tuple[int, ...]]]:
    """Every document's shingles, the plain way."""
    return [{tuple(d[i : i + SHINGLE].tolist()) for i in range(len(d) - SHINGLE + 1)} for d in documents]


def jaccard(one: set[tuple[int, ...]], other: set[tuple[int, ...]]) -> float:
    return len(one & other) / len(one | other)


def changed(tokens: Tokens, places: list[int]) -> Tokens:
    copy = tokens.copy()
    copy[places] += 50_000
    return copy


def matches(documents: list[Tokens], reference: list[bool] | None = None) -> list[int]:
    signed = signatures(*shingles(documents))
    known = np.array(reference if reference is not None else [True] * len(documents), dtype=bool)
    found: list[int] = similar_to_earlier(signed, np.arange(len(documents)), known).tolist()
    return found


def test_shingles_are_the_runs_within_each_document() -> None:
    documents = [document(1, 9), document(2, 3), document(3, 0), document(4, 5), document(1, 9)]
    hashes, bounds = shingles(documents)
    assert np.diff(bounds).tolist() == [5, 0, 0, 1, 5]
    assert hashes[:5].tolist() == hashes[6:].tolist()
    assert len(set(hashes.tolist())) == 6


@pytest.mark.parametrize("edits", [1, 4, 12, 30])
def test_the_share_of_equal_values_estimates_the_jaccard_similarity(edits: int) -> None:
    rng = random.Random(edits)
    wrong = []
    for seed in range(20):
        base = document(seed, 300)
        pair = [base, changed(base, rng.sample(range(300), edits))]
        one, other = signatures(*shingles(pair))
        wrong.append(float(np.mean(one == other)) - jaccard(*sets_of(pair)))
    assert abs(np.mean(wrong)) < 4 * 0.5 / np.sqrt(20 * PERMUTATIONS)
    assert max(map(abs, wrong)) < 4.5 * 0.5 / np.sqrt(PERMUTATIONS)


def test_signatures_do_not_depend_on_what_stands_beside_a_document(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [document(seed, 7 * seed) for seed in range(40)]
    together = signatures(*shingles(documents))
    alone = np.concatenate([signatures(*shingles([one])) for one in documents])
    monkeypatch.setattr(duplicates, "SLICE", 64)
    assert np.array_equal(together, alone)
    assert np.array_equal(together, signatures(*shingles(documents)))


def test_planted_near_duplicates_are_found_and_nothing_else() -> None:
    documents = [document(seed, 200) for seed in range(300)]
    for target, source in ((50, 3), (120, 3), (299, 200)):
        documents[target] = changed(documents[source], [20, 150])  # similarity 186 / 206 = 0.90
    documents[7] = changed(documents[6], list(range(0, 200, 10)))  # similarity about 0.33
    expected = [-1] * 300
    expected[50], expected[120], expected[299] = 3, 3, 200
    assert matches(documents) == expected


def test_a_chain_is_followed_to_the_nearest_record_of_a_bucket() -> None:
    """The last of a chain resembles the one before it, and the first no longer."""
    chain = [document(0, 300)]
    for step in range(1, 12):
        chain.append(changed(chain[-1], [25 * step]))
    assert jaccard(*sets_of([chain[0], chain[-1]])) < 0.75
    assert all(found >= 0 for found in matches(chain)[1:])


def test_records_of_no_shingle_resemble_nothing() -> None:
    assert matches([document(1, SHINGLE - 1), document(1, SHINGLE - 1), document(2, 0)]) == [-1, -1, -1]
    assert matches([]) == []


def test_only_reference_records_are_matched() -> None:
    base = document(5, 100)
    copies = [base, document(6, 100), base, changed(base, [50])]
    assert matches(copies, [False, True, True, False]) == [-1, -1, -1, 2]
    assert matches(copies, [True, True, False, False]) == [-1, -1, 0, 0]
    digests = np.array([9, 4, 9, 9, 4, 7], dtype=np.uint64)
    assert equal_to_earlier(digests, np.ones(6, dtype=bool)).tolist() == [-1, -1, 0, 0, 1, -1]
    later = np.array([False, False, True, True, True, True])
    assert equal_to_earlier(digests, later).tolist() == [-1, -1, -1, 2, -1, -1]


def test_a_shared_system_prompt_does_not_make_records_alike() -> None:
    prompt = document(0, 400)
    documents = [np.concatenate([prompt, document(seed, 30)]) for seed in range(1, 65)]
    documents[40] = np.concatenate([prompt, changed(document(10, 30), [29])])  # as record 9, but for the last token
    hashes, bounds = shingles(documents)
    groups = np.zeros(64, dtype=np.int64)
    common = common_shingles(hashes, bounds, groups)
    assert len(common) == 400 - SHINGLE + 1
    signed = signatures(*without(hashes, bounds, common))
    found = similar_to_earlier(signed, np.arange(64), np.ones(64, dtype=bool))
    assert found.tolist() == [9 if i == 40 else -1 for i in range(64)]
    assert np.count_nonzero(np.array(matches(documents)) >= 0) == 63
    few = common_shingles(*shingles(documents[:20]), groups[:20])
    assert len(few) == 0
