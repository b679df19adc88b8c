from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.bijection import derive_key, permutation, permute


@given(size=st.integers(1, 5000), seed=st.integers(0, 2**63))
def test_a_permutation_holds_every_number_once(size: int, seed: int) -> None:
    assert np.array_equal(np.sort(permutation(derive_key(seed), size)), np.arange(size))


@given(size=st.integers(1, 2**40), data=st.data())
def test_single_positions_are_permuted_without_the_rest(size: int, data: st.DataObject) -> None:
    positions = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20, unique=True))
    found = permute(derive_key("key"), size, np.array(positions))
    assert len(set(found.tolist())) == len(positions)
    assert all(0 <= value < size for value in found)
    alone = [int(permute(derive_key("key"), size, np.array([position]))[0]) for position in positions]
    assert found.tolist() == alone
    assert permute(derive_key("key"), size, found, inverse=True).tolist() == positions


@pytest.mark.parametrize("size", [3, 4])
def test_every_order_of_few_items_is_about_equally_likely(size: int) -> None:
    keys = 1200
    counts = Counter(tuple(permutation(derive_key(key), size).tolist()) for key in range(keys))
    orders = {3: 6, 4: 24}[size]
    assert len(counts) == orders
    expected = keys / orders
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_squared < 2 * orders + 20  # far beyond the 99.9 % quantile of `orders` - 1 degrees of freedom


def test_places_of_neighbours_are_not_correlated() -> None:
    order = permutation(derive_key(0), 10_000).astype(float)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.03
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.03


def test_keys_depend_on_where_a_part_ends_and_on_its_type() -> None:
    keys = [derive_key("a", "b"), derive_key("ab"), derive_key('a", "b'), derive_key(1, 23), derive_key(12, 3)]
    assert len({*keys, derive_key("1", 23)}) == 6


def test_orders_are_those_of_version_1() -> None:
    """A change here changes the order of every run: raise STATE_VERSION with it."""
    assert permutation(derive_key(0, "records", 7), 10).tolist() == [3, 0, 2, 6, 9, 1, 5, 7, 4, 8]
    assert permutation(derive_key(17), 100_000)[:5].tolist() == [42127, 55366, 84679, 2170, 84784]
