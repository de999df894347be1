"""Other values of an estimator's parameters, for rules that hold under every one of them."""

from sklearn.base import clone

from skanomaly.utils.validation import is_valid_parameter, options_of

N_TRIED = 3  # valid values of a parameter, of which the first that can be fitted is taken


def seeded_clone(estimator):
    """A clone whose fits repeat themselves."""
    is_drawn = "random_state" in estimator.get_params(deep=False)
    return clone(estimator).set_params(**({"random_state": 0} if is_drawn else {}))


def other_values(estimator, name):
    """A few other values of a parameter that its constraints allow; none where none is known.

    Parameters
    ----------
    estimator : estimator
    name : str

    Returns
    -------
    list
    """
    value = estimator.get_params(deep=False)[name]
    constraints = getattr(type(estimator), "_parameter_constraints", {}).get(name)
    candidates = sorted(options_of(constraints))
    if isinstance(value, bool):
        candidates.append(not value)
    elif isinstance(value, (int, float)):
        candidates += [2 * value + 1, 2 * value, value / 2, value + 2, 3]
        candidates = [one for one in candidates if isinstance(value, float) or one == int(one)]
        candidates = [type(value)(one) for one in candidates]
    elif value is None:
        candidates += ["2GB"] if name == "memory_limit" else [3, 0.25]
    valid = (one for one in candidates if is_valid_parameter(constraints, name, one))
    return [one for one in dict.fromkeys(valid) if one != value][:N_TRIED]
