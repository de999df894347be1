"""FeatureMaps: every kind of key, stored and streamed, inside scikit-learn's tools."""

import pickle

import numpy as np
import pytest
from oracles_features import locally_aware_patches, stretch
from sklearn.model_selection import KFold, train_test_split
from sklearn.utils import _safe_indexing

from skanomaly import FeatureMaps
from skanomaly.embedding import embed
from skanomaly.feature_maps import concatenate
from skanomaly.images import ImageFit

N = 11


def stored(n=N):
    rng = np.random.default_rng(0)
    layers = {
        "fine": rng.random((n, 6, 4, 3), dtype=np.float32),
        "coarse": rng.random((n, 3, 2, 5), dtype=np.float32),
    }
    return FeatureMaps(layers, [(20 + i, 30) for i in range(n)], ImageFit(24, 16))


class Reader:
    """Stands for an extractor: image i is the number i."""

    def __init__(self):
        self.n_read = 0

    def extract(self, images, batch_size):
        whole = stored()
        for first in range(0, len(images), batch_size):
            part = images[first : first + batch_size]
            self.n_read += len(part)
            yield whole[np.array(part)]


def streamed(reader=None):
    whole = stored()
    extract = (reader or Reader()).extract
    return FeatureMaps.streamed(list(range(N)), extract, whole.layer_shapes, whole.image_fit)


KEYS = {
    "int": (4, [4]),
    "numpy int": (np.int64(4), [4]),
    "slice": (slice(2, 7), range(2, 7)),
    "steps": (slice(1, None, 3), range(1, N, 3)),
    "ints": ([5, 1, 1], [5, 1, 1]),
    "int array": (np.array([9, 0]), [9, 0]),
    "bool array": (np.arange(N) % 2 == 0, range(0, N, 2)),
    "as scikit-learn asks": ((np.array([3, 2]), Ellipsis), [3, 2]),
    "negative": ([-1], [N - 1]),
}


@pytest.mark.parametrize("make", [stored, streamed])
@pytest.mark.parametrize(("key", "expected"), KEYS.values(), ids=KEYS)
def test_indexing(make, key, expected):
    chosen = make()[key]
    assert isinstance(chosen, FeatureMaps) and chosen.shape == (len(expected), 8)
    for name, maps in chosen.arrays().items():
        assert np.array_equal(maps, stored().arrays()[name][list(expected)])
    assert np.array_equal(chosen.store().frames[:, 0], 20 + np.array(expected))


@pytest.mark.parametrize("make", [stored, streamed])
def test_scikit_learn_keeps_the_kind(make):
    X = make()
    assert isinstance(_safe_indexing(X, np.array([1, 2])), FeatureMaps)
    train, test = train_test_split(X, test_size=3, random_state=0)
    assert (train.shape, test.shape) == ((N - 3, 8), (3, 8))
    assert [len(part) for _, part in KFold(4).split(X)] == [3, 3, 3, 2]
    assert not any(hasattr(X, name) for name in ("iloc", "fit", "device"))


@pytest.mark.parametrize("make", [stored, streamed])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_batches_are_stored_pieces_in_order(make, batch_size):
    pieces = list(make().batches(batch_size))
    assert all(piece.is_stored for piece in pieces)
    assert [len(p) for p in pieces[:-1]] == [batch_size] * (len(pieces) - 1)
    whole = concatenate(pieces)
    for name, maps in stored().arrays().items():
        assert np.array_equal(whole.arrays()[name], maps)
    assert np.array_equal(whole.frames, stored().frames)


def test_slices_are_views():
    X = stored()
    assert np.shares_memory(X[3:8].arrays()["fine"], X.arrays()["fine"])
    assert np.shares_memory(X[[3, 4, 5]].arrays()["fine"], X.arrays()["fine"])


def test_streamed_features_are_read_when_asked_for():
    reader = Reader()
    X = streamed(reader)[[0, 5]]
    assert reader.n_read == 0 and X.frames is None
    X.arrays()
    assert reader.n_read == 2


def test_a_pickle_carries_the_chosen_images_only():
    whole, part = (len(pickle.dumps(x)) for x in (stored(), stored()[:1]))
    assert part < whole / 4
    again = pickle.loads(pickle.dumps(stored()[[7, 2]]))
    assert np.array_equal(again.arrays()["fine"], stored().arrays()["fine"][[7, 2]])
    assert again.frames.tolist() == [[27, 30], [22, 30]]


def test_iteration_gives_single_images():
    assert [len(x) for x in stored()[:3]] == [1, 1, 1]


def test_joining_brings_layers_to_the_finest_grid():
    X = stored()
    joined = X.joined()
    assert joined.shape == (N, 6, 4, 8)
    assert np.array_equal(joined[..., :3], X.arrays()["fine"])
    # Interpolation by hand: row 2 of 6 lies at 0.75 of the way from row 0 to row 1 of 3.
    coarse = X.arrays()["coarse"]
    np.testing.assert_allclose(
        joined[:, 2, 0, 3:], 0.25 * coarse[:, 0, 0] + 0.75 * coarse[:, 1, 0], rtol=1e-5
    )


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_layers_are_averaged_scaled_resized_and_joined(size, dtype, interpolation, monkeypatch):
    rng = np.random.default_rng(0)
    shapes = {"fine": (6, 9, 4), "coarse": (3, 3, 7), "wide": (2, 9, 2), "one": (1, 1, 3)}
    layers = {name: rng.normal(size=(2, *shape)).astype(dtype) for name, shape in shapes.items()}
    factors = {"coarse": 0.25, "one": 3.0}
    expected = []
    for i in range(2):
        parts = []
        for name, maps in layers.items():
            own = size if maps.shape[1:3] != (1, 1) else 1
            maps = locally_aware_patches({name: maps[i]}, own) * factors.get(name, 1.0)
            if interpolation == "bilinear":
                maps = stretch(stretch(maps, 6, axis=0), 9, axis=1)
            else:
                for axis, n in ((0, 6), (1, 9)):
                    maps = maps.repeat(n // maps.shape[axis], axis=axis)
            parts.append(maps)
        expected.append(np.concatenate(parts, axis=2))
    options = {"patch_size": size, "interpolation": interpolation, "scales": factors}
    joined = embed(layers, **options)
    assert joined.dtype == dtype
    np.testing.assert_allclose(joined, expected, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr("skanomaly.embedding._MANY_NUMBERS", 0)  # in threads
    np.testing.assert_array_equal(embed(layers, **options), joined)
    channels = np.array([1, 2, 10, 12, 15])
    some = embed(layers, channels=channels, **options)
    np.testing.assert_array_equal(some, joined[..., channels])


def test_an_unknown_interpolation_is_refused():
    with pytest.raises(ValueError, match='"bilinear" or "nearest", got \'cubic\''):
        embed({"a": np.zeros((1, 4, 4, 2))}, interpolation="cubic")


def test_layers_of_no_image_are_joined():
    assert embed({"a": np.zeros((0, 4, 4, 2)), "b": np.zeros((0, 2, 2, 3))}).shape == (0, 4, 4, 5)


def test_joining_one_layer_copies_nothing():
    maps = np.zeros((2, 3, 3, 1), np.float32)
    assert embed({"only": maps}) is maps


def test_layers_must_agree():
    with pytest.raises(ValueError, match=r"expected layers of shape \(n, h, w, C\) with one n"):
        FeatureMaps({"a": np.zeros((2, 3, 3, 1)), "b": np.zeros((3, 3, 3, 1))})
    with pytest.raises(ValueError, match="expected layers of shape"):
        FeatureMaps({"a": np.zeros((2, 3))})


def test_the_grid_is_the_frame_where_there_is_no_image():
    X = FeatureMaps({"a": np.zeros((2, 5, 3, 1), np.float32)})
    assert X.frames.tolist() == [[5, 3], [5, 3]] and X.image_fit == ImageFit(5, 3)
