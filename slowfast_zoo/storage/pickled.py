"""The data in a pickle, without the code that a pickle can run.

A pickle is a program that may name any function and call it. :class:`Pickles` follows the few instructions that data
needs, and of the functions it knows only those in ``_CALLS``, all of which are here: torch's and numpy's own would make
whatever size they are asked for. In place of everything else that a pickle names, calls or makes stands an
:class:`Unread`, so that what training loops keep next to the weights does not matter; nothing is ever looked up.
"""

from __future__ import annotations

import io
import math
import mmap
import pickletools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import IO, Any, TypeVar, cast

import torch
from torch import Tensor

_T = TypeVar("_T")

_MOST_STEPS = 3_000_000  # a checkpoint with its optimizer's state takes some 100,000
_DEEPEST = 100
_LONGEST_NAME = 1000  # characters of a class
_SHOWN = 200  # characters of what a file says

_STORAGES = {
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "storage.UntypedStorage": torch.uint8,
    # Numbers that no network here has: these storages are passed over.
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "QInt8Storage": torch.qint8,
    "QUInt8Storage": torch.quint8,
    "QInt32Storage": torch.qint32,
    "QUInt4x2Storage": torch.quint4x2,
    "QUInt2x4Storage": torch.quint2x4,
}
_NUMPY_DTYPES = {"b1": torch.bool} | {
    f"{kind[0]}{bits // 8}": getattr(torch, f"{kind}{bits}")
    for kind, sizes in (("uint", (8, 16, 32, 64)), ("int", (8, 16, 32, 64)), ("float", (16, 32, 64)))
    for bits in sizes
}
_READ_DTYPES = (*_NUMPY_DTYPES.values(), torch.bfloat16)
# What a pickle may name without calling it.
_CONSTANTS = {
    "numpy.ndarray": None,  # the class of an array about to be filled, always the same
    **{f"builtins.{name}": None for name in ("dict", "float", "int", "list")},  # what a defaultdict makes
    **{f"torch.{name}": dtype for name, dtype in _STORAGES.items()},
    **{str(dtype): dtype for dtype in _READ_DTYPES},
}


class Unread:
    """In place of what a pickle names, calls or makes that is no number, string, tensor or plain container.

    Attributes:
        name: of the function, the class or the kind of number.
        items: what it was filled with as a dict is: what a class derived from dict holds.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.items: dict[Any, Any] = {}

    def __repr__(self) -> str:
        return f"Unread({self.name!r:.{_SHOWN}})"


class RefusedError(Exception):
    """What is wrong with a file, worded to follow "but it"."""


@dataclass
class Storage:
    """A block of numbers that tensors are views of. Its bytes are not in the pickle."""

    dtype: torch.dtype
    nbytes: int
    numbers: Tensor | None = None

    @property
    def is_unread(self) -> bool:
        """Whether its numbers are of a kind that no network here has."""
        return self.dtype not in _READ_DTYPES


class Pickles:
    """A file's pickles, read one after another.

    Args:
        stream: the file, at its first pickle. Asked for more than there is, it makes no room for that.
        size: of the whole file, which bounds what is made of it.

    Attributes:
        storages: those that the pickles so far refer to, by key. Whoever reads the file fills them in.
    """

    def __init__(self, stream: mmap.mmap | io.BytesIO, size: int) -> None:
        self.storages: dict[str, Storage] = {}
        self._stream = cast(IO[bytes], stream)
        self._steps = _MOST_STEPS
        self._room = 4 * size  # the same bytes may go through several calls

    def load(self) -> Any:
        """The next pickle's value, which :meth:`plain` finishes.

        Raises:
            RefusedError: it needs instructions that data does not, or more data than its file has room for.
            Exception: of any kind: it is damaged.
        """
        stack: list[Any] = []
        lower: list[list[Any]] = []  # the stack below each mark
        memo: dict[int, Any] = {}
        items: list[Any] = []  # what is above the last mark, for the instructions that take that
        argument: Any
        # What is left out of the language is what needs code: an instruction either moves data between the stack, the
        # memo and containers, or leads to one of the few functions below. Unknown ones end it.
        for instruction, argument, _ in pickletools.genops(self._stream):
            self._step()
            name = instruction.name
            if name in ("TUPLE", "LIST", "DICT", "FROZENSET", "APPENDS", "SETITEMS", "ADDITEMS", "INST", "OBJ"):
                items, stack = stack, lower.pop()
            match name:
                case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "FLOAT" | "BINFLOAT" | "NONE":
                    stack.append(argument)
                case "UNICODE" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                    stack.append(argument)
                case "STRING" | "BINSTRING" | "SHORT_BINSTRING":  # Python 2's, decoded as latin-1
                    stack.append(argument)
                case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8" | "BYTEARRAY8":
                    stack.append(bytes(argument))
                case "EMPTY_SET" | "FROZENSET":
                    stack.append(Unread("builtins.set"))
                case "ADDITEMS":
                    _check(stack[-1], Unread)
                case "LONG4":  # of more than 600 digits
                    stack.append(Unread("builtins.int"))
                case "INST":
                    stack.append(Unread(argument.replace(" ", ".", 1)))
                case "OBJ":
                    stack.append(_make_object(items[0]))
                case "NEWOBJ" | "NEWOBJ_EX":
                    del stack[-1 if name == "NEWOBJ" else -2 :]
                    stack.append(_make_object(stack.pop()))
                case "POP":  # of a mark too
                    if stack:
                        stack.pop()
                    else:
                        stack = lower.pop()
                case "POP_MARK":
                    stack = lower.pop()
                case "DUP":
                    stack.append(stack[-1])
                case "NEWTRUE" | "NEWFALSE":
                    stack.append(name == "NEWTRUE")
                case "PUT" | "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                    index = len(memo) if argument is None else argument
                    if index > _MOST_STEPS:  # harmless here, but then nothing that writes pickles wrote this one
                        raise RefusedError(f"keeps a part of its pickle under the number {index:.3g}")
                    memo[index] = stack[-1]
                case "GET" | "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "MARK":
                    lower.append(stack)
                    stack = []
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    count = int(name[-1])
                    stack.append(tuple([stack.pop() for _ in range(count)][::-1]))
                case "TUPLE" | "EMPTY_TUPLE":
                    stack.append(tuple(items) if name == "TUPLE" else ())
                case "LIST" | "EMPTY_LIST":
                    stack.append(items if name == "LIST" else [])
                case "DICT" | "EMPTY_DICT":
                    stack.append(_dict(_pairs(items)) if name == "DICT" else {})
                case "APPEND" | "APPENDS":
                    added = items if name == "APPENDS" else [stack.pop()]
                    if not isinstance(stack[-1], Unread):
                        _check(stack[-1], list).extend(added)
                case "SETITEM" | "SETITEMS":
                    added = items if name == "SETITEMS" else [stack.pop(), stack.pop()][::-1]
                    filled = stack[-1].items if isinstance(stack[-1], Unread) else _check(stack[-1], dict)
                    filled.update(_dict(_pairs(added)))
                case "GLOBAL":
                    stack.append(_resolve(*argument.split(" ", 1)))
                case "STACK_GLOBAL":
                    qualified, module = stack.pop(), stack.pop()
                    stack.append(_resolve(module, qualified))
                case "REDUCE":
                    arguments = stack.pop()
                    stack.append(self._call(stack.pop(), arguments))
                case "BUILD":
                    state = stack.pop()
                    self._fill(stack[-1], state)
                case "BINPERSID":
                    reference = _check(stack.pop(), tuple)
                    # The older kind also refers so to the class of a module, with its source code.
                    is_class = reference[:1] == ("module",)
                    stack.append(_make_object(reference[1]) if is_class else self._storage(*reference))
                case "STOP":
                    return stack.pop()
                case "PROTO" | "FRAME":
                    pass
                case _:
                    raise RefusedError(f"has an instruction in its pickle that data does not need ({name})")
        raise AssertionError("the instructions end with STOP or an exception")

    def plain(self, value: Any, depth: int = 0) -> Any:
        """A loaded value, made anew with its tensors in it.

        Raises:
            RefusedError: all of it is an object that is not read; it is nested too deep, or holds itself; or parts of
                it are shared so often that whoever walks through it would not come to an end.
        """
        self._step()
        if depth > _DEEPEST:
            raise RefusedError(f"is nested more than {_DEEPEST} deep")
        if value is None or isinstance(value, (bool, int, float, str, bytes, torch.dtype, Tensor)):
            return value
        if isinstance(value, (list, tuple)):
            return type(value)([self.plain(part, depth + 1) for part in value])
        if isinstance(value, dict):
            # What is found under a tuple or an object, nobody looks for.
            return {key: self.plain(part, depth + 1) for key, part in value.items() if not isinstance(key, Unread)}
        if isinstance(value, _View):
            value = value.tensor()
        if isinstance(value, _Array) and value.tensor is not None:
            value = value.tensor
        if isinstance(value, Tensor):
            return value
        if isinstance(value, Unread) and value.items:
            return self.plain(value.items, depth + 1)
        if isinstance(value, Unread) and depth:
            return value
        if isinstance(value, Unread):
            raise RefusedError(
                f"holds objects that could run code, the first of them {value.name!r:.{_SHOWN}}: none is loaded. If "
                "you trust the file, read it with its own project and save the state dict alone"
            )
        raise RefusedError(f"holds an unfinished {type(value).__name__.strip('_').lower()}")

    def _step(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise RefusedError(f"takes more than {_MOST_STEPS} steps to read, which no checkpoint does")

    def _spend(self, parts: tuple[Any, ...]) -> None:
        self._room -= len(parts) + sum(len(part) for part in parts if isinstance(part, (str, bytes, list, tuple, dict)))
        if self._room < 0:
            raise RefusedError("has the same bytes copied over and over")

    def _call(self, function: Any, arguments: Any) -> Any:
        self._spend(_check(arguments, tuple))
        if isinstance(function, Unread):
            return Unread(function.name)
        return _CALLS[_check(function, _Function).name](*arguments)

    def _fill(self, target: Any, state: Any) -> None:
        """Sets the state of what :meth:`_call` made."""
        if isinstance(target, (dict, Unread)):
            return  # an ordered dict's attributes: torch keeps versions of modules there
        self._spend(_check(state, tuple))
        if isinstance(target, _Dtype):
            _, order, base, names, fields, *_ = state
            if order not in ("<", ">", "|"):
                raise RefusedError("has numbers in an order of bytes that is none")
            target.is_unread = (base, names, fields) != (None, None, None)  # records, or arrays of arrays
            target.order = "big" if order == ">" else "little"
        else:
            *_, shape, dtype, fortran, data = state
            _check(target, _Array).tensor = _array(shape, dtype, fortran, data)

    def _storage(self, kind: Any, dtype: Any, key: Any, _: Any, count: Any, view: Any = None) -> Any:
        if kind != "storage":
            raise RefusedError("refers to something outside its pickle that is no storage")
        if isinstance(dtype, Unread):
            return dtype
        claimed = Storage(_check(dtype, torch.dtype), _check_sizes((count,))[0] * dtype.itemsize)
        storage = self.storages.setdefault(_check(key, str), claimed)
        if view is not None or (storage.dtype, storage.nbytes) != (claimed.dtype, claimed.nbytes):
            raise RefusedError(f"has storages that are parts of one another ({key!r:.{_SHOWN}})")
        return storage


def numbers(content: Tensor, dtype: torch.dtype, order: str) -> Tensor:
    """Bytes as the numbers they are, in the same memory unless that has to change.

    Args:
        content: of ``torch.uint8``; bytes at its end that make no whole number are left out.
        dtype: of the numbers.
        order: of each number's bytes, ``"little"`` or ``"big"``.
    """
    size = dtype.itemsize
    content = content[: len(content) // size * size]
    if dtype == torch.bool:
        return content != 0  # a byte other than 0 and 1 would be a bool that is neither
    if order != sys.byteorder and size > 1:
        content = content.view(-1, size).flip(1).flatten()
    return content.view(dtype)


@dataclass(frozen=True)
class _Function:
    """One of ``_CALLS``."""

    name: str


@dataclass
class _Dtype:
    """A number type of numpy's, whose byte order comes later."""

    dtype: torch.dtype
    order: str = "little"
    is_unread: bool = False


@dataclass
class _Array:
    """An array of numpy's, which is filled later."""

    tensor: Tensor | Unread | None = None


@dataclass(frozen=True)
class _View:
    """A tensor of torch's, whose storage may be filled later."""

    storage: Any  # all four as the pickle has them, unchecked
    offset: Any
    size: Any
    stride: Any
    dtype: torch.dtype | None = None  # other than the storage's

    def tensor(self) -> Tensor | Unread:
        storage = _check(self.storage, Storage)
        if storage.is_unread:
            return Unread(str(storage.dtype))
        flat = storage.numbers
        if flat is None:
            raise RefusedError("has a tensor without its numbers")
        if self.dtype is not None:
            flat = numbers(flat.view(torch.uint8), self.dtype, sys.byteorder)
        size, stride, (offset,) = _check_sizes(self.size), _check_sizes(self.stride), _check_sizes((self.offset,))
        count = math.prod(size)
        if count == 0:
            return flat[:0].reshape(size)
        # With strides of 0 a tensor can be any number of times its storage, and would be where somebody copies it.
        end = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if max(count, end) > len(flat):
            raise RefusedError(f"has a tensor with more elements than the {len(flat)} of its storage")
        return flat.as_strided(size, stride, offset)


def _check_sizes(values: Any) -> tuple[int, ...]:
    """Sizes, strides or other counts, if they are such; the product of more of them would have a million digits."""
    if len(_check(values, tuple)) > 64 or not all(type(n) is int and 0 <= n < 2**63 for n in values):
        raise RefusedError("has a tensor whose sizes are no such numbers, or too many")
    return cast(tuple[int, ...], values)


def _check(value: Any, kind: type[_T]) -> _T:
    if not isinstance(value, kind):
        names = [of.__name__.strip("_").lower() for of in (type(value), kind)]
        raise RefusedError("has a {} in its pickle where a {} belongs".format(*names))
    return value


def _pairs(items: list[Any]) -> Iterable[tuple[Any, Any]]:
    return zip(items[::2], items[1::2], strict=True)


def _resolve(module: Any, name: Any) -> Any:
    """What stands for a function, a class or a constant that a pickle names."""
    if len(_check(module, str)) + len(_check(name, str)) > _LONGEST_NAME:
        return Unread(f"{module[:_SHOWN]}...")  # named again and again, it would be copied each time
    full = f"{module}.{name}"
    full = full.replace("__builtin__.", "builtins.").replace("numpy._core.", "numpy.core.")  # Python 2, numpy 2
    if full in _CALLS:
        return _Function(full)
    if full in _CONSTANTS:
        return _CONSTANTS[full]
    return Unread(full)


def _make_object(kind: Any) -> Unread:
    """What stands for an object of a class that a pickle names."""
    name = kind.name if isinstance(kind, (Unread, _Function)) else "builtins.object" if kind is None else None
    if name is None:
        raise RefusedError(f"has an object of a {type(kind).__name__} in its pickle, which is no class")
    return Unread(name)


def _dict(pairs: Any = ()) -> dict[Any, Any]:
    return {_key(key): value for key, value in (pairs.items() if isinstance(pairs, dict) else pairs)}


def _key(key: Any) -> Any:
    # Hashing a tuple that is nested deep enough would end the process. Two of these are never the same key.
    if key is None or isinstance(key, (str, bytes, float)) or (isinstance(key, int) and abs(key) < 2**63):
        return key
    return Unread("key")


def _encode(text: Any, encoding: Any) -> bytes:
    if encoding != "latin1":
        raise RefusedError("has bytes in an encoding that pickles do not use")
    return _check(text, str).encode(encoding)


def _dtype(code: Any, *_: Any) -> _Dtype | Unread:
    if _check(code, str) not in _NUMPY_DTYPES:
        return Unread("numpy.dtype")  # of texts, times, objects or complex numbers
    return _Dtype(_NUMPY_DTYPES[code])


def _array(shape: Any, dtype: Any, fortran: Any, data: Any) -> Tensor | Unread:
    if isinstance(dtype, Unread) or (isinstance(dtype, _Dtype) and dtype.is_unread):
        return Unread("numpy.ndarray")
    data = _check(data.encode("latin-1") if isinstance(data, str) else data, bytes)  # Python 2's strings are bytes
    kind = _check(dtype, _Dtype)
    if math.prod(_check_sizes(shape)) * kind.dtype.itemsize != len(data):
        raise RefusedError(f"claims an array of shape {shape!s:.{_SHOWN}} and {kind.dtype} in {len(data)} bytes")
    content = (
        torch.frombuffer(bytearray(data), dtype=torch.uint8)
        if data
        else torch.empty(0, dtype=torch.uint8, device="cpu")
    )
    flat = numbers(content, kind.dtype, kind.order)
    return flat.reshape(shape[::-1]).permute(*range(len(shape))[::-1]).contiguous() if fortran else flat.reshape(shape)


def _scalar(dtype: Any, data: Any = None) -> Any:
    value = _array((), dtype, False, data)
    return value if isinstance(value, Unread) else value.item()


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, _: Any = None, __: Any = None, bits: Any = None
) -> _View | Unread:
    if isinstance(storage, Unread) or bits:
        return storage if isinstance(storage, Unread) else Unread("torch.Tensor")  # one that is to be conjugated
    return _View(storage, offset, size, stride)


def _tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, _: Any, __: Any, dtype: Any, bits: Any = None
) -> _View | Unread:
    if isinstance(dtype, Unread) or dtype is torch.bool:  # bools have storages of their own; each view would be a copy
        return dtype if isinstance(dtype, Unread) else Unread("torch.bool")
    view = _tensor(storage, offset, size, stride, bits=bits)
    return view if isinstance(view, Unread) else replace(view, dtype=_check(dtype, torch.dtype))


def _tensor_of_class(function: Any, _: Any, arguments: Any, *__: Any) -> Any:
    """A tensor of a class derived from torch's, or with attributes, is a tensor."""
    if not isinstance(function, _Function) or function.name not in _TENSORS:
        return Unread(function.name if isinstance(function, (_Function, Unread)) else "torch.Tensor")
    return _CALLS[function.name](*_check(arguments, tuple))


_TENSORS = [f"torch._utils._rebuild_{name}" for name in ("parameter", "tensor", "tensor_v2", "tensor_v3")]
# What a pickle may call, and what is called in its place.
_CALLS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _encode,
    "builtins.bytes": lambda: b"",
    "collections.Counter": _dict,
    "collections.OrderedDict": _dict,
    "collections.defaultdict": lambda *_: {},
    "numpy.core.multiarray._reconstruct": lambda *_: _Array(),
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": lambda data, dtype, shape, order: _array(shape, dtype, order == "F", data),
    "numpy.dtype": _dtype,
    "torch._tensor._rebuild_from_type_v2": _tensor_of_class,
    "torch.Size": lambda sizes: _check(sizes, tuple),
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
}
