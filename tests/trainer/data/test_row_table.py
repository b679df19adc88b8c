from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.row_table import Part, RecordIds, Rows, RowTable
from finetune_trainer.data.rows import Row

IDS = st.lists(
    st.tuples(st.sampled_from(["s3://b/a.jsonl", "s3://b/c#d.jsonl", "file:///x"]), st.integers(1, 10**12)).map(
        lambda one: f"{one[0]}#{one[1]}"
    ),
    max_size=8,
)


def table(*rows: list[int], first: int = 0, weighted: bool = False) -> RowTable:
    """Rows of documents of so many tokens, all trained but the first of each, in records from number `first` + 1 on."""
    lengths = np.array([length for row in rows for length in row], dtype=np.int64)
    count, starts = int(lengths.sum()), np.concatenate([[0], np.cumsum([sum(row) for row in rows], dtype=np.int64)])
    trained = np.ones(count, dtype=np.bool_)
    trained[np.cumsum(lengths) - lengths] = False
    return RowTable(
        np.arange(count, dtype=np.uint16),
        trained,
        lengths,
        RecordIds.of(f"a#{first + n}" for n in range(1, len(lengths) + 1)),
        np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)]),
        starts,
        np.arange(len(lengths), dtype=np.float32)[:, None],
        np.linspace(0, 1, count, dtype=np.float32) if weighted else None,
    )


def values(row: Row) -> tuple[Any, ...]:
    targets, weights = (None if one is None else one.tolist() for one in (row.targets, row.weights))
    return row.tokens.tolist(), row.trained.tolist(), row.lengths, row.records, targets, weights


@given(parts=st.lists(IDS, min_size=1, max_size=3), data=st.data())
def test_ids_are_written_as_they_were_read(parts: list[list[str]], data: st.DataObject) -> None:
    joined, ids = RecordIds.joined([RecordIds.of(part) for part in parts]), [one for part in parts for one in part]
    assert (joined.written, len(joined)) == (ids, len(ids))
    order = data.draw(st.lists(st.integers(0, len(ids) - 1), max_size=5)) if ids else []
    assert joined[np.array(order, dtype=np.int64)].written == [ids[place] for place in order]


def test_a_row_holds_what_lies_between_its_borders() -> None:
    found = table([2, 1], [3], weighted=True).row(0)
    assert values(found)[:4] == ([0, 1, 2], [False, True, False], (2, 1), ("a#1", "a#2"))
    assert found.targets is not None and found.targets.tolist() == [[0.0], [1.0]]
    assert found.weights is not None and found.weights == pytest.approx([0, 0.2, 0.4])


def test_rows_of_several_tables_are_those_rows_one_behind_the_other() -> None:
    one, other = table([2, 1], [3], [4]), table([1], [2, 2], first=9, weighted=True)
    rows = Rows(Part(one, 1, 3), Part(other, 0, 2))
    apart = [one.row(1), one.row(2), other.row(0), other.row(1)]
    assert [values(row) for row in rows] == [values(row) for row in apart]
    assert [values(rows[n]) for n in (0, 3, -1, -4)] == [values(apart[n]) for n in (0, 3, -1, -4)]
    assert [values(row) for row in rows[1:3]] == [values(row) for row in apart[1:3]]
    assert [values(row) for row in rows.chosen([3, 0])] == [values(apart[n]) for n in (3, 0)]
    assert rows.lengths == [len(row) for row in apart] == [3, 4, 1, 4]
    with pytest.raises(IndexError):
        rows[4]


def test_rows_are_counted_as_if_each_was_looked_at() -> None:
    one, other = table([2, 1], [3], [4]), table([1], [2, 2], first=9)
    rows = Rows(Part(one, 0, 2), Part(other, 1, 2))
    kept = sum(row.kept_tokens for row in rows)
    assert rows.counts == (sum(len(row.records) for row in rows), sum(map(len, rows)), kept) == (5, 10, 5)


def test_a_table_may_be_empty() -> None:
    rows = Rows(Part(table(), 0, 0))
    assert (list(rows), len(rows), rows.counts) == ([], 0, (0, 0, 0))
