"""LAPACK's ``dsyevr``, called without the interpreter's lock.

Several threads measure matrices, and SciPy's own wrapper of the routine holds the lock, which stops
the other threads. SciPy publishes the routine's address in ``scipy.linalg.cython_lapack``.
"""

import ctypes
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@cache
def _routine(name: str) -> Any:
    capsule = import_module("scipy.linalg.cython_lapack").__pyx_capi__[name]
    python = ctypes.pythonapi
    # ctypes takes every result for an int unless told, which would cut a pointer to 32 bits.
    python.PyCapsule_GetName.restype = ctypes.c_char_p
    python.PyCapsule_GetName.argtypes = [ctypes.py_object]
    python.PyCapsule_GetPointer.restype = ctypes.c_void_p
    python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    address = python.PyCapsule_GetPointer(capsule, python.PyCapsule_GetName(capsule))
    return ctypes.CFUNCTYPE(None)(address)


def leading_eigenvectors(matrix: Floats, count: int) -> Floats:
    """Return the eigenvectors of the largest ``count`` eigenvalues, ascending, n x count.

    ``matrix`` is n x n, symmetric, float64, and is overwritten.

    Raises:
        ArithmeticError: the solver did not converge.
    """
    size = len(matrix)
    if matrix.shape != (size, size) or matrix.dtype != np.float64 or not 1 <= count <= size:
        raise ValueError(f"need a square float64 matrix and 1 .. {size} vectors, got {count}")
    matrix = np.ascontiguousarray(matrix)  # symmetric: rows may be read as columns
    number, pointer = ctypes.c_int, ctypes.byref
    values, vectors = np.empty(size), np.empty((count, size))
    support = np.empty(2 * count, dtype=np.int32)
    # LAPACK asks for 26 n at least; the rest lets it work in blocks of up to 64 columns.
    work, integers = np.empty(26 * size + 64 * size), np.empty(10 * size, dtype=np.int32)
    computed, status, real = number(0), number(0), ctypes.c_double(0.0)
    n, first = number(size), number(size - count + 1)
    room, integer_room = number(len(work)), number(len(integers))

    def data(array: np.ndarray) -> ctypes.c_void_p:
        return array.ctypes.data_as(ctypes.c_void_p)

    # "I": eigenvalues by index, first .. n in ascending order, so the largest ``count``.
    _routine("dsyevr")(
        ctypes.c_char_p(b"V"), ctypes.c_char_p(b"I"), ctypes.c_char_p(b"L"),
        pointer(n), data(matrix), pointer(n), pointer(real), pointer(real),
        pointer(first), pointer(n), pointer(real), pointer(computed), data(values),
        data(vectors), pointer(n), data(support), data(work), pointer(room),
        data(integers), pointer(integer_room), pointer(status),
    )  # fmt: skip
    if status.value or computed.value != count:
        raise ArithmeticError(f"dsyevr gave {computed.value} of {count} vectors ({status.value})")
    return vectors.T  # LAPACK writes columns, which are the rows of this array
