"""Findings of a check of a data set, as records and as text."""

from collections import Counter
from typing import NamedTuple

from skanomaly.datasets._listing import printable
from skanomaly.utils.notebooks import html_table, html_text

SEVERITIES = ("error", "warning", "note")

# The order and the headings of the report.
KINDS = {
    "unreadable": "images that cannot be read",
    "not_read": "files that belong to no part of the data set",
    "contradiction": "the same pixels, labeled good and defective",
    "duplicate": "the same pixels in several images",
    "near_duplicate": "several images of the same object",
    "defect_without_mask": "defective images without a mask",
    "mask_without_image": "masks without an image",
    "named_as_masks": "folders of images that are called as folders of masks",
    "unreadable_mask": "masks that cannot be read",
    "mask_size": "masks of another size than their image",
    "empty_mask": "masks of defective images that mark no defect",
    "full_mask": "masks that mark every pixel as a defect",
    "inverted_mask": "masks that mark most of their image as a defect",
    "repeated_mask": "masks that mark the same pixels in several images",
    "mask_of_good_image": "good images whose mask marks a defect",
    "mask_not_binary": "masks that are not black and white",
    "mixed_modes": "images with different channels or data types",
    "mixed_sizes": "images of different sizes",
    "unused_bits": "images of 16 bits that use the lower ones alone",
    "transparency": "images with transparent pixels",
    "even_image": "images with almost no contrast",
    "unusual_good_image": "good images that differ from the good training images",
}

_EXAMPLES = 3
_NAMES_SHOWN = 4


class Finding(NamedTuple):
    """One finding.

    Attributes
    ----------
    kind : str
        As in the text of the report, such as "duplicate".
    severity : {"error", "warning", "note"}
    names : list of str
        Names of the images or files, such as "train/good/007.png".
    message : str
        What was found.
    """

    kind: str
    severity: str
    names: list
    message: str


class DatasetReport:
    """Result of :func:`check_dataset`, which prints as text.

    Attributes
    ----------
    name : str
        Name of the data set.
    findings : list of Finding
        Named tuples ``(kind, severity, names, message)``, errors first.
    n_images : dict of str to int
        Number of images in each part: "train", "test" and, if there are any, "validation" and
        "train_defects".
    groups : dict of str to ndarray of shape (n,), int
        For each part, a number for each image: images with the same number, in any part, show the
        same object. They can be passed as `groups` to splitters.
    not_checked : list of str
        What could not be checked, and why.
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
        """Findings of one kind.

        Parameters
        ----------
        kind : str
            As in the text of the report: "duplicate", "near_duplicate", "unreadable" and others.

        Returns
        -------
        findings : list of Finding

        Raises
        ------
        ValueError
            If the kind is unknown.
        """
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {list(KINDS)}, got {kind!r}.")
        return [finding for finding in self.findings if finding.kind == kind]

    def __repr__(self):
        return self.text(_EXAMPLES, _NAMES_SHOWN)

    def _repr_html_(self):
        """The report as a table, in notebooks."""
        rows = []
        for severity, kind, found in self._groups():
            names = _shorten([name for one in found for name in one.names], _NAMES_SHOWN)
            rows.append([html_text(text) for text in (severity, KINDS[kind], len(found), names)])
        table = html_table(self._title(), ["severity", "finding", "number", "files"], rows)
        not_checked = (f"<p>not checked: {html_text(text)}</p>" for text in self.not_checked)
        return "".join([table, *not_checked])

    def text(self, n_findings=None, n_names=None):
        """The report as text.

        Parameters
        ----------
        n_findings, n_names : int or None, default=None
            How many findings of a kind, and how many names of a finding, are listed before the
            number of the others is given; None: all of them.

        Returns
        -------
        str
        """
        lines = [self._title()]
        for severity, kind, found in self._groups():
            files = {name for finding in found for name in finding.names}
            lines.append(f"{severity:<8}{kind}: {KINDS[kind]} ({len(found)}; {self._where(files)})")
            for finding in found[:n_findings]:
                names = _shorten(finding.names, n_names)
                lines += [f"          {finding.message}", f"            {names}"]
            if (n_others := len(found) - len(found[:n_findings])) > 0:
                lines.append(f"          and {n_others} more")
        lines += [f"not checked: {text}" for text in self.not_checked]
        return printable("\n".join(lines))

    def _title(self):
        parts = ", ".join(f"{n} {part}" for part, n in self.n_images.items())
        counts = ", ".join(_plural(n, severity) for severity, n in self.counts.items())
        return f"{self.name}: checked {sum(self.n_images.values())} images ({parts}): {counts}"

    def _groups(self):
        """Yield (severity, kind, findings) of those that there are."""
        for severity, kind in dict.fromkeys((f.severity, f.kind) for f in self.findings):
            found = [f for f in self.findings if (f.severity, f.kind) == (severity, kind)]
            yield severity, kind, found

    def _where(self, files):
        """Number of files in each part, such as "2 train, 1 test"; "3 files" for masks."""
        parts = Counter(name.partition("/")[0] for name in files)
        if set(parts) <= set(self.n_images):
            return ", ".join(f"{parts[part]} {part}" for part in self.n_images if part in parts)
        return f"{len(files)} files"


def _plural(n, word):
    return f"{n} {word}" + "s" * (n != 1)


def _shorten(names, n_shown):
    n_others = len(names) - len(names[:n_shown])
    return ", ".join(names[:n_shown]) + (f" and {n_others} more" if n_others else "")
