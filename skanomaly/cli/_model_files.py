"""Input and output files: images and detector files."""

import hashlib
from collections import Counter
from pathlib import Path

from skanomaly.cli._printing import print_note
from skanomaly.cli._shell_words import in_shell_words
from skanomaly.exceptions import DamagedFileError


def load_data(path):
    """The images of a folder or of a CSV table."""
    from skanomaly.datasets import load_folder, load_manifest

    is_table = path.suffix.lower() in (".csv", ".tsv", ".txt") and not path.is_dir()
    try:
        data = load_manifest(path) if is_table else load_folder(path)
    except ValueError as error:
        raise ValueError(in_shell_words(str(error))) from error
    _note_not_read(path, data.not_read)
    return data


def _note_not_read(path, names):
    """Print a note on the files of a folder that are not read."""
    if names:
        files = "1 file" if len(names) == 1 else f"{len(names)} files"
        endings = Counter(Path(name).suffix.lower() or "no ending" for name in names)
        kinds = ", ".join(ending for ending, _ in endings.most_common())
        print_note(
            f"{path}: not read: {files} ({kinds}), such as {names[0]}; skanomaly check says why"
        )


def add_detector(parser):
    """Add the arguments of the commands that load a detector file."""
    parser.add_argument(
        "detector", metavar="DETECTOR", type=Path, help="file written by fit or tune"
    )
    parser.add_argument(
        "--trust-pickle",
        action="store_true",
        help="also load a detector that joblib or pickle has written, which may run any code",
    )


def load_detector(path, trust_pickle=False):
    """The detector in a file that fit or tune has written."""
    import skanomaly
    from skanomaly.model_selection import HeldOutThreshold

    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such detector file; write one with skanomaly fit or skanomaly tune"
        )
    try:
        model = skanomaly.load(path, trust_pickle=trust_pickle)
    except DamagedFileError as error:
        raise ValueError(f"{error}; write one with skanomaly fit or skanomaly tune") from error
    if not isinstance(model, HeldOutThreshold):
        raise ValueError(
            f"{path}: expected a detector written by fit or tune, got {type(model).__name__}; load "
            "it in Python with skanomaly.load, or write a detector file with skanomaly fit"
        )
    return model


def save_detector(model, path, images, learned=None):
    """Write a detector, with fingerprints of the images by which it was selected or fitted, if any.

    And of those that it was fitted on, in their order, if they are given. Not a part of the
    estimator: evaluate uses them for a note to the user, update to find the images again.
    """
    import numpy as np

    import skanomaly

    if images is not None:
        model.seen_images_ = np.array(sorted(set(map(fingerprint, images))), dtype="S")
    if learned is not None:
        model.learned_images_ = np.array([fingerprint(image) for image in learned], dtype="S")
    skanomaly.dump(model, path)


def seen_images(model):
    """Fingerprints of the images that a detector file knows, or None."""
    seen = getattr(model, "seen_images_", None)
    return None if seen is None else set(seen.tolist())


def count_seen(model, images):
    """How many of some images fit or tune has used, as far as the detector file tells."""
    seen = seen_images(model) or ()
    return sum(fingerprint(image) in seen for image in images)


def fingerprint(image):
    """Digest of an image file's content, which does not depend on its name and folder."""
    return hashlib.sha256(Path(image).read_bytes()).hexdigest().encode()


def find_images(paths, output=None):
    """Paths of the given images and of those in the given folders.

    Images in the folder `output` are left out: they are heat maps of an earlier call.
    """
    from skanomaly.exceptions import MissingImageError

    found = []
    for path in paths:
        if not path.exists():
            raise MissingImageError(f"{path}: no such image file")
        found += _images_in(path, output) if path.is_dir() else [str(path)]
    if not found:
        raise ValueError(
            f"expected images, got only those in the output folder {output}; choose other images, "
            "or another output folder with -o"
        )
    return found


def _images_in(folder, output):
    """Paths of the images in a folder, none of which is taken for a mask."""
    from skanomaly.datasets import load_folder

    data = load_folder(folder, layout="images", mask_suffix="")
    images, not_read = data.train.images, data.not_read
    if output is not None:
        inside = output.resolve()
        images = [image for image in images if inside not in Path(image).resolve().parents]
        not_read = [name for name in not_read if inside not in (folder / name).resolve().parents]
    _note_not_read(folder, not_read)
    return images
