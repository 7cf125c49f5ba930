"""Reads InsightFace's verification sets: `.bin` files, pickles of `(list of encoded images, list of bools)`.

Loading a pickle can run arbitrary code, and these files come from many sources. This unpickler builds only numbers,
strings, lists and tuples: the few names that pickled bytes objects and numpy arrays refer to are replaced by our own
stand-ins, and all other names are rejected. A few bytes of pickle can also take all memory, so its opcodes are scanned
first.
"""

import io
import pickle
import pickletools
import reprlib
from collections.abc import Callable, Iterator
from pathlib import Path
from pickletools import markobject
from typing import Any

import numpy as np

# what unpickling damaged data may raise, according to pickle's documentation
DAMAGE = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    TypeError,
    ValueError,
)
CODES = {opcode.code.encode("latin1"): opcode for opcode in pickletools.opcodes}
MOST_COPIES = 1000  # of an object's parts for each instruction so far


class UnsafePickleError(ValueError):
    """Raised for a pickle that refers to something that could run code; it was not loaded."""


def read_verification_bin(path: str | Path) -> tuple[list[bytes], np.ndarray]:
    """Read a `.bin` of any pickle protocol, including Python 2's.

    Args:
        path: A file such as `lfw.bin`, `cfp_fp.bin` or `agedb_30.bin`.

    Returns:
        The 2P encoded images (pair i is images 2i and 2i + 1), and `same`, (P,) bool.

    Raises:
        UnsafePickleError: if the file refers to anything but bytes and numpy arrays; no code is executed.
        ValueError: if it is damaged, or does not have two images per pair.
    """
    pickled = Path(path).read_bytes()
    try:
        _check_opcodes(pickled)
        content = _DataUnpickler(io.BytesIO(pickled), path).load()
    except UnsafePickleError:
        raise
    except DAMAGE as error:
        raise ValueError(f"{path} is damaged, or not a pickle: {error}") from error
    if not isinstance(content, list | tuple) or len(content) != 2:
        raise ValueError(f"{path}: expected (images, same), found {type(content).__name__}")
    images, same = (_plain(part) for part in content)
    if not all(isinstance(part, list | tuple | np.ndarray) for part in (images, same)):
        raise ValueError(
            f"{path}: expected two lists (images, same), found {type(images).__name__} and {type(same).__name__}"
        )
    if len(images) != 2 * len(same):
        raise ValueError(f"{path} has {len(images)} images and {len(same)} pairs, expected two images per pair")
    images = list(images)
    encoded: dict[int, bytes] = {}  # a pickle may refer to one image many times
    for i, image in enumerate(images):
        if id(image) not in encoded:
            encoded[id(image)] = _image_bytes(image, path, i)
    images = [encoded[id(image)] for image in images]
    if not all(value in (0, 1) for value in same):
        raise ValueError(f"{path}: whether a pair shows the same person must be a bool")
    return images, np.array(same, dtype=bool)


def _check_opcodes(pickled: bytes):
    """Raise `ValueError` if unpickling would take memory or time far beyond the file's size.

    A number far beyond those of the objects so far makes the unpickler reserve memory for all numbers up to it. Tuples
    that hold others twice, which hold others twice ..., take forever to hash or print. So the instructions are followed
    with the size of each object, written out in full, in its place.
    """
    stack: list[int] = []  # of sizes, and 0 for a mark
    memo: dict[int, int] = {}
    for count, (opcode, argument, position) in enumerate(_opcodes(pickled)):
        size = 1
        taken = len(opcode.stack_before)
        if markobject in opcode.stack_before:
            taken = opcode.stack_before.index(markobject)
            while top := stack.pop():
                size += top
        for _ in range(taken):
            size += stack.pop()
        if opcode.name.endswith("GET"):
            size = memo[int(argument)]
        stack += [0 if kind is markobject else size for kind in opcode.stack_after]
        if opcode.name.endswith("PUT") or opcode.name == "MEMOIZE":
            number = len(memo) if argument is None else int(argument)
            memo[number] = stack[-1]
            if number > count:
                raise ValueError(f"it numbers an object {number} after {count} instructions, at byte {position}")
        if size > MOST_COPIES * (count + 1):
            raise ValueError(f"its objects contain one another many times, at byte {position}")


def _opcodes(pickled: bytes) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int]]:
    """`pickletools.genops`, which expects ASCII in Python 2's quoted strings: those of images are skipped unread."""
    stream = io.BytesIO(pickled)
    while True:
        position = stream.tell()
        code = stream.read(1)
        opcode = CODES.get(code)
        if opcode is None:
            raise ValueError(f"byte {position} is not a pickle instruction")
        if opcode.name == "STRING":
            stream.readline()
            yield opcode, None, position
        else:
            yield opcode, opcode.arg and opcode.arg.reader(stream), position
        if opcode.name == "STOP":
            return


class _DataUnpickler(pickle.Unpickler):
    def __init__(self, file, path: str | Path):
        super().__init__(file, encoding="bytes")  # Python 2 strings are bytes
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in STAND_INS:
            stand_in = STAND_INS[module, name]
            return lambda *arguments: stand_in(*arguments)  # a new object, since a pickle may set its attributes
        raise UnsafePickleError(
            f"{self.path} refers to {module}.{name}, which verification sets do not contain and which could run code, "
            "so it was not loaded"
        )

    def persistent_load(self, pid: Any):
        raise UnsafePickleError(f"{self.path} refers to an external object ({reprlib.repr(pid)}), so it was not loaded")


class _Type:
    """Stands in for `numpy.dtype`: only numbers, bools, byte strings and objects, in little-endian order."""

    def __init__(self, code: str | bytes, *_):
        if not isinstance(code, str | bytes):
            raise TypeError(f"a dtype of {type(code).__name__} is not allowed")
        self.dtype = np.dtype(code.decode() if isinstance(code, bytes) else code)
        if self.dtype.kind not in "biufSO":
            raise TypeError(f"arrays of {self.dtype} are not allowed")

    def __setstate__(self, state: tuple):
        if state[1] in (">", b">"):
            raise TypeError("big-endian arrays are not allowed")


class _Array:
    """Stands in for `numpy.ndarray`: a list of objects, or a numpy view of raw data."""

    def __init__(self, *_):
        self.values: list | np.ndarray = []

    def __setstate__(self, state: tuple):
        _, shape, kind, _, data = state
        if len(shape) != 1:
            raise TypeError(f"arrays of shape {reprlib.repr(shape)} are not allowed")
        self.values = list(data) if kind.dtype.hasobject else np.frombuffer(data, kind.dtype)


def _from_buffer(data: bytes, kind: _Type, shape: tuple, *_) -> _Array:
    array = _Array()
    array.__setstate__((None, shape, kind, None, data))
    return array


def _scalar(kind: _Type, data: bytes) -> Any:
    return data if kind.dtype.kind == "S" else np.frombuffer(data, kind.dtype)[0]


def _encode(text: str, encoding: str | bytes) -> bytes:
    if encoding not in ("latin1", "latin-1", b"latin1", b"latin-1"):
        raise TypeError(f"text encoded as {reprlib.repr(encoding)} is not allowed")
    return text.encode("latin1")


def _bytes(content: str | bytes | bytearray | list = b"", *encoding: str | bytes) -> bytes:
    """Stands in for `bytes` and `bytearray`, which would interpret an integer as a number of zeros."""
    if isinstance(content, str):
        return _encode(content, *encoding)
    if not isinstance(content, bytes | bytearray | list):
        raise TypeError(f"bytes of {type(content).__name__} are not allowed")
    return bytes(content)


STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): _encode,  # bytes before protocol 3
    ("__builtin__", "bytes"): _bytes,  # empty bytes before protocol 3
    ("builtins", "bytes"): _bytes,
    ("builtins", "bytearray"): _bytes,
    ("__builtin__", "bytearray"): _bytes,
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
}
for core in ("numpy.core", "numpy._core"):  # numpy 1 and 2
    STAND_INS[f"{core}.multiarray", "_reconstruct"] = _Array
    STAND_INS[f"{core}.multiarray", "scalar"] = _scalar
    STAND_INS[f"{core}.numeric", "_frombuffer"] = _from_buffer


def _plain(value: Any) -> Any:
    return value.values if isinstance(value, _Array) else value


def _image_bytes(image: Any, path: str | Path, i: int) -> bytes:
    image = _plain(image)
    if isinstance(image, np.ndarray):
        image = image.tobytes()
    if not isinstance(image, bytes | bytearray) or not image:
        found = type(image).__name__ if image else "nothing"
        raise ValueError(f"{path}: expected encoded bytes for image {i}, found {found}")
    return bytes(image)
