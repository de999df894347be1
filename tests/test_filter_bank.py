"""FilterBank: equal to a slow loop, learned from the data, usable on any kind of image."""

import copy

import numpy as np
import pytest
import torch
from oracles_features import filter_bank_energies
from sklearn.base import clone

from skanomaly import FilterBank
from skanomaly.datasets import make_textures
from skanomaly.feature_extraction._filter_bank import CLIP
from skanomaly.feature_extraction._filters import learn_filters
from skanomaly.io import digest


@pytest.fixture(scope="module")
def good():
    return make_textures(5, size=(72, 104), random_state=0)


@pytest.fixture(scope="module")
def bank(good):
    return FilterBank(image_size=(72, 104), n_filters=6, random_state=0).fit(good)


def test_energies_equal_a_slow_loop(bank, good):
    expected = (filter_bank_energies(bank, good[3] / 255) - bank.mean_) / bank.scale_
    got = bank.transform(good[3:4]).arrays()["energies"][0]
    assert got.shape == (9, 13, 4 * 7 + 3 + 2 * 12) == (*got.shape[:2], len(bank.mean_))
    np.testing.assert_allclose(got, expected.clip(-CLIP, CLIP), atol=2e-4)


def test_channels_are_standardized_on_the_good_images(bank, good):
    maps = bank.transform(good).arrays()["energies"]
    unclipped = np.abs(maps).max(axis=(0, 1, 2)) < CLIP
    assert unclipped.sum() > 5
    np.testing.assert_allclose(maps.mean(axis=(0, 1, 2))[unclipped], 0, atol=1e-3)
    np.testing.assert_allclose(maps.std(axis=(0, 1, 2))[unclipped], 1, atol=1e-3)


def test_filters_are_the_leading_components_of_the_patches():
    """On stripes of one direction the leading filters follow it, and none sees brightness."""
    rng = np.random.default_rng(0)
    stripes = torch.from_numpy(
        np.repeat(rng.normal(size=(3, 1, 1, 60)), 60, axis=2).astype(np.float32)
    )
    filters = learn_filters(stripes, 5, 4, np.random.RandomState(0))
    assert filters.shape == (4, 1, 5, 5)
    np.testing.assert_allclose(filters.sum(axis=(2, 3)), 0, atol=1e-4)
    assert np.ptp(filters, axis=2).max() < 1e-3
    responses = np.array([f.ravel() for f in filters])
    whitened = responses @ _covariance(stripes.numpy(), 5) @ responses.T
    np.testing.assert_allclose(whitened, np.eye(4), atol=0.1)


def _covariance(maps, size):
    windows = np.lib.stride_tricks.sliding_window_view(maps[:, 0], (size, size), axis=(1, 2))
    patches = windows.reshape(-1, size * size)
    patches = patches - patches.mean(axis=1, keepdims=True)
    return patches.T @ patches / len(patches)


def test_filters_over_several_maps_are_zero_mean_in_each():
    maps = torch.from_numpy(np.random.default_rng(0).random((2, 3, 20, 17), dtype=np.float32))
    filters = learn_filters(maps, 5, 7, np.random.RandomState(0))
    assert filters.shape == (7, 3, 5, 5)
    np.testing.assert_allclose(filters.sum(axis=(2, 3)), 0, atol=1e-4)


def test_another_random_state_draws_other_patches(good, monkeypatch):
    monkeypatch.setattr("skanomaly.feature_extraction._filters.N_PATCHES", 1_000)
    first, second = (
        FilterBank(image_size=64, n_filters=2, random_state=seed).fit(good).first_filters_[0]
        for seed in (0, 1)
    )
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("n_channels", [1, 2, 4, 7])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_any_number_of_channels(n_channels, dtype):
    full_scale = 1 if dtype == np.float32 else np.iinfo(dtype).max
    images = np.random.default_rng(0).random((3, 64, 64, n_channels)) * full_scale
    images = images.astype(dtype)
    bank = FilterBank(image_size=64, n_filters=2, random_state=0).fit(images)
    assert bank.n_channels_in_ == (3 if n_channels == 1 else n_channels)
    maps = bank.transform(images).arrays()["energies"]
    assert maps.shape[3] == 4 * 3 + bank.n_channels_in_ + 2 * 4 and np.isfinite(maps).all()


def test_images_without_any_structure_are_no_reason_to_fail():
    black = np.zeros((3, 64, 64, 3), np.uint8)
    maps = FilterBank(image_size=64, random_state=0).fit(black).transform(black).arrays()
    assert np.isfinite(maps["energies"]).all()


def test_more_images_than_are_used(good):
    many = np.concatenate([good] * 12)
    assert len(FilterBank(image_size=64, n_filters=2).fit_transform(many)) == 60


@pytest.mark.parametrize("size", [60, 56, (64, 100)])
def test_sizes_that_do_not_divide_are_refused(good, size):
    with pytest.raises(ValueError, match="multiples of 8, at least 64"):
        FilterBank(image_size=size).fit(good)


@pytest.mark.parametrize(
    "parameters", [{"n_filters": 25}, {"n_filters": 0}, {"resize": "shrink"}], ids=str
)
def test_bad_parameters_are_refused(good, parameters):
    with pytest.raises(ValueError, match=next(iter(parameters))):
        FilterBank(**parameters).fit(good)


@pytest.mark.parametrize("n_jobs", [1, 3, -1])
def test_filters_do_not_depend_on_the_number_of_threads(bank, good, n_jobs):
    other = clone(bank).set_params(n_jobs=n_jobs).fit(good)
    assert digest(other._state()) == digest(bank._state())


@pytest.mark.parametrize("n_jobs", [1, 3, -1])
def test_the_number_of_threads_changes_nothing(bank, good, n_jobs):
    expected = bank.transform(good).arrays()["energies"]
    other = copy.copy(bank).set_params(n_jobs=n_jobs)
    assert np.array_equal(other.transform(good).arrays()["energies"], expected)
    assert np.array_equal(other.transform(good[:1]).arrays()["energies"], expected[:1])


def test_filters_come_from_the_cache(good, tmp_path, monkeypatch):
    plain = FilterBank(image_size=64, n_filters=2, random_state=0).fit(good)
    cached = FilterBank(image_size=64, n_filters=2, random_state=0, cache=tmp_path).fit(good)
    monkeypatch.setattr(FilterBank, "_learn", None)
    again = FilterBank(image_size=64, n_filters=2, random_state=0, cache=tmp_path).fit(good)
    for other in (cached, again):
        assert other.n_channels_in_ == 3
        assert all(np.array_equal(other._state()[k], v) for k, v in plain._state().items())


def test_an_images_features_do_not_depend_on_the_other_images(good):
    bank = FilterBank(image_size=64, n_filters=2, random_state=0).fit(good)
    together = bank.transform(good).arrays()["energies"]
    alone = bank.transform(good[2:3]).arrays()["energies"]
    assert np.array_equal(together[2:3], alone)
