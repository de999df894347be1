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
    """The processor's model, as the system names it, and its family and model number on x86.

    A virtual machine's name often tells no more than the maker.
    """
    described = Path("/proc/cpuinfo")
    if not described.exists():
        return platform.processor() or platform.machine()
    lines = [line.partition(":") for line in described.read_text().splitlines()]
    first = {name.strip(): value.strip() for name, _, value in reversed(lines)}
    name = first.get("model name", platform.processor() or platform.machine())
    if "cpu family" not in first:
        return name
    return f"{name}, family {first['cpu family']}, model {first['model']}"


def installed(name):
    """Version of a library, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
