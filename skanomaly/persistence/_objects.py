"""Estimators as JSON and arrays, and back: data alone, no code.

What JSON has stands for itself: None, booleans, integers, finite floats, strings, lists. All else
is a JSON object whose first key names its kind, such as {"tuple": [...]}, {"array": 3} or
{"object": "PatchCore", "state": ...}. Objects and arrays that several places share stay shared.
"""

import collections
import functools
import math
import sys
from pathlib import Path

import joblib
import numpy as np
from sklearn.utils.metadata_routing import MetadataRequest

from skanomaly.exceptions import NotTrustedError
from skanomaly.persistence._classes import (
    class_of,
    function_name,
    function_of,
    name_of,
    own_function_name,
)

_DICTS = {"dict": dict, "ordered_dict": collections.OrderedDict}
_SEQUENCES = {"tuple": tuple, "set": set, "frozenset": frozenset}
_METHODS = (
    "fit", "partial_fit", "predict", "score", "split", "transform", "inverse_transform",
    "decision_function", "predict_proba", "predict_log_proba",
)  # fmt: skip


class Encoder:
    """Turns objects into JSON and collects their arrays.

    Attributes
    ----------
    arrays : dict of str to ndarray
    """

    def __init__(self):
        self.arrays = {}
        self._numbers = {}  # id -> number, of the arrays and of the objects
        self._alive = []  # an id is an object's own while that exists

    def encode(self, value, where="the estimator"):
        """JSON for a value; TypeError that says where it lies if there is none."""
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if kind is list:
            return self._each(value, where)
        if kind in _SEQUENCES.values():
            name = kind.__name__
            items = self._each(value, where)
            return {name: items if kind is tuple else sorted(items, key=repr)}
        if kind in _DICTS.values():
            pairs = [
                [self.encode(k, where), self.encode(v, f"{where}[{k!r}]")] for k, v in value.items()
            ]
            return {"dict" if kind is dict else "ordered_dict": pairs}
        if isinstance(value, np.ndarray) and kind in (np.ndarray, np.memmap):
            return self._array(value, where)
        for encode in (self._plain, self._torch, self._object):
            if (found := encode(value, kind, where)) is not None:
                return found
        raise TypeError(
            f"{where} is of {kind}, which a file without code cannot hold; pass the class to "
            "skanomaly.persistence.register_class, leave the object out, or use joblib.dump, whose "
            "files run code when they are loaded"
        )

    def _each(self, values, where):
        return [self.encode(one, f"{where}[{i}]") for i, one in enumerate(values)]

    def _array(self, array, where):
        if array.dtype.kind == "O":
            items = self._each(array.ravel().tolist(), where)
            return {"object_array": items, "shape": list(array.shape)}
        return {"array": self._number(array, lambda: self._keep(array))}

    def _keep(self, array):
        number = len(self.arrays)
        self.arrays[str(number)] = array
        return number

    def _number(self, value, make):
        """The number of an array that was met before, or of a new one."""
        if id(value) not in self._numbers:
            self._alive.append(value)
            self._numbers[id(value)] = make()
        return self._numbers[id(value)]

    def _plain(self, value, kind, where):
        """Small values of numpy and the standard library."""
        if isinstance(value, np.generic) and value.dtype.kind in "biufSU":
            return {"scalar": value.dtype.str, "value": self.encode(value.item(), where)}
        if kind is complex:
            return {"complex": [repr(value.real), repr(value.imag)]}
        if kind is bytes:
            return {"bytes": self._keep(np.frombuffer(value, np.uint8))}
        if isinstance(value, Path):
            return {"path": str(value)}
        if isinstance(value, np.dtype):
            return {"dtype": value.str}
        if kind in (slice, range):
            return {kind.__name__: self._each([value.start, value.stop, value.step], where)}
        if kind is np.random.RandomState:
            return {"random_state": self.encode(value.get_state(), where)}
        if kind is np.random.Generator:
            return {"generator": self.encode(value.bit_generator.state, where)}
        if isinstance(value, joblib.Memory):
            return {"memory": None}  # a folder of this machine
        if kind is functools.partial:
            parts = value.func, value.args, value.keywords
            return {"partial": [self.encode(part, where) for part in parts]}
        if isinstance(value, type) and (name := name_of(value)) is not None:
            return {"class": name}
        if (name := own_function_name(value)) is not None:
            return {"function": name}
        if isinstance(value, MetadataRequest):
            requests = {m: getattr(value, m).requests for m in _METHODS if hasattr(value, m)}
            return {"requests": self.encode(requests, where)}
        return None

    def _torch(self, value, kind, where):
        """Tensors and the functions that networks call."""
        torch = sys.modules.get("torch")
        if torch is None:
            return None
        if isinstance(value, torch.Tensor) and kind in (torch.Tensor, torch.nn.Parameter):
            array = self._number(value, lambda: self._keep(_array_of(value, torch)))
            dtype = str(value.dtype).removeprefix("torch.")
            is_parameter = kind is torch.nn.Parameter
            return {"tensor": array, "dtype": dtype, "parameter": is_parameter,
                    "requires_grad": value.requires_grad}  # fmt: skip
        if callable(value) and (name := function_name(value)) is not None:
            return {"function": name}
        return None

    def _object(self, value, kind, where):
        """An instance of a class that is allowed."""
        if (name := name_of(kind)) is None:
            return None
        if id(value) in self._numbers:
            return {"again": self._numbers[id(value)]}
        number = self._number(value, lambda: len(self._numbers))
        if isinstance(value, tuple):  # a named tuple
            return {"object": name, "number": number, "items": self._each(tuple(value), where)}
        state = value.__getstate__()
        if not isinstance(state, dict) and state is not None:
            raise TypeError(f"{where}: expected a dict from {name}.__getstate__, got {type(state)}")
        attributes = [
            [key, self.encode(one, f"{where}.{key}")] for key, one in (state or {}).items()
        ]
        return {"object": name, "number": number, "state": attributes}


class Decoder:
    """Makes objects again from JSON and arrays.

    Parameters
    ----------
    arrays : dict of str to ndarray
    """

    def __init__(self, arrays):
        self.arrays = arrays
        self._objects = {}
        self._tensors = {}

    def decode(self, value):
        """What an Encoder has encoded; NotTrustedError for a class that is not allowed."""
        if not isinstance(value, (list, dict)):
            return value
        if isinstance(value, list):
            return [self.decode(one) for one in value]
        kind = next(iter(value))
        content = value[kind]
        if kind in _SEQUENCES:
            return _SEQUENCES[kind](self.decode(content))
        if kind in _DICTS:
            return _DICTS[kind]((self.decode(k), self.decode(v)) for k, v in content)
        return getattr(self, _DECODERS[kind])(content, value)

    def _array(self, content, value):
        return self.arrays[str(content)]

    def _object_array(self, content, value):
        array = np.empty(len(content), dtype=object)
        array[:] = self.decode(content)
        return array.reshape(value["shape"])

    def _scalar(self, content, value):
        dtype = np.dtype(content)
        if dtype.kind not in "biufSU":
            raise ValueError(f"a number of {dtype}")
        return dtype.type(self.decode(value["value"]))

    def _small(self, content, value):
        parse = {
            "float": float,
            "path": Path,
            "dtype": np.dtype,
            "complex": lambda parts: complex(*map(float, parts)),
            "bytes": lambda number: self.arrays[str(number)].tobytes(),
            "slice": lambda parts: slice(*self.decode(parts)),
            "range": lambda parts: range(*self.decode(parts)),
            "memory": lambda location: joblib.Memory(location=None, verbose=0),
            "class": class_of,
            "function": function_of,
        }
        return parse[next(iter(value))](content)

    def _partial(self, content, value):
        function, args, keywords = map(self.decode, content)
        if not isinstance(function, type):
            raise NotTrustedError("it holds a call of a function")
        return functools.partial(function, *args, **keywords)

    def _random_state(self, content, value):
        random_state = np.random.RandomState()
        random_state.set_state(self.decode(content))
        return random_state

    def _generator(self, content, value):
        state = self.decode(content)
        kinds = (
            np.random.PCG64,
            np.random.MT19937,
            np.random.Philox,
            np.random.SFC64,
            np.random.PCG64DXSM,
        )
        generator = {kind.__name__: kind for kind in kinds}[state["bit_generator"]]()
        generator.state = state
        return np.random.Generator(generator)

    def _requests(self, content, value):
        request = MetadataRequest(owner="estimator")
        for method, parameters in self.decode(content).items():
            if method not in _METHODS:
                raise ValueError(f"{method!r} is no method")
            for parameter, alias in parameters.items():
                getattr(request, method).add_request(param=parameter, alias=alias)
        return request

    def _tensor(self, content, value):
        import torch

        if content not in self._tensors:
            array, dtype = np.array(self.arrays[str(content)]), getattr(torch, value["dtype"])
            if not isinstance(dtype, torch.dtype):
                raise ValueError(f"{value['dtype']!r} is no dtype")
            tensor = torch.from_numpy(array)
            tensor = tensor if tensor.dtype == dtype else tensor.view(dtype)
            if value["parameter"]:
                tensor = torch.nn.Parameter(tensor, bool(value["requires_grad"]))
            self._tensors[content] = tensor
        return self._tensors[content]

    def _again(self, content, value):
        return self._objects[content]

    def _object(self, content, value):
        kind, number = class_of(content), value["number"]
        if "items" in value:
            self._objects[number] = tuple.__new__(kind, self.decode(value["items"]))
            return self._objects[number]
        # Before its state is read, in which it may occur itself.
        made = self._objects[number] = object.__new__(kind)
        state = {key: self.decode(one) for key, one in value["state"]}
        if not all(isinstance(key, str) for key in state):
            raise ValueError(f"attributes of {content} without a name")
        if hasattr(made, "__setstate__"):
            made.__setstate__(state)
        else:
            vars(made).update(state)
        return made


_DECODERS = dict.fromkeys(
    ("float", "path", "dtype", "complex", "bytes", "slice", "range", "memory", "class", "function"),
    "_small",
) | {
    name: f"_{name}"
    for name in (
        "array", "object_array", "scalar", "partial", "random_state", "generator", "requests",
        "tensor", "again", "object",
    )
}  # fmt: skip


def _array_of(tensor, torch):
    """A tensor's values; bits of those that numpy lacks."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.view(torch.int16)
    return tensor.numpy()
