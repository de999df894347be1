"""The parameters that estimators share, documented once.

A class that has one writes its name in angle brackets, on a line of its own among the parameters
of its docstring; the text below takes its place, with the default of the class's constructor.
"""

import inspect
import re
from textwrap import indent

PARAMETERS = {
    "sigma": """float
Standard deviation of the Gaussian that smooths the score map, in pixels of the network's input.""",
    "contamination": """float in (0, 0.5], or None
Share of the training images that fall below the threshold; None: no threshold is set.""",
    "verbose": """int
1 shows progress bars.""",
    "n_jobs": """int or None
Threads that read images; -1 for all processors, None for two.""",
    "image_size": """int or (int, int)
Height and width in pixels that images are brought to.""",
    "resize": """{"stretch", "pad", "crop"}
How images are brought to the input's size: changing the aspect ratio, padding the shorter side
with its border pixels, or cropping the longer side to its center. Score maps undo it.""",
    "tile_size": """int, (int, int) or None
Height and width in pixels of overlapping tiles that an image is divided into; their features are
joined to those of the whole image. None: no tiles. With tiles, ``image_size=None`` is the size of
the first image of ``fit``, so that images are not reduced; images of another size are brought to
it.""",
    "tile_overlap": """int
Pixels that neighboring tiles share, at least; over these their features are blended. The outer
quarter of them, where features depend on a tile's border, is not used.""",
    "roi": """mask, list of masks, callable or None
Region of interest: patches outside are neither learned nor scored, and score maps are 0 there. A
mask (H, W), True inside, or an image file, in the images' own pixels, for all images, read in
``fit``; a list of one for each image of X, in ``fit`` as in ``transform``; or a function of an
image (H, W, C), such as :func:`skanomaly.images.foreground`, that returns its mask. None: all of
the image.""",
    "pixels_tile_size": """int, (int, int) or None
Height and width in pixels of overlapping tiles that an image is divided into, each of which is an
image for the network; their score maps are joined to that of the whole image. None: no tiles. With
tiles, ``image_size=None`` is the size of the first image of ``fit``, so that images are not
reduced; images of another size are brought to it.""",
    "pixels_tile_overlap": """int
Pixels that neighboring tiles share, at least; over these their score maps are blended. The outer
quarter of them, where a network sees a tile's border, is not used.""",
    "pixels_roi": """mask, list of masks, callable or None
Region of interest: pixels outside get the mean color of those inside before anything else is done,
so that they are neither learned nor scored, and score maps are 0 there. A mask (H, W), True inside,
or an image file, in the images' own pixels, for all images, read in ``fit``; a list of one for each
image of X, in ``fit`` as in ``score_samples``; or a function of an image (H, W, C), such as
:func:`skanomaly.images.foreground`, that returns its mask. None: all of the image.""",
    "device": """str
Where networks run: "cpu", "cuda", ...; "auto" takes a GPU where there is one.""",
    "extractor_memory_limit": """int, str such as "2GB", or None
Features that would take more than a quarter of it are streamed instead of stored.""",
    "bank_memory_limit": """int, str such as "2GB", or None
Budget of a fit and of the search, stored features included; None: the memory that is available. A
fit that would exceed it is refused before it starts. Scores do not depend on it.""",
}
_PLACE = re.compile(r"^( *)<(\w+)>$", flags=re.MULTILINE)


def fill_parameters(kind):
    """Put the text of shared parameters into a class's docstring."""
    if not kind.__doc__:  # stripped by python -OO
        return

    def text(match):
        spaces, name = match.groups()
        parameter = re.sub("^(extractor|bank|pixels)_", "", name)
        kinds, _, text = PARAMETERS[name].partition("\n")
        default = inspect.signature(kind.__init__).parameters[parameter].default
        default = f'"{default}"' if isinstance(default, str) else default
        head = f"{spaces}{parameter} : {kinds}, default={default}"
        return f"{head}\n{indent(text, spaces + '    ')}"

    kind.__doc__ = _PLACE.sub(text, kind.__doc__)
