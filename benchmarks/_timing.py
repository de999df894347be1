"""Timing of alternating calls, for the benchmarks."""

import statistics
import time

import torch

ROUNDS = 3  # so that a busy moment of the machine affects every call


def ms_per_image(calls, n_images, seconds):
    """Median time of each named call, run for `seconds` after two warm-up calls."""
    times = {name: [] for name in calls}
    with torch.inference_mode():
        for call in calls.values():
            call(), call()
        for _ in range(ROUNDS):
            for name, call in calls.items():
                end = time.perf_counter() + seconds / ROUNDS
                while time.perf_counter() < end:
                    began = time.perf_counter()
                    call()
                    times[name].append(time.perf_counter() - began)
    return {name: 1000 * statistics.median(t) / n_images for name, t in times.items()}
