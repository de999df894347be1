"""What a check of a data set found, as records and as text."""

from collections import Counter
from typing import NamedTuple

SEVERITIES = ("error", "warning", "note")

# The order and the headings of the report.
KINDS = {
    "unreadable": "images that cannot be read",
    "contradiction": "the same pixels, called good and defective",
    "duplicate": "the same pixels in several images",
    "near_duplicate": "several images of the same thing",
    "defect_without_mask": "defective images without mask",
    "mask_without_image": "masks that belong to no image",
    "unreadable_mask": "masks that cannot be read",
    "mask_size": "masks of another size than their image",
    "empty_mask": "masks of defective images that show no defect",
    "full_mask": "masks that are a defect all over",
    "mask_of_good_image": "good images whose mask shows a defect",
    "mask_not_binary": "masks that are not black and white",
    "mixed_modes": "images of different kinds",
    "mixed_sizes": "images of different sizes",
    "even_image": "images with hardly anything to see",
    "unusual_good_image": "good images unlike the good images of training",
}

_EXAMPLES = 3
_NAMES_SHOWN = 4


class Finding(NamedTuple):
    """One thing that was found.

    `kind` is a key of the report's headings, `severity` "error", "warning" or "note"; `names` are
    those of the images or files concerned, as "train/good/007.png"; `message` says what was found.
    """

    kind: str
    severity: str
    names: list
    message: str


class DatasetReport:
    """What :func:`check_dataset` found; its text is for reading.

    Attributes
    ----------
    name : str
        The data set's name.
    findings : list of Finding
        Named tuples ``(kind, severity, names, message)``, the gravest first.
    n_images : dict of str to int
        Number of images in each part: "train", "test" and, where there are such, "validation" and
        "train_defects".
    groups : dict of str to ndarray of shape (n,), int
        For each part, a number for each image: images with the same number, in any part, show
        the same thing. Splitters take them as `groups`.
    not_checked : list of str
        Sentences on what could not be checked, and why.
    """

    def __init__(self, name, findings, n_images, groups, not_checked):
        place = {kind: i for i, kind in enumerate(KINDS)}
        self.name = name
        self.findings = sorted(
            findings, key=lambda f: (SEVERITIES.index(f.severity), place[f.kind])
        )
        self.n_images = n_images
        self.groups = groups
        self.not_checked = not_checked

    @property
    def counts(self):
        """Number of findings of each severity."""
        found = Counter(finding.severity for finding in self.findings)
        return {severity: found[severity] for severity in SEVERITIES}

    def of_kind(self, kind):
        """The findings of one kind.

        Parameters
        ----------
        kind : str
            As in the report's text: "duplicate", "near_duplicate", "unreadable" and others.

        Returns
        -------
        findings : list of Finding

        Raises
        ------
        ValueError
            If there is no such kind.
        """
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {list(KINDS)}, got {kind!r}.")
        return [finding for finding in self.findings if finding.kind == kind]

    def __repr__(self):
        parts = ", ".join(f"{n} {part}" for part, n in self.n_images.items())
        counts = ", ".join(_plural(n, severity) for severity, n in self.counts.items())
        lines = [f"{self.name}: checked {sum(self.n_images.values())} images ({parts}): {counts}"]
        headings = dict.fromkeys((f.severity, f.kind) for f in self.findings)
        for severity, kind in headings:
            alike = [f for f in self.findings if (f.severity, f.kind) == (severity, kind)]
            files = {name for finding in alike for name in finding.names}
            lines.append(f"{severity:<8}{kind}: {KINDS[kind]} ({len(alike)}; {self._where(files)})")
            for finding in alike[:_EXAMPLES]:
                lines += [f"          {finding.message}", f"            {_shorten(finding.names)}"]
            if len(alike) > _EXAMPLES:
                lines.append(f"          and {len(alike) - _EXAMPLES} more")
        return "\n".join([*lines, *(f"not checked: {text}" for text in self.not_checked)])

    def _where(self, files):
        """As "2 train, 1 test", or as "3 files" for masks."""
        parts = Counter(name.partition("/")[0] for name in files)
        if set(parts) <= set(self.n_images):
            return ", ".join(f"{parts[part]} {part}" for part in self.n_images if part in parts)
        return f"{len(files)} files"


def _plural(n, word):
    return f"{n} {word}" + "s" * (n != 1)


def _shorten(names):
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more
