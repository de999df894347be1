"""The one reading of the parameter ``device``."""

__all__ = ["resolve_device"]


def resolve_device(device):
    """The torch device that a parameter ``device`` names.

    Parameters
    ----------
    device : str or torch.device
        "auto" is "cuda" where torch can use a GPU, else "cpu"; or a name as torch has them:
        "cpu", "cuda", "cuda:1", "mps", ...

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        torch knows no such device, or this machine has none.

    Examples
    --------
    >>> from skanomaly.utils.device import resolve_device
    >>> resolve_device("cpu")
    device(type='cpu')
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f'expected device as "auto", "cpu", "cuda" or another name that torch knows, '
            f"got {device!r}"
        ) from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device={str(device)!r} needs a GPU that torch can use, and there is none; "
            'take "auto" or "cpu"'
        )
    return found
