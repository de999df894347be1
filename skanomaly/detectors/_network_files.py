"""Files of trained networks: arrays, and a line of JSON that says what they are. No pickle."""

import json
import zipfile

import numpy as np

from skanomaly._files import naming, whole_file

FORMAT = 1
_HEAD = "registration network"  # name of the line among the arrays


def write_file(path, arrays, head):
    """Write arrays by name and a dict of what JSON can hold; whole or not at all."""
    text = json.dumps({"format": FORMAT, **head}, default=lambda number: number.item())  # of numpy
    with whole_file(path) as unfinished, naming(path), open(unfinished, "wb") as file:
        np.savez(file, **arrays, **{_HEAD: np.array(text)})


def read_file(path):
    """The arrays and the dict of a file of :func:`write_file`.

    Raises ValueError where the file is none, or of another format.
    """
    try:
        with open(path, "rb") as file, np.load(file) as found:
            arrays = dict(found)
        head = json.loads(str(arrays.pop(_HEAD)))
    except (KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a file of RegistrationNetwork.save ({error})") from error
    if head["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {head['format']}, this version reads {FORMAT}; train again or use "
            "the version that wrote it"
        )
    return arrays, head
