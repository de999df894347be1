"""Messages about data sets in words of the shell, where they name parameters of Python."""

import re

# Patterns in the messages of skanomaly.datasets, and what users of the command line can do.
PYTHON_WORDS = {
    r" \(see good_names\)": "",
    r"see good_names for other words that mean good": "name their folder good, ok or normal",
    r", or pass test_size=0 to use it for training": "",
    r", or add them to good_names=.* if they contain good images": "",
    r"Rename it or pass good_names": "Rename it",
    r", or pass good_names=.* if it means good": "",
    r"correct mask_suffix=\S+, ": "",
    r"or pass missing_masks='drop' to leave these images out, or 'ignore' to load all images "
    r"without masks": "or move these images away, or move all masks away to do without masks",
    r"add it, or load with missing_masks='drop' or 'ignore'": "add it, or move the image away",
    r"its name ends in mask_suffix='(\w+)'": r"its name ends in \1",
    r"pass mask_suffix='', or rename it": "rename it",
    r"see the parameter resize of extractors": "see --resize of skanomaly fit",
    r", in fit and in predict": ", for fit and for inspect",
}


def in_shell_words(text):
    """A message without advice that only Python can follow."""
    for pattern, words in PYTHON_WORDS.items():
        text = re.sub(pattern, words, text)
    return text
