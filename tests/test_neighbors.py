"""The neighbor search against brute force, and what its results must not depend on."""

import functools
import logging
import os
import pickle
import subprocess
import sys

import numba
import numpy as np
import pytest
from llvmlite import binding
from oracles_neighbors import nearest_rows

from skanomaly.neighbors import PatchIndex, _byte_products, _exact_search
from skanomaly.neighbors._float32 import Float32Screen
from skanomaly.neighbors._int8 import Int8Screen
from skanomaly.neighbors._plain import PlainSearch
from skanomaly.neighbors._screened import ScreenedSearch
from skanomaly.neighbors._torch_search import DeviceSearch

needs_int8 = pytest.mark.skipif(
    not _byte_products.register_bits(), reason="this processor has no dot products of bytes"
)
ENGINES = ["plain", "float32", pytest.param("int8", marks=needs_int8)]
SEARCHES = [
    PlainSearch,
    functools.partial(ScreenedSearch, Float32Screen),
    pytest.param(functools.partial(ScreenedSearch, Int8Screen), marks=needs_int8),
]


def clustered(generator, n_rows, n_features, n_clusters=12):
    """Rows near a few centers, with few directions of large spread, as features have."""
    centers = 4 * generator.standard_normal((n_clusters, n_features))
    mixing = generator.standard_normal((6, n_features))
    near = centers[generator.integers(n_clusters, size=n_rows)]
    spread = generator.standard_normal((n_rows, 6)) @ mixing
    return near + spread + 0.3 * generator.standard_normal((n_rows, n_features))


def make_data(kind):
    """Rows and queries (float32) of one kind; sizes that divide nothing evenly."""
    generator = np.random.default_rng(7)
    n_rows, n_queries, n_features = 1103, 213, 131
    data = clustered(generator, n_rows + n_queries, n_features)
    if kind == "gaussian":
        data = generator.standard_normal(data.shape)
    elif kind == "offset":
        data += 1e4
    elif kind == "far_clusters":
        data[::2] += 300
    elif kind == "far_queries":  # from a little to far outside of the range of the rows
        data[n_rows:] *= np.geomspace(1, 300, n_queries)[:, None]
    elif kind == "large":
        data *= 1e12
    elif kind == "small":
        data *= 1e-12
    elif kind == "constant_columns":
        data[:, 5:90] = 3.7
    elif kind == "duplicates":
        data = data[generator.integers(97, size=len(data))]
    elif kind == "near_duplicates":
        data = generator.standard_normal((97, 400))[generator.integers(97, size=len(data))]
        data = data + 2e-4 * generator.standard_normal(data.shape)
    elif kind == "integers":
        data = generator.integers(0, 3, size=(len(data), 7))
    elif kind == "narrow":
        data = data[:, :3]
    elif kind == "one_column":
        data = data[:, :1]
    elif kind == "all_equal":
        data = np.full(data.shape, 0.3)
    data = data.astype(np.float32)
    return data[:n_rows], data[n_rows:]


KINDS = [
    "clustered", "gaussian", "offset", "far_clusters", "far_queries", "large", "small",
    "constant_columns", "duplicates", "near_duplicates", "integers", "narrow", "one_column",
    "all_equal",
]  # fmt: skip


def assert_nearest(rows, queries, distances, indices):
    """Distances as by brute force, of the rows named; the same rows where no other is as near."""
    n_neighbors = indices.shape[1]
    truth, true_indices = nearest_rows(rows, queries, n_neighbors)
    assert distances.dtype == np.float32 and indices.dtype == np.int64
    assert distances.shape == indices.shape == truth.shape
    np.testing.assert_allclose(distances, truth, rtol=1e-4, atol=0)
    assert (np.diff(distances, axis=1) >= 0).all()
    room = 1e-5 * truth
    beyond = np.full((len(truth), 1), np.inf)
    if len(rows) > n_neighbors:
        beyond = nearest_rows(rows, queries, n_neighbors + 1)[0][:, -1:]
    is_clear = np.diff(truth, axis=1, append=beyond) > room
    is_clear[:, 1:] &= is_clear[:, :-1]
    assert (indices == true_indices)[is_clear].all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_neighbors", [1, 9])
def test_agrees_with_brute_force(engine, kind, n_neighbors):
    rows, queries = make_data(kind)
    queries = np.concatenate([queries, rows[3:5]])  # two at distance zero
    found = PatchIndex(engine=engine).fit(rows).kneighbors(queries, n_neighbors)
    assert_nearest(rows, queries, *found)
    if n_neighbors == 1:
        assert (found[0][-2:] == 0).all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (64, 8), (65, 300), (9, 800), (513, 40)])
def test_banks_of_any_size(engine, shape):
    rows = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    queries = np.random.default_rng(1).standard_normal((17, shape[1])).astype(np.float32)
    for n_neighbors in {1, min(9, len(rows)), len(rows)}:
        found = PatchIndex(engine=engine).fit(rows).kneighbors(queries, n_neighbors)
        assert_nearest(rows, queries, *found)


@pytest.mark.parametrize("engine", ENGINES)
def test_equally_distant_rows_come_by_index(engine):
    rows = np.tile(np.arange(5, dtype=np.float32)[:, None], (300, 40))  # row i holds i % 5
    queries = np.array([[0.0], [2.0], [1.5]], dtype=np.float32) * np.ones((1, 40), np.float32)
    distances, indices = PatchIndex(engine=engine).fit(rows).kneighbors(queries, 4)
    np.testing.assert_array_equal(indices, [[0, 5, 10, 15], [2, 7, 12, 17], [1, 2, 6, 7]])
    np.testing.assert_allclose(distances[:, 0], [0, 0, 0.5 * np.sqrt(40)], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_neighbors", [1, 9])
def test_engines_agree_bit_for_bit(kind, n_neighbors):
    rows, queries = make_data(kind)
    expected = PatchIndex(engine="plain").fit(rows).kneighbors(queries, n_neighbors)
    for engine in ["float32", "int8"] if _byte_products.register_bits() else ["float32"]:
        found = PatchIndex(engine=engine).fit(rows).kneighbors(queries, n_neighbors)
        np.testing.assert_array_equal(found, expected, err_msg=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_result_does_not_depend_on_other_queries_in_the_call(engine):
    rows, queries = make_data("clustered")
    index = PatchIndex(engine=engine).fit(rows)
    distances, indices = index.kneighbors(queries, 5)
    shuffled = np.random.default_rng(0).permutation(len(queries))
    np.testing.assert_array_equal(index.kneighbors(queries[shuffled], 5)[0], distances[shuffled])
    for i in (0, 100, 212):
        alone = index.kneighbors(queries[i : i + 1], 5)
        np.testing.assert_array_equal(alone[0][0], distances[i])
        np.testing.assert_array_equal(alone[1][0], indices[i])


@pytest.mark.parametrize("engine", ENGINES)
def test_threads_chunks_and_memory_change_nothing(engine, monkeypatch):
    rows, queries = make_data("clustered")
    expected = PatchIndex(engine=engine, n_jobs=1).fit(rows).kneighbors(queries, 3)
    for parameters in (
        {"n_jobs": 3},
        {"memory_limit": "400KB"},
        {"n_jobs": 2, "memory_limit": 10**6},
    ):
        found = PatchIndex(engine=engine, **parameters).fit(rows).kneighbors(queries, 3)
        np.testing.assert_array_equal(found, expected)
    monkeypatch.setattr(_exact_search, "_CHUNK_QUERIES", 41)
    found = PatchIndex(engine=engine, n_jobs=2).fit(rows).kneighbors(queries, 3)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_bank_in_several_parts(search, monkeypatch):
    rows, queries = make_data("clustered")
    expected = PatchIndex(engine="plain").fit(rows).kneighbors(queries, 2)
    monkeypatch.setattr("skanomaly.neighbors._plain._TILE_ROWS", 128)
    nearest = np.full((len(queries), 2), np.inf, dtype=np.float32)
    ids = np.full((len(queries), 2), -1)
    is_done = search(rows).search(queries, nearest, ids, 1 << 20)
    assert is_done is None or is_done.all()  # the plain search leaves no query
    np.testing.assert_array_equal(np.sqrt(nearest), expected[0])
    np.testing.assert_array_equal(ids, expected[1])


@pytest.mark.parametrize("screen_type", [Float32Screen, pytest.param(Int8Screen, marks=needs_int8)])
@pytest.mark.parametrize("is_lean", [False, True])
def test_parts_of_a_screen_are_searched_one_after_the_other(screen_type, is_lean):
    rows, queries = make_data("clustered")
    expected, _ = PatchIndex(engine="plain").fit(rows).kneighbors(queries, 2)
    screen = screen_type(rows, is_lean)
    slices = np.array_split(rows, 3)
    parts = [screen.add(some) for some in slices]
    prepared = screen.prepare(queries)
    nearest = np.full((len(queries), 2), np.inf, dtype=np.float32)
    ids = np.full((len(queries), 2), -1)
    for part, some in zip(parts, slices, strict=True):
        table = screen.table(part, 1 << 20)
        assert screen.search(part, some, queries, prepared, nearest, ids, table).all()
        assert part.shorts.base is None and (part.shorts.shape[1] == 0) == is_lean
    np.testing.assert_array_equal(np.sqrt(nearest), expected)


def test_loops_that_are_not_compiled_find_the_same():
    code = """
import numpy as np
from skanomaly.neighbors import PatchIndex
rows = np.random.default_rng(0).normal(size=(90, 20)).astype(np.float32)
for engine in ("plain", "float32"):
    _, ids = PatchIndex(engine=engine, n_jobs=1).fit(rows).kneighbors(rows[:9] + np.float32(1e-3))
    assert ids[:, 0].tolist() == list(range(9)), engine
"""
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@needs_int8
@pytest.mark.parametrize("bits", [512, 256])
@pytest.mark.parametrize("n_queries", [1, 6, 13])
def test_products_of_bytes_are_those_of_integers(bits, n_queries, monkeypatch):
    has = binding.get_host_cpu_features().get
    narrow = has("avxvnni") or (has("avx512vl") and has("avx512vnni"))
    if not (has("avx512vnni") if bits == 512 else narrow):
        pytest.skip(f"this processor has no such instructions for {bits} bits")
    monkeypatch.setattr(_byte_products, "register_bits", lambda: bits)  # as they are written
    lowest_values = numba.njit(_byte_products.lowest_values.py_func)
    values_of_block = numba.njit(_byte_products.values_of_block.py_func)
    rng = np.random.default_rng(0)
    shape = 3, _byte_products.BLOCK, _byte_products.WIDTH
    rows = rng.integers(-127, 128, shape).astype(np.int8)
    codes = rng.integers(-127, 128, (n_queries, shape[2])).astype(np.int8)
    codes[0], rows[1, :2] = 127, [[127], [-127]]  # the largest sums
    half_norms = rng.integers(0, 10**6, shape[:2]).astype(np.int32)
    products = np.einsum("qw,brw->qbr", codes.astype(int), rows.astype(int))
    raised = _byte_products.RAISED * codes.sum(axis=1, dtype=int)
    values = half_norms - products - raised[:, None, None]
    packed = _byte_products.pack(rows.reshape(-1, shape[2]))
    minima = np.empty((n_queries, shape[0]), dtype=np.int32)
    lowest_values(codes, packed, half_norms, minima)
    np.testing.assert_array_equal(minima, values.min(axis=2))
    of_block = np.empty(shape[1], dtype=np.int32)
    values_of_block(codes[-1], packed[1], half_norms[1], of_block)
    np.testing.assert_array_equal(of_block, values[-1, 1])


def test_without_the_instructions_auto_is_float32(monkeypatch):
    monkeypatch.setattr(_exact_search, "register_bits", lambda: 0)
    assert _exact_search.screen_type("auto") is Float32Screen
    monkeypatch.setattr("skanomaly.neighbors._int8.register_bits", lambda: 0)
    rows = np.random.default_rng(0).random((600, 300), dtype=np.float32)
    with pytest.raises(RuntimeError, match="dot products of bytes"):
        PatchIndex(engine="int8").fit(rows).kneighbors(rows)


@pytest.mark.parametrize("search", SEARCHES[1:])
def test_a_screen_gives_up_where_nothing_can_be_ruled_out(search):
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((3000, 400)).astype(np.float32)
    queries = generator.standard_normal((500, 400)).astype(np.float32)
    nearest = np.full((500, 1), np.inf, dtype=np.float32)
    is_done = search(rows).search(queries, nearest, np.full((500, 1), -1), 8 << 20)
    assert not is_done.any()
    assert np.isinf(nearest).all()  # left as it was


@pytest.mark.parametrize("search", SEARCHES[1:])
def test_a_screen_keeps_to_what_it_can_do(search):
    rows, queries = make_data("clustered")
    nearest = np.full((len(queries), 1), np.inf, dtype=np.float32)
    assert search(rows).search(queries, nearest, np.full((len(queries), 1), -1), 8 << 20).all()


def test_auto_builds_a_screen_once_it_pays(caplog):
    rows = clustered(np.random.default_rng(0), 2500, 60).astype(np.float32)
    index = PatchIndex(verbose=1).fit(rows)
    with caplog.at_level(logging.INFO, logger="skanomaly"):
        first = index.kneighbors(rows[:200], 2)
        index.kneighbors(rows[200:1400], 2)
        again = index.kneighbors(rows[:200], 2)
    assert "plain" in caplog.messages[0]
    assert "float32" in caplog.messages[1] or "int8" in caplog.messages[1]
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("method", ["exact", "pynndescent"])
def test_a_pickle_holds_the_rows_and_finds_the_same(method):
    rows = clustered(np.random.default_rng(0), 900, 50).astype(np.float32)
    index = PatchIndex(method, random_state=3).fit(rows)
    expected = index.kneighbors(rows[:60] + np.float32(0.1), 4)
    kept = pickle.dumps(index)
    assert len(kept) < rows.nbytes + 4000
    np.testing.assert_array_equal(
        pickle.loads(kept).kneighbors(rows[:60] + np.float32(0.1), 4), expected
    )


def test_float64_rows_far_from_the_origin_keep_their_distances():
    data = clustered(np.random.default_rng(0), 700, 30) + 1e7
    found = PatchIndex().fit(data[:600]).kneighbors(data[600:], 3)
    assert_nearest(data[:600], data[600:], *found)


def test_read_only_and_strided_input_is_left_as_it_is(tmp_path):
    rows, queries = make_data("clustered")
    expected = PatchIndex().fit(rows).kneighbors(queries, 2)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    frozen = queries.copy()
    frozen.setflags(write=False)
    index = PatchIndex(engine="float32").fit(mapped)
    np.testing.assert_array_equal(index.kneighbors(frozen, 2), expected)
    np.testing.assert_array_equal(index.kneighbors(np.asfortranarray(queries), 2), expected)
    np.testing.assert_array_equal(mapped, rows)


@pytest.mark.parametrize("kind", ["clustered", "gaussian", "duplicates", "offset"])
def test_products_on_a_device_change_nothing(kind):
    rows, queries = make_data(kind)
    for n_neighbors in (1, 9, len(rows)):
        expected = PatchIndex().fit(rows).kneighbors(queries, n_neighbors)
        found = PatchIndex(device="cpu:0").fit(rows).kneighbors(queries, n_neighbors)
        np.testing.assert_array_equal(found, expected)


def test_a_device_leaves_few_queries_to_the_plain_search(monkeypatch):
    rows, queries = make_data("clustered")
    monkeypatch.setattr("skanomaly.neighbors._torch_search._PART_ROWS", 300)
    nearest = np.full((len(queries), 3), np.inf, dtype=np.float32)
    is_done = DeviceSearch(rows, "cpu").search(queries, nearest, np.full(nearest.shape, -1), 0)
    assert is_done.all()
    np.testing.assert_array_equal(
        np.sqrt(nearest), PatchIndex().fit(rows).kneighbors(queries, 3)[0]
    )


def test_pynndescent_finds_nine_in_ten_and_is_repeatable():
    generator = np.random.default_rng(0)
    data = clustered(generator, 2200, 60).astype(np.float32)
    rows, queries = data[:2000], data[2000:]
    found = PatchIndex("pynndescent", random_state=0).fit(rows).kneighbors(queries, 5)
    _, truth = nearest_rows(rows, queries, 5)
    recall = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(found[1], truth, strict=True)])
    assert recall >= 0.9
    measured = np.linalg.norm(rows[found[1]].astype(float) - queries[:, None], axis=2)
    np.testing.assert_allclose(found[0], measured, rtol=1e-5)
    assert (np.diff(found[0], axis=1) >= 0).all()
    again = PatchIndex("pynndescent", random_state=0).fit(rows).kneighbors(queries, 5)
    np.testing.assert_array_equal(again, found)


@pytest.mark.parametrize("method", ["exact", "pynndescent"])
def test_fitted_state_ends_in_an_underscore(method):
    rows, queries = make_data("clustered")
    index = PatchIndex(method, random_state=0).fit(rows)
    index.kneighbors(queries, 2)
    others = vars(index).keys() - index.get_params().keys() - set(index._transient)
    assert others == {"rows_", "origin_", "seed_", "n_features_in_"}
    assert not vars(pickle.loads(pickle.dumps(index))).keys() & set(index._transient)


def test_refitting_forgets():
    rows, queries = make_data("clustered")
    index = PatchIndex().fit(queries)
    index.kneighbors(queries, 1)
    np.testing.assert_array_equal(
        index.fit(rows).kneighbors(queries, 2), PatchIndex().fit(rows).kneighbors(queries, 2)
    )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"method": "annoy"}, "method must be one of"),
        ({"engine": "fast"}, "engine must be one of"),
        ({"memory_limit": "much"}, "memory_limit must be"),
        ({"n_jobs": 0}, "n_jobs"),
    ],
)
def test_refuses_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        PatchIndex(**parameters).fit(np.zeros((3, 2)))


def test_refuses_bad_input():
    index = PatchIndex().fit(np.eye(3, dtype=np.float32))
    with pytest.raises(ValueError, match="from 1 to the number of rows, 3; got 4"):
        index.kneighbors(np.eye(3), 4)
    with pytest.raises(ValueError, match=r"columns as the rows of fit, 3; got shape \(2, 2\)"):
        index.kneighbors(np.eye(2))
    with pytest.raises(ValueError, match=r"(?s)queries.*NaN"):
        index.kneighbors(np.array([[1.0, np.nan, 0.0]]))
    with pytest.raises(ValueError, match=r"(?s)rows.*infinity"):
        PatchIndex().fit(np.array([[1.0, np.inf]]))
    with pytest.raises(ValueError, match="must not exceed 1e\\+16"):
        PatchIndex().fit(np.array([[1.0, 1e17]]))
    with pytest.raises(ValueError, match="memory_limit must be at least"):
        PatchIndex(memory_limit=100).fit(np.eye(3)).kneighbors(np.eye(3))


def test_importing_it_loads_neither_torch_nor_pynndescent():
    code = "import sys, skanomaly.neighbors; assert not {'torch', 'pynndescent'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
