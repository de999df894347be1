"""Files in and out: detectors and pictures are found, and what is written is written whole."""

import hashlib
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from skanomaly._files import unfinished


@contextmanager
def whole_folder(path):
    """A folder to write into, whose files move to `path` when all are there."""
    is_new = not path.exists()
    folder = path / unfinished()
    try:
        path.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except OSError as error:
        raise OSError(f"{path}: cannot be made or written to ({error.strerror})") from error
    try:
        yield folder
        for file in folder.iterdir():
            os.replace(file, path / file.name)
    finally:
        shutil.rmtree(folder)
        if is_new and not any(path.iterdir()):
            path.rmdir()


def load_data(path):
    """The pictures of a folder, or those of a CSV table."""
    from skanomaly.datasets import load_folder, load_manifest

    is_table = path.suffix.lower() == ".csv" and not path.is_dir()
    return load_manifest(path) if is_table else load_folder(path)


def load_detector(path):
    """The detector in a file that fit or tune wrote."""
    import joblib

    from skanomaly.model_selection import HeldOutThreshold

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such detector file; write one with the command fit")
    try:
        model = joblib.load(path)
    except Exception as error:  # unpickling a foreign file can raise anything at all
        raise ValueError(f"{path}: not a detector file ({error}); write one with fit") from error
    if not isinstance(model, HeldOutThreshold):
        raise ValueError(
            f"{path}: expected a detector written by fit, got {type(model).__name__}; "
            "use it in Python, or write one with the command fit"
        )
    return model


def save_detector(model, path, seen):
    """Write a detector, with fingerprints of the pictures that it was chosen or learned by."""
    import joblib

    # No part of the estimator: what evaluate tells the user with them is about this file.
    model.seen_pictures_ = frozenset(map(fingerprint, seen))
    joblib.dump(model, path, compress=1)


def fingerprint(image):
    """What tells a picture's file from others, wherever it lies."""
    return hashlib.sha256(Path(image).read_bytes()).hexdigest()


def find_images(paths, output=None):
    """The pictures named, and those in the folders named; all must be there.

    What an earlier inspection has written to the folder `output` is none of them.
    """
    from skanomaly._images import MissingImageError
    from skanomaly.datasets._layouts import list_items

    found = []
    for path in paths:
        if not path.exists():
            raise MissingImageError(f"{path}: no such image file")
        files = [i.path for i in list_items(path, path.name, None)] if path.is_dir() else [path]
        if path.is_dir() and output is not None:
            files = [file for file in files if output.resolve() not in file.resolve().parents]
        found += map(str, files)
    if not found:
        raise ValueError(f"expected pictures, found none but those in {output}")
    return found
