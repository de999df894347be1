"""On what a benchmark was run, for its record."""

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path

LIBRARIES = (
    "numpy", "scipy", "scikit-learn", "numba", "torch", "torchvision", "anomalib", "dask",
    "faiss-cpu", "onnxruntime", "openvino", "pynndescent", "pyod",
)  # fmt: skip


def machine():
    """Processor, cores, torch's threads, versions of the libraries installed, and the date."""
    import torch  # here: a benchmark of memory begins without it

    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version for name in LIBRARIES if (version := installed(name))},
        "date": datetime.date.today().isoformat(),
    }


def processor():
    """The processor's model, as the system names it."""
    described = Path("/proc/cpuinfo")
    if described.exists():
        for line in described.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def installed(name):
    """Version of a library, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
