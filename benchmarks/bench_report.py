"""A report of a thousand images: its size, and the time to write and to open it.

    python benchmarks/bench_report.py [--images 1000] [--sides 256 640]

Images are generated: textures, a fifth of them with defects, of each side length. Their score maps
are blurred differences from a texture without defects, so that encoding is timed and no detector.
The file is opened in headless Chromium, each round in a new browser: seconds until the overview
accepts clicks and keys, until its first thumbnails are drawn, and until the whole file is parsed.
It includes the crops of nearest good patches, one pair for each image predicted as defective.
Results are written to benchmarks/results as JSON.
"""

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from _machine import machine
from scipy.ndimage import gaussian_filter

from skanomaly.datasets import make_defects, make_textures
from skanomaly.regions import map_regions
from skanomaly.report import Report

N_IMAGES = 1000
SIDES = (256, 640)  # of the images; up to 640 a report does not resize them
N_DIFFERENT = 50  # textures generated; the other images are rotated copies
SHARE_DEFECTS = 0.2
THRESHOLD = 12.0  # of the maps, in gray levels
ROUNDS = 5
RESULT = Path(__file__).parent / "results" / "bench_report.json"


def records(n_images, side):
    """(image, score map, decision) of each image."""
    good = make_textures(N_DIFFERENT, size=(side, side), random_state=0)
    bad, _, _ = make_defects(good, random_state=0)
    rng = np.random.default_rng(0)
    for i in range(n_images):
        k = i % N_DIFFERENT
        image = bad[k] if rng.random() < SHARE_DEFECTS else good[k]
        turned = [np.rot90(one, i // N_DIFFERENT) for one in (image, good[k])]
        difference = np.abs(np.subtract(*turned, dtype=np.float32)).mean(axis=2)
        noise = rng.normal(0, 2, difference.shape).astype(np.float32)
        score_map = gaussian_filter(difference + 2 * np.abs(noise), side / 64)
        yield turned[0], score_map, THRESHOLD - float(score_map.max())


def add_all(report, n_images, side):
    """Seconds that Report.add takes for all images, without generating them."""
    seconds = 0.0
    for i, (image, score_map, decision) in enumerate(records(n_images, side)):
        regions = map_regions([score_map], THRESHOLD)
        began = time.perf_counter()
        spots = [nearest(image, score_map)] if decision < 0 else []
        report.add(
            image, score_map, decision, name=f"part {i:04}", regions=regions, nearest_good=spots
        )
        seconds += time.perf_counter() - began
    return seconds


def nearest(image, score_map):
    """A hot spot, and an arbitrary region as the good patch nearest to it."""
    row, column = np.unravel_index(score_map.argmax(), score_map.shape)
    cell = len(score_map) // 32
    top, left = (int(n) // cell * cell for n in (row, column))
    box = {"top": top, "left": left, "bottom": top + cell, "right": left + cell}
    good_box = {f"good_{side}": place for side, place in box.items()}
    peak = {"peak": float(score_map.max()), "distance": 1.0}
    return {**box, **good_box, **peak, "good": image[::-1], "good_name": "good/000"}


def open_page(path):
    """Seconds until the page can be used, shows its first thumbnails, and is parsed."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))))
    rounds = []
    with sync_playwright() as playwright:
        for _ in range(ROUNDS):
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1360, "height": 900})
            began = time.perf_counter()
            page.goto(path.as_uri(), wait_until="commit")
            page.wait_for_selector("html[data-ready]", state="attached")
            ready = time.perf_counter() - began
            page.wait_for_function("() => document.querySelector('.thumb')?.naturalWidth > 0")
            drawn = time.perf_counter() - began
            page.wait_for_load_state("load")
            rounds.append((ready, drawn, time.perf_counter() - began))
            browser.close()
    names = "seconds_interactive", "seconds_first_thumbnails", "seconds_parsed"
    return dict(zip(names, map(statistics.median, zip(*rounds, strict=True)), strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=N_IMAGES)
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES)
    options = parser.parse_args()
    results = []
    with TemporaryDirectory() as folder:
        for side in options.sides:
            report = Report(map_threshold=THRESHOLD)
            seconds = add_all(report, options.images, side)
            began = time.perf_counter()
            path = report.save(Path(folder) / f"{side}.html")
            result = {
                "n_images": options.images,
                "side": side,
                "megabytes": path.stat().st_size / 1e6,
                "seconds_encoding": seconds,
                "seconds_saving": time.perf_counter() - began,
                **open_page(path),
            }
            results.append(result)
            print(
                f"{options.images} images of {side} x {side}: {result['megabytes']:.1f} MB, "
                f"written in {seconds:.1f} + {result['seconds_saving']:.1f} s; in Chromium usable "
                f"after {result['seconds_interactive']:.2f} s, first thumbnails after "
                f"{result['seconds_first_thumbnails']:.2f} s, all parsed after "
                f"{result['seconds_parsed']:.2f} s",
                flush=True,
            )
    record = {"benchmark": "report", **machine(), "results": results}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(record) + "\n")
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
