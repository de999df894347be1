"""Input and output files: images, detector files, and folders that are written atomically."""

import hashlib
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from skanomaly.io import temporary_name


@contextmanager
def atomic_folder(path):
    """A folder to write into, whose files are moved to `path` if nothing is raised."""
    is_new = not path.exists()
    folder = path / temporary_name()
    try:
        path.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except OSError as error:
        raise OSError(
            f"{path}: the folder cannot be created or written to ({error.strerror})"
        ) from error
    try:
        yield folder
        for file in folder.iterdir():
            os.replace(file, path / file.name)
    finally:
        shutil.rmtree(folder)
        if is_new and not any(path.iterdir()):
            path.rmdir()


def load_data(path):
    """The images of a folder or of a CSV table."""
    from skanomaly.datasets import load_folder, load_manifest

    is_table = path.suffix.lower() == ".csv" and not path.is_dir()
    return load_manifest(path) if is_table else load_folder(path)


def load_detector(path):
    """The detector in a file that fit or tune has written."""
    import joblib

    from skanomaly.model_selection import HeldOutThreshold

    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such detector file; write one with skanomaly fit or skanomaly tune"
        )
    try:
        model = joblib.load(path)
    except Exception as error:  # unpickling another kind of file can raise anything
        raise ValueError(
            f"{path}: not a detector file ({error}); write one with skanomaly fit or skanomaly tune"
        ) from error
    if not isinstance(model, HeldOutThreshold):
        raise ValueError(
            f"{path}: expected a detector written by fit or tune, got {type(model).__name__}; load "
            "it in Python with joblib.load, or write a detector file with skanomaly fit"
        )
    return model


def save_detector(model, path, images):
    """Write a detector, with fingerprints of the images by which it was selected or fitted."""
    import joblib

    # Not a part of the estimator: evaluate uses them for a note to the user.
    model.seen_images_ = frozenset(map(fingerprint, images))
    joblib.dump(model, path, compress=1)


def fingerprint(image):
    """Digest of an image file's content, which does not depend on its name and folder."""
    return hashlib.sha256(Path(image).read_bytes()).hexdigest()


def find_images(paths, output=None):
    """Paths of the given images and of those in the given folders.

    Images in the folder `output` are left out: they are heat maps of an earlier call.
    """
    from skanomaly.datasets import load_folder
    from skanomaly.exceptions import MissingImageError

    found = []
    for path in paths:
        if not path.exists():
            raise MissingImageError(f"{path}: no such image file")
        files = [path]
        if path.is_dir():  # no file in it is taken for a mask
            images = load_folder(path, layout="images", mask_suffix="").train.images
            files = [Path(image) for image in images]
        if path.is_dir() and output is not None:
            files = [file for file in files if output.resolve() not in file.resolve().parents]
        found += map(str, files)
    if not found:
        raise ValueError(
            f"expected images, got only those in the output folder {output}; choose other images, "
            "or another output folder with -o"
        )
    return found
