from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.encode import Document
from finetune_trainer.data.examples import BadRecord
from finetune_trainer.data.overlong import fit_length
from finetune_trainer.data.rows import Counters
from finetune_trainer.spec import Overlong


def document(length: int, trained: range | None = None) -> Document:
    ids = np.arange(length, dtype=np.int32)
    kept = np.isin(ids, list(range(1, length) if trained is None else trained))
    return Document(ids, np.where(kept, ids, -100).astype(np.int32))


@pytest.mark.parametrize("overlong", list(Overlong))
def test_a_document_that_fits_is_left_alone(overlong: Overlong) -> None:
    given_document = document(10)
    fitted = fit_length(given_document, 10, overlong)
    assert fitted.pieces == (given_document,)
    assert fitted.counters is None


def test_truncate_keeps_the_beginning_and_counts_the_rest() -> None:
    fitted = fit_length(document(25), 10, Overlong.TRUNCATE)
    assert [piece.input_ids.tolist() for piece in fitted.pieces] == [list(range(10))]
    assert fitted.counters == Counters(truncated=1, lost_tokens=15)


def test_drop_keeps_nothing_and_counts_it() -> None:
    fitted = fit_length(document(25), 10, Overlong.DROP)
    assert fitted.pieces == ()
    assert fitted.counters == Counters(dropped=1, lost_tokens=25)


@given(length=st.integers(11, 200), max_length=st.integers(2, 10))
def test_split_keeps_every_token_and_every_mask_but_first_labels(length: int, max_length: int) -> None:
    whole = document(length)
    fitted = fit_length(whole, max_length, Overlong.SPLIT)
    assert all(len(piece.input_ids) <= max_length for piece in fitted.pieces)
    tokens = np.concatenate([piece.input_ids for piece in fitted.pieces])
    lost = length - len(tokens)
    assert np.array_equal(tokens, whole.input_ids[: len(tokens)])
    assert lost <= 1  # a last piece of one token has none to train
    assert all(
        piece.labels[0] == -100 and np.array_equal(piece.labels[1:], piece.input_ids[1:]) for piece in fitted.pieces
    )
    assert fitted.counters == Counters(split=1, empty_pieces=lost, lost_tokens=lost)


def test_pieces_without_a_trained_token_are_left_out_and_counted() -> None:
    fitted = fit_length(document(30, trained=range(12, 15)), 10, Overlong.SPLIT)
    assert [piece.input_ids.tolist() for piece in fitted.pieces] == [list(range(10, 20))]
    assert fitted.pieces[0].labels.tolist() == [-100, -100, 12, 13, 14, -100, -100, -100, -100, -100]
    assert fitted.counters == Counters(split=1, empty_pieces=2, lost_tokens=20)


def test_the_document_itself_is_not_changed() -> None:
    whole = document(20)
    fit_length(whole, 10, Overlong.SPLIT)
    assert whole.labels[10] == 10


@pytest.mark.parametrize(
    ("overlong", "trained"),
    [(Overlong.TRUNCATE, range(10, 20)), (Overlong.SPLIT, range(10, 11)), (Overlong.TRUNCATE, range(0))],
)
def test_a_document_whose_answer_is_cut_off_is_bad(overlong: Overlong, trained: range) -> None:
    with pytest.raises(
        BadRecord, match=r"no trained token within spec\.data\.maxLength \(10 tokens\) of its 20 tokens"
    ):
        fit_length(document(20, trained=trained), 10, overlong)
