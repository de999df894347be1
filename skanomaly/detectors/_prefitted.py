"""Parts of a detector that were fitted before and are not to be fitted again."""

from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted


def clone_keeping(estimator, name):
    """A clone of an estimator that shares one parameter as it is, fitted.

    Parameters
    ----------
    estimator : estimator
    name : str
        Of the parameter.

    Returns
    -------
    estimator
        Not fitted; its other parameters are clones.
    """
    parameters = estimator.get_params(deep=False)
    parameters = {
        key: value if key == name else clone(value, safe=False) for key, value in parameters.items()
    }
    return type(estimator)(**parameters)


def check_fitted(part, role, advice):
    """Raise ValueError unless a part, called by its role in messages, is fitted and sees all."""
    try:
        check_is_fitted(part)
    except NotFittedError as error:
        raise ValueError(
            f"expected a fitted {role}, got {type(part).__name__} without a fit; {advice}"
        ) from error
    check_whole(part, "fit it without, or take it in a Pipeline with PatchCore", role)


def check_whole(part, advice, role="extractor"):
    """Raise ValueError for an extractor with tiles or a region: it is to see whole images."""
    for name in ("tile_size", "roi"):
        if getattr(part, name, None) is not None:
            raise ValueError(
                f"expected a {role} that sees images as a whole, got {type(part).__name__} with "
                f"{name}; {advice}"
            )
