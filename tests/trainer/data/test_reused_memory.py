from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from finetune_trainer.data import memory

View = Callable[[NDArray[np.int32]], object]

COUNT = memory.LEAST_BYTES  # of uint16: twice what is kept


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    memory._free.clear()
    yield
    memory._free.clear()


def kept() -> int:
    return sum(map(len, memory._free.values()))


def test_memory_of_an_array_that_is_gone_is_that_of_the_next_one_of_about_its_size() -> None:
    first = memory.empty(COUNT, np.dtype(np.uint16))
    place = first.ctypes.data
    del first
    second = memory.empty(COUNT // 2 - 3, np.dtype(np.int32))
    assert second.ctypes.data == place
    assert second.shape == (COUNT // 2 - 3,)


@pytest.mark.parametrize("view", [lambda whole: whole[5:7], torch.from_numpy, lambda whole: memoryview(whole[1:])])
def test_memory_that_somebody_still_looks_at_is_used_by_nobody_else(view: View) -> None:
    whole = memory.empty(COUNT, np.dtype(np.int32))
    part = view(whole)
    del whole
    gc.collect()
    assert kept() == 0
    del part
    assert kept() == 1


def test_arrays_in_use_at_the_same_time_have_memory_of_their_own() -> None:
    several = [memory.empty(COUNT, np.dtype(np.int32)) for _ in range(memory.SPARE + 2)]
    for number, one in enumerate(several):
        one[:] = number
    assert [int(one.min()) for one in several] == [int(one.max()) for one in several] == list(range(memory.SPARE + 2))
    del one
    several.clear()
    assert kept() == memory.SPARE


def test_small_arrays_are_left_to_the_allocator() -> None:
    small = memory.empty(100, np.dtype(np.int32))
    del small
    assert kept() == 0


def test_parts_are_joined_in_the_type_that_is_asked_for() -> None:
    joined = memory.joined([np.array([1, 2], np.uint16), np.array([70_000], np.uint32)], np.dtype(np.uint32))
    assert joined.tolist() == [1, 2, 70_000]
    assert joined.dtype == np.uint32
