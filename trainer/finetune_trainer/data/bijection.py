"""Keyed permutations that are computed, not stored: the same on every machine, Python and numpy version.

A balanced Feistel network permutes the smallest power of four that holds the domain, and positions that fall outside
the domain walk on along their cycle until they are inside ("cycle walking": Black and Rogaway, Ciphers with Arbitrary
Finite Domains, CT-RSA 2002). The round function is the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
Any change to what this file computes is a new `STATE_VERSION`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

ROUNDS = 8
# Below this, too few round outputs exist for all orders of a handful of items to be equally likely.
MIN_HALF_BITS = 4


def derive_key(*parts: int | str) -> bytes:
    """64 bytes that depend on every one of `parts` and on where one ends and the next begins."""
    return blake2b(json.dumps(parts).encode(), digest_size=8 * ROUNDS, person=b"finetune-order").digest()


def permutation(key: bytes, size: int) -> NDArray[np.int64]:
    """A permutation of 0 ... `size` - 1, int64[size], in time O(size)."""
    return permute(key, size, np.arange(size, dtype=np.int64))


def permute(key: bytes, size: int, positions: NDArray[np.int64], *, inverse: bool = False) -> NDArray[np.int64]:
    """Where the keyed bijection of 0 ... `size` - 1 sends each of `positions`; O(1) time and memory per position.

    `inverse`: which positions it sends there instead. `key` has 8 bytes per round (`derive_key`); `size` is at most
    2**62.
    """
    half = max(MIN_HALF_BITS, ((size - 1).bit_length() + 1) // 2)
    rounds = np.frombuffer(key, dtype="<u8")
    network = _inverse_feistel if inverse else _feistel
    # A table of the domain pays where all positions are asked for (it is at most four times as large then), and in a
    # small one, where cycles are long because few positions are inside.
    if half == MIN_HALF_BITS or len(positions) >= size:
        table = network(np.arange(1 << 2 * half, dtype=np.uint64), rounds, half)
        return _walk(positions.astype(np.uint64), size, lambda values: table[values]).astype(np.int64)
    return _walk(positions.astype(np.uint64), size, lambda values: network(values, rounds, half)).astype(np.int64)


def _walk(
    values: NDArray[np.uint64], size: int, step: Callable[[NDArray[np.uint64]], NDArray[np.uint64]]
) -> NDArray[np.uint64]:
    values = step(values)
    outside = np.flatnonzero(values >= size)
    while len(outside):
        values[outside] = step(values[outside])
        outside = outside[values[outside] >= size]
    return values


def _feistel(values: NDArray[np.uint64], rounds: NDArray[np.uint64], half: int) -> NDArray[np.uint64]:
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> shift, values & mask
    for key in rounds:
        left, right = right, left ^ (_mix(right, key) & mask)
    return (left << shift) | right


def _inverse_feistel(values: NDArray[np.uint64], rounds: NDArray[np.uint64], half: int) -> NDArray[np.uint64]:
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> shift, values & mask
    for key in rounds[::-1]:
        left, right = right ^ (_mix(left, key) & mask), left
    return (left << shift) | right


def _mix(values: NDArray[np.uint64], key: np.uint64) -> NDArray[np.uint64]:
    mixed = values + key
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
