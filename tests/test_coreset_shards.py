"""The greedy selection among rows in several places is that of all rows in one."""

import pickle
from itertools import pairwise

import numpy as np
import pytest

from skanomaly.coreset import Shard, greedy_order_and_radii, members_of_each, order_of_shards

KINDS = {
    "distinct": lambda rng, shape: rng.normal(size=shape),
    "many equal distances": lambda rng, shape: np.round(rng.normal(size=shape)),
    "duplicates": lambda rng, shape: rng.normal(size=shape)[rng.integers(0, 9, shape[0])],
    "zeros and ones": lambda rng, shape: rng.normal(size=shape) > 1,
    "all alike": lambda rng, shape: np.ones(shape),
}


class Shards:
    """Rows that are split at some edges; each reply goes through a pickle, as on a cluster."""

    def __init__(self, rows, edges, n_samples, start, n_members):
        self.shards = [
            Shard(rows[first:end], first, n_samples, rows[start]) for first, end in pairwise(edges)
        ]
        self.n_members, self.n_rounds, self.n_sent = n_members, 0, 0

    def ask(self, numbers, rows):
        replies = [shard.advance(numbers, rows, self.n_members) for shard in self.shards]
        self.shards, farthest = (list(some) for some in zip(*replies, strict=True))
        self.n_rounds += 1
        self.n_sent += sum(len(one.rows) for one in farthest)
        return pickle.loads(pickle.dumps(farthest))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n_shards", "n_members"), [(1, 1000), (3, 1000), (3, 5), (7, 1)], ids=str)
def test_picks_and_radius_are_those_of_one_place(kind, n_shards, n_members):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        n, d = int(rng.integers(60, 120)), (1, 3, 30, 128)[seed]
        rows = np.asarray(KINDS[kind](rng, (n, d)), dtype=np.float32)
        n_samples, start = int(rng.integers(1, n + 1)), int(rng.integers(n))
        edges = [0, *np.sort(rng.choice(np.arange(1, n), n_shards - 1, replace=False)), n]
        shards = Shards(rows, edges, n_samples, start, n_members)
        order, radius = order_of_shards(shards.ask, n_samples, start, rows[start], n)
        expected, radii = greedy_order_and_radii(rows, n_samples, start)
        np.testing.assert_array_equal(order, expected)
        assert radius == radii[-1]
        assert shards.n_sent <= n  # no row travels twice


def test_few_rows_travel_in_few_rounds():
    rows = np.random.default_rng(0).normal(size=(6000, 8)).astype(np.float32)
    shards = Shards(rows, [0, 2000, 4000, 6000], 60, 5, 100)
    order_of_shards(shards.ask, 60, 5, rows[5], 6000)
    assert shards.n_rounds < 30 and shards.n_sent < 1500


def test_a_shard_that_is_advanced_stays_as_it_is():
    """So that what a lost worker did can be done again."""
    rows = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    shard, _ = Shard(rows, 100, 50, rows[3]).advance(np.array([103]), rows[:0], 40)
    once = shard.advance(np.array([120, 7]), rows[[20, 7]], 40)
    again = shard.advance(np.array([120, 7]), rows[[20, 7]], 40)
    for one, other in zip(once[1], again[1], strict=True):
        np.testing.assert_array_equal(one, other)
    assert once[1].numbers.min() >= 100 and 120 not in once[1].numbers


def test_members_are_shared_among_shards_down_to_a_least_number():
    assert members_of_each(1) == 10 * members_of_each(10)
    assert members_of_each(10**6) == members_of_each(10**5) > 1


def test_rows_whose_squares_overflow_are_refused():
    rows = np.full((3, 2), 1e20, dtype=np.float32)
    with pytest.raises(ValueError, match="largest absolute value"):
        Shard(rows, 0, 2, rows[0])
