"""How much is tried, and the values that Hypothesis draws from.

Examples are the same few in each run. With a number SKANOMALY_FUZZ in the environment there are
so many of each kind, drawn anew.
"""

import os

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

N_ASKED = int(os.environ.get("SKANOMALY_FUZZ", 0))


def bounded(n_examples, **options):
    """Settings of a test of so many examples, unless the environment asks for others."""
    return settings(
        max_examples=N_ASKED or n_examples,
        derandomize=not N_ASKED,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        **options,
    )


# --- arrays -----------------------------------------------------------------------------------

DTYPES = (
    *("bool", "int8", "uint8", "uint16", "int32", "int64", "uint64"),
    *("float16", "float32", "float64", "complex64", "U4", "S4", "object", "datetime64[s]"),
)


@st.composite
def arrays(draw, min_dims=0, max_dims=5, max_side=6, dtypes=DTYPES):
    """Arrays of all kinds of numbers and of none, with NaN, in any order in memory."""
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    shape = draw(
        hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, min_side=0, max_side=max_side)
    )
    rng = np.random.default_rng(draw(st.integers(0, 3)))
    numbers = rng.normal(0, 3, shape)
    spoilt = draw(st.sampled_from([None, None, np.nan, np.inf, -np.inf, 1e30]))
    if spoilt is not None and numbers.size:
        numbers.flat[draw(st.integers(0, numbers.size - 1))] = spoilt
    with np.errstate(all="ignore"):
        made = (
            numbers.astype(dtype)
            if dtype.kind in "fcOUSb"
            else (100 * rng.random(shape)).astype(dtype)
        )
    made = np.asarray(made)  # of no axes they have become scalars
    layouts = [_as_it_is, _reversed, _fortran, _read_only, _strided, _swapped]
    return draw(st.sampled_from(layouts))(made)


def _as_it_is(made):
    return made


def _reversed(made):
    return made[::-1] if made.ndim else made


def _fortran(made):
    return np.asfortranarray(made)


def _read_only(made):
    made.flags.writeable = False
    return made


def _strided(made):
    return np.repeat(made, 2, axis=-1)[..., ::2] if made.ndim else made


def _swapped(made):
    return made.astype(made.dtype.newbyteorder()) if made.dtype.kind in "iufc" else made


# --- y ----------------------------------------------------------------------------------------


@st.composite
def masks(draw, n):
    """Masks of n images, in one of the forms they come in; some are wrong."""
    shape = draw(st.tuples(st.integers(0, 5), st.integers(0, 5)))
    rng = np.random.default_rng(draw(st.integers(0, 3)))
    made = rng.random((n, *shape)) < draw(st.sampled_from([0, 0.02, 0.5, 1]))
    kind = draw(st.sampled_from(["array", "numbers", "list", "with None", "fractions", "channels"]))
    return {
        "array": made,
        "numbers": made * np.uint8(255),
        "list": list(made),
        "with None": [mask if mask.any() else None for mask in made],
        "fractions": made * 0.5,
        "channels": made[..., None],
    }[kind]


@st.composite
def targets(draw, n):
    """y of about n images, in codings right and wrong."""
    n = n if draw(st.integers(0, 3)) else draw(st.integers(0, n + 2))
    codes = draw(
        st.sampled_from(
            [(1, -1), (1, 1), (-1, -1), (0, 1), (True, False), ("good", "bad"), (1.0, -1.0),
             (1.0, np.nan), (None, 1), (1, 2, 3)]
        )
    )  # fmt: skip
    labels = [
        codes[i] for i in draw(st.lists(st.integers(0, len(codes) - 1), min_size=n, max_size=n))
    ]
    forms = [
        list,
        tuple,
        np.array,
        lambda y: np.array(y, dtype=object),
        lambda y: np.array(y)[:, None],
    ]
    drawn = [st.none(), st.just(draw(st.sampled_from(forms))(labels)), masks(n)]
    return draw(st.one_of(*drawn))
