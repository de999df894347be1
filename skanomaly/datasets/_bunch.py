"""From the images that a reader found to a Bunch: images are held out and masks matched."""

import numpy as np
from sklearn.utils import Bunch, check_random_state

from skanomaly.datasets._listing import choose, printable
from skanomaly.datasets._masks import MaskFiles
from skanomaly.datasets._not_read import describe_not_read

_MISSING_MASKS = ("error", "drop", "ignore")


def check_options(missing_masks, test_size):
    """Raise ValueError for values that these parameters must not have."""
    if missing_masks not in _MISSING_MASKS:
        raise ValueError(f"missing_masks must be one of {_MISSING_MASKS}, got {missing_masks!r}.")
    if not 0 <= test_size < 1:
        raise ValueError(f"test_size must be a fraction in [0, 1), got {test_size!r}.")


def select(found, categories, source):
    """The images found, without the defects that were not requested."""
    names = dict.fromkeys(item.defect for item in [*found.defective, *found.train_defects])
    chosen = choose(names, categories, source)
    return found._replace(
        defective=[item for item in found.defective if item.defect in chosen],
        train_defects=[item for item in found.train_defects if item.defect in chosen],
    )


def split(found, test_size, random_state, source):
    """The images found, with good ones held out for testing if the source does not split them."""
    if found.good is not None:
        return found
    train, good = found.train, []
    if found.defective:
        train, good = _hold_out(train, test_size, random_state, source)
    return found._replace(train=train, good=good)


def make_bunch(name, found, missing_masks):
    """The Bunch that loaders return, from images that are split."""
    defective, has_masks = _with_masks(found, found.defective, missing_masks)
    data = Bunch(
        name=name,
        train=_good_part(found.train),
        validation=_good_part(found.validation) if found.validation else None,
        train_defects=None,
        test=_part(list(found.good) + defective, len(found.good), has_masks),
        defect_names=list(dict.fromkeys(item.defect for item in defective)),
    )
    if found.train_defects:
        defective, has_masks = _with_masks(found, found.train_defects, missing_masks)
        data.train_defects = _part(defective, 0, has_masks)
    sentences = [_describe(data), *found.notes, describe_not_read(found.not_read)]
    dropped = len(found.defective) - len(data.test.images) + len(found.good)
    if dropped:
        sentences.append(f"Left out, because they have no mask: {dropped} defective images.")
    if found.unused_masks and not found.left_out:
        n, first = len(found.unused_masks), found.unused_masks[0]
        sentences.append(f"Masks without an image: {n}, such as {first}.")
    data.DESCR = printable(" ".join(filter(None, sentences)))
    data.not_read = [one.name for one in found.not_read]
    return data


def _hold_out(items, test_size, random_state, source):
    """Good images as (train, test), both in their original order and with at least one image."""
    if test_size == 0:
        return items, []
    if not items:
        raise ValueError(
            f"{source}: expected good images to train on, found defects only; see good_names for "
            "other words that mean good."
        )
    # All images of a group go to the same part; an image without a group is one of its own.
    groups = [i if item.group is None else item.group for i, item in enumerate(items)]
    names = list(dict.fromkeys(groups))
    if len(names) < 2:
        what = "two good images, one" if items[0].group is None else "good images of two items, one"
        raise ValueError(
            f"{source}: expected at least {what} for training and one for testing, "
            "got one. Add images, or pass test_size=0 to use it for training."
        )
    n_test = min(max(round(test_size * len(names)), 1), len(names) - 1)
    order = check_random_state(random_state).permutation(len(names))
    held_out = {names[i] for i in order[:n_test]}
    pairs = list(zip(items, groups, strict=True))
    train = [item for item, group in pairs if group not in held_out]
    return train, [item for item, group in pairs if group in held_out]


def _with_masks(found, items, missing_masks):
    """(items, whether they have masks), after applying ``missing_masks``."""
    items = list(items)
    missing = [item for item in items if not item.masks]
    if not found.has_masks or (missing and missing_masks == "ignore"):
        return items, False
    # If no defective image has a mask, the suffix is probably wrong: an error even with "drop".
    if missing and (missing_masks == "error" or len(missing) == len(items)):
        expected = missing[0].expected_mask
        raise ValueError(
            f"{len(missing)} of {len(items)} defective images have no mask. "
            f"First: {missing[0].path}" + (f", expected {expected}" if expected else "") + ". "
            f"Add the masks, {found.advice}or pass missing_masks='drop' to leave these images "
            "out, or 'ignore' to load all images without masks."
        )
    return [item for item in items if item.masks], True


def _good_part(items):
    """A part of good images only."""
    return Bunch(
        images=[str(item.path) for item in items],
        target=np.ones(len(items), dtype=int),
        names=[item.name for item in items],
    )


def _part(items, n_good, has_masks):
    """A part with masks; the first ``n_good`` items are good, the others defective."""
    images = [str(item.path) for item in items]
    masks = [_mask_files(item) for item in items]
    return Bunch(
        images=images,
        target=np.repeat([1, -1], [n_good, len(items) - n_good]),
        masks=MaskFiles(images, masks) if has_masks else None,
        names=[item.name for item in items],
        defects=[item.defect for item in items],
    )


def _mask_files(item):
    """One path, a tuple of several, or None."""
    files = tuple(map(str, item.masks))
    return files if len(files) > 1 else files[0] if files else None


def _describe(data):
    counts = ", ".join(f"{name} {data.test.defects.count(name)}" for name in data.defect_names)
    n_good = int((data.test.target == 1).sum())
    masks = "without masks" if data.test.masks is None else "with masks"
    text = (
        f"{data.name}: {len(data.train.images)} good images for training; {n_good} good and "
        f"{len(data.test.images) - n_good} defective ones for testing"
        + (f" ({counts}), {masks}." if counts else ".")
    )
    if data.validation is not None:
        text += f" {len(data.validation.images)} good ones for validation."
    if data.train_defects is not None:
        text += (
            f" The training part of the source contains {len(data.train_defects.images)} defective "
            "images: they are in train_defects, not in train."
        )
    return text
