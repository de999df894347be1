"""Fixtures shared by all tests, and how several processes share them out."""

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # processes of many threads would wait for each other
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # before a library is loaded that reads it

import matplotlib
import pytest
import torch

matplotlib.use("Agg")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file's tests share what its fixtures have fitted: they stay in one process, in order."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


def _shared(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name}: the folder with real images and weights is not beside the project")
    return path


@pytest.fixture
def real_data():
    """Folder with the five real data sets; the test is skipped where it is absent."""
    return _shared("data")


@pytest.fixture
def squeezenet_weights():
    """ImageNet weights of SqueezeNet 1.1; the test is skipped where they are absent."""
    return _shared("weights") / "squeezenet1_1-imagenet.pth"


@pytest.fixture(scope="module")
def one_thread():
    """Torch computes in one thread: small networks gain nothing from more, and sums stay the same.

    Sums of several threads may be rounded differently from run to run, and a training amplifies it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def cluster_client():
    """Client of two worker processes of one thread each, not the default client of dask.

    The test is skipped where dask is absent.
    """
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit="3GB",
            host="127.0.0.1",
            dashboard_address=None,
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client
