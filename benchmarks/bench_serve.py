"""A line that runs: serve under load, and watch that is killed in the middle.

    python benchmarks/bench_serve.py [--images 1000] [--files 500]

- `serve`: CLIENTS clients of `skanomaly serve`, each on a connection of its own, send images one
  after the other. Counted are answers whose score is not that of Python to the last digit (`wrong`)
  and requests without an answer (`lost`); times of requests from sending to the whole answer.
- `watch`: files are dropped into a folder at random times, a third of them in two halves with a
  pause, a third under a hidden name first. `skanomaly watch` is killed (SIGKILL) twice, stopped
  (SIGTERM) once, and started again. Counted are images that are judged never or twice, with a wrong
  score, or with the verdict "error".

Targets: none wrong, none lost, each file judged once. Results are written to benchmarks/results as
JSON; with other counts than these, they are only printed.
"""

import argparse
import csv
import http.client
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
from _machine import machine
from PIL import Image

import skanomaly
from skanomaly import FilterBank, PatchCore, Pipeline
from skanomaly.datasets import make_textures
from skanomaly.model_selection import HeldOutThreshold

IMAGE_SIZE = 224
N_GOOD = 40
N_DIFFERENT = 50
CLIENTS = 8
PAUSE = 0.5  # seconds, at most, between the halves of a file
GAP = 0.1  # seconds, at most, between files
STOPS = ((0.25, signal.SIGKILL), (0.5, signal.SIGTERM), (0.75, signal.SIGKILL))  # share judged
COUNTS = {"images": 1_000, "files": 500}
RESULT = Path(__file__).parent / "results" / "bench_serve.json"


def fit_detector(path):
    good = make_textures(N_GOOD, size=IMAGE_SIZE, random_state=0)
    features = FilterBank(image_size=IMAGE_SIZE, random_state=0)
    pipe = Pipeline([("features", features), ("detector", PatchCore(random_state=0))])
    model = HeldOutThreshold(pipe, target_fpr=0.05).fit(good)
    skanomaly.dump(model, path)
    return model


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return file.getvalue()


def start(*arguments):
    command = [sys.executable, "-m", "skanomaly", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def measure_serve(detector, model, contents, n_images):
    """Wrong and lost answers, and times of requests."""
    expected = [model.decision_function([content])[0] for content in contents]
    process = start("serve", detector, "--port", 0)
    port = int(process.stdout.readline().split()[2].rstrip(",").rpartition(":")[2])

    def client(places):
        connection, records = http.client.HTTPConnection("127.0.0.1", port, timeout=120), []
        for i in places:
            began = time.perf_counter()
            connection.request("POST", "/score", contents[i % len(contents)])
            score = json.loads(connection.getresponse().read())["score"]
            records.append((score == expected[i % len(contents)], time.perf_counter() - began))
        connection.close()
        return records

    client(range(CLIENTS))  # warm-up
    parts = [range(k, n_images, CLIENTS) for k in range(CLIENTS)]
    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        records = [record for some in pool.map(client, parts) for record in some]
    seconds = time.perf_counter() - began
    process.send_signal(signal.SIGTERM)
    process.wait()
    milliseconds = 1000 * np.array([record[1] for record in records])
    return {
        "n_images": n_images,
        "n_clients": CLIENTS,
        "wrong": sum(not is_right for is_right, _ in records),
        "lost": n_images - len(records),
        "images_per_s": n_images / seconds,
        "p50_ms": float(np.percentile(milliseconds, 50)),
        "p99_ms": float(np.percentile(milliseconds, 99)),
        "exit_code": process.returncode,
    }


def drop(folder, contents):
    """Write files as other programs do, at random times."""
    rng = random.Random(0)
    for name, content in contents.items():
        way, path = rng.choice(("whole", "halves", "renamed")), folder / name
        if way == "renamed":
            (folder / f".{name}").write_bytes(content)
            (folder / f".{name}").rename(path)
        elif way == "halves":
            with open(path, "wb", buffering=0) as file:
                cut = rng.randrange(len(content))
                file.write(content[:cut])
                time.sleep(rng.uniform(0, PAUSE))
                file.write(content[cut:])
        else:
            path.write_bytes(content)
        time.sleep(rng.uniform(0, GAP))


def read_rows(out):
    rows = []
    for path in sorted(out.glob("*.csv")):
        with open(path, newline="", encoding="utf-8") as file:
            rows += csv.DictReader(file)
    return rows


def measure_watch(detector, model, images, n_files, root):
    """How often each file is judged while the process is killed and started again."""
    folder, out = root / "in", root / "out"
    folder.mkdir()
    different = {}
    for i in range(n_files):
        image = images[i % len(images)].copy()
        image[0, :2] = i // 256, i % 256, 0  # no two files are equal
        different[f"{i:04d}.png"] = png(image)
    options = ["watch", folder, detector, "-o", out, "--settle", 0.2, "--poll", 0.1, "--quiet"]
    dropper = threading.Thread(target=drop, args=(folder, different))
    process = start(*options)
    dropper.start()
    for share, number in STOPS:
        while len(read_rows(out)) < share * n_files:
            time.sleep(0.1)
        process.send_signal(number)
        process.communicate()
        process = start(*options)
    dropper.join()
    end = time.monotonic() + 120
    while len(read_rows(out)) < n_files and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(2)  # for rows that are too many
    process.send_signal(signal.SIGINT)
    process.communicate()
    rows = read_rows(out)
    times = Counter(row["name"] for row in rows)
    wrong = 0
    for row in rows:
        decision = model.decision_function([different[row["name"]]])[0]
        wrong += row["score"] == "" or not np.isclose(float(row["score"]), decision, rtol=1e-6)
    return {
        "n_files": n_files,
        "n_kills": sum(number == signal.SIGKILL for _, number in STOPS),
        "never": n_files - len(times),
        "twice": sum(n > 1 for n in times.values()),
        "wrong": int(wrong),
        "errors": sum(row["verdict"] == "error" for row in rows),
        "exit_code": process.returncode,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, count in COUNTS.items():
        parser.add_argument(f"--{name}", type=int, default=count)
    counts = vars(parser.parse_args())
    here = Path(skanomaly.__file__).parents[1]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")])
    images = make_textures(N_DIFFERENT, size=IMAGE_SIZE, random_state=1)
    with tempfile.TemporaryDirectory() as root:
        root = Path(root)
        model = fit_detector(root / "part.skanomaly")
        record = {
            "benchmark": "serve",
            "image_size": IMAGE_SIZE,
            **machine(),
            "n_processors": joblib.cpu_count(),
            "serve": measure_serve(
                root / "part.skanomaly", model, list(map(png, images)), counts["images"]
            ),
            "watch": measure_watch(root / "part.skanomaly", model, images, counts["files"], root),
        }
    for name in ("serve", "watch"):
        print(name, {k: round(v, 3) for k, v in record[name].items()})
    if counts == COUNTS:
        RESULT.write_text(json.dumps(record) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
