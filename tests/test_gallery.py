"""Nearest rows among chosen images, against brute force over the same images."""

import pickle

import numpy as np
import pytest
from oracles_neighbors import nearest_rows
from test_neighbors import ENGINES, clustered

from skanomaly.neighbors import GalleryIndex, _gallery
from skanomaly.neighbors._plain import PlainSearch

each_engine = pytest.mark.parametrize("engine", ENGINES)


def make_gallery(n_images=7, n_rows=97, n_features=131, dtype=np.float32):
    """Rows of images, queries of three other images, and each one's gallery."""
    generator = np.random.default_rng(3)
    data = clustered(generator, (n_images + 3) * n_rows, n_features).astype(np.float32)
    data = data.reshape(n_images + 3, n_rows, n_features)
    images = np.array([generator.permutation(n_images)[:4] for _ in range(3)])
    return data[:n_images].astype(dtype), data[n_images:], images


def true_distances(rows, queries, images, n_neighbors):
    return np.stack(
        [
            nearest_rows(np.concatenate(rows[chosen]), query, n_neighbors)[0]
            for query, chosen in zip(queries, images, strict=True)
        ]
    )


@each_engine
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("n_neighbors", [1, 3])
def test_distances_are_those_of_brute_force(engine, dtype, n_neighbors):
    rows, queries, images = make_gallery(dtype=dtype)
    queries[0, :5] = rows[images[0, 2], 40:45]  # at distance zero
    found = GalleryIndex(engine=engine).fit(rows).distances(queries, images, n_neighbors)
    expected = true_distances(rows, queries, images, n_neighbors)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert (found[0, :5, 0] == 0).all()


@each_engine
@pytest.mark.parametrize("shape", [(2, 1, 1), (3, 1, 40), (2, 5, 3), (3, 130, 200)])
def test_galleries_of_any_size(engine, shape):
    generator = np.random.default_rng(0)
    rows = generator.standard_normal(shape).astype(np.float32)
    queries = generator.standard_normal((1, *shape[1:])).astype(np.float32)
    images = [list(range(shape[0]))]
    for n_neighbors in {1, shape[0] * shape[1]}:
        found = GalleryIndex(engine=engine).fit(rows).distances(queries, images, n_neighbors)
        expected = true_distances(rows, queries, np.array(images), n_neighbors)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@each_engine
def test_isotropic_noise_is_searched_plainly(engine, monkeypatch):
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((12, 300, 400)).astype(np.float32)
    queries = generator.standard_normal((1, 600, 400)).astype(np.float32)
    images = np.arange(12)[None]
    plain = []
    search = PlainSearch.search
    monkeypatch.setattr(PlainSearch, "search", lambda *args: plain.append(search(*args)))
    found = GalleryIndex(engine=engine).fit(rows).distances(queries, images)
    np.testing.assert_allclose(found, true_distances(rows, queries, images, 1), rtol=1e-5)
    assert plain


@each_engine
def test_the_result_depends_on_nothing_else(engine):
    rows, queries, images = make_gallery()
    expected = GalleryIndex(engine="plain", n_jobs=1).fit(rows).distances(queries, images, 2)
    for parameters in ({"n_jobs": 1}, {"n_jobs": 2}, {"n_jobs": 5}, {"memory_limit": "300kB"}):
        index = GalleryIndex(engine=engine, **parameters).fit(rows)
        np.testing.assert_array_equal(index.distances(queries, images, 2), expected)
    np.testing.assert_array_equal(index.distances(queries[1:], images[1:], 2), expected[1:])
    shuffled = images[:, ::-1]
    np.testing.assert_array_equal(index.distances(queries, shuffled, 2), expected)
    again = pickle.loads(pickle.dumps(index))
    np.testing.assert_array_equal(again.distances(queries, images, 2), expected)


def test_fitted_state_ends_in_an_underscore():
    rows, queries, images = make_gallery()
    index = GalleryIndex(engine="float32").fit(rows)
    index.distances(queries, images)
    assert vars(index).keys() - index.get_params().keys() - set(index._transient) == {"rows_"}
    assert not vars(pickle.loads(pickle.dumps(index))).keys() & set(index._transient)


def test_a_pickle_holds_little_more_than_the_rows():
    rows, queries, images = make_gallery()
    index = GalleryIndex().fit(rows)
    index.distances(queries, images)
    assert len(pickle.dumps(index)) < rows.nbytes + 2_000


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        (np.zeros((3, 4), np.float32), "n_images, n_rows"),
        (np.zeros((3, 0, 4), np.float32), "none of them 0"),
        (np.zeros((3, 4, 4)), "float64"),
        (np.full((3, 4, 4), np.nan, np.float32), "finite"),
        (np.full((3, 4, 4), np.inf, np.float16), "finite"),
    ],
)
def test_other_rows_are_refused(rows, named):
    with pytest.raises(ValueError, match=named):
        GalleryIndex().fit(rows)


def test_bad_queries_and_parameters_are_refused():
    rows, queries, images = make_gallery()
    index = GalleryIndex().fit(rows)
    with pytest.raises(ValueError, match="columns of fit"):
        index.distances(queries[:, :, :7], images)
    with pytest.raises(ValueError, match="4 x 97; got 389"):
        index.distances(queries, images, 389)
    with pytest.raises(ValueError, match="got 0"):
        index.distances(queries, images, 0)
    for bad in (images[:2], images[0], images - 1 - images.min(), images + 7, images * 1.0):
        with pytest.raises(ValueError, match="indices from 0 to 6 of shape"):
            index.distances(queries, bad)
    with pytest.raises(ValueError, match="queries must be finite"):
        index.distances(np.full_like(queries, np.nan), images)
    with pytest.raises(ValueError, match="engine must be one of"):
        GalleryIndex(engine="fast").fit(rows)
    with pytest.raises(ValueError, match="memory_limit"):
        GalleryIndex(memory_limit="much").fit(rows)


@each_engine
def test_images_of_all_scales_and_queries_far_from_all(engine):
    rng = np.random.default_rng(2)
    scales = np.geomspace(0.01, 100, 5)[:, None, None]
    rows = scales * rng.normal(size=(5, 300, 80)) + 20 * rng.normal(size=(5, 1, 80))
    near = rows[:3] + scales[:3] * rng.normal(size=(3, 300, 80)) / 10
    queries = near * np.geomspace(1, 1000, 300)[:, None]  # from an image to far outside of it
    rows, queries = rows.astype(np.float32), queries.astype(np.float32)
    images = [[0, 3, 1, 4], [1, 2, 0, 4], [2, 4, 3, 0]]
    expected = GalleryIndex(engine="plain").fit(rows).distances(queries, images, 2)
    found = GalleryIndex(engine=engine).fit(rows).distances(queries, images, 2)
    np.testing.assert_array_equal(found, expected)


def test_what_one_screen_leaves_is_given_to_another(monkeypatch):
    """As in galleries of unlike images, where the 8-bit screen decides little."""
    from skanomaly.neighbors._int8 import Int8Screen

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6, 400, 24)).astype(np.float32)
    rows += 4 * rng.normal(size=(6, 1, 24)).astype(np.float32)  # no two images are alike
    queries = rows[:3] + rng.normal(size=(3, 400, 24)).astype(np.float32) / 4
    images = [[0, 3, 1, 5], [1, 2, 0, 4], [5, 4, 3, 2]]
    kinds = {"auto": Int8Screen, "float32": _gallery.screen_type("float32")}
    monkeypatch.setattr(_gallery, "screen_type", kinds.get)
    expected = GalleryIndex(engine="plain").fit(rows).distances(queries, images, 3)
    for useful, n_screens in ((0.0, 1), (1.1, 2)):
        monkeypatch.setattr(_gallery, "_USEFUL", useful)
        index = GalleryIndex(n_jobs=2).fit(rows)
        for _ in range(3):
            np.testing.assert_allclose(index.distances(queries, images, 3), expected, rtol=1e-6)
        assert len(index._screens) == n_screens
        assert isinstance(index._screens[0].screen, Int8Screen)
        again = pickle.loads(pickle.dumps(index)).distances(queries, images, 3)
        np.testing.assert_allclose(again, expected, rtol=1e-6)
