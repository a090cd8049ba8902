"""What Calotype raises: one class for each kind of failure, and the built-in one beside it."""

from __future__ import annotations


class Error(Exception):
    """Any failure of Calotype. The message is one full sentence: which file or tensor, what was
    expected, what was found, what to do."""


class InvalidArgumentError(Error, ValueError):
    """The caller asked for something that makes no sense."""


class NotFoundError(Error, FileNotFoundError):
    """A file, model or device that is not there."""


class InvalidDataError(Error, ValueError):
    """A file or array whose content cannot be what it claims to be."""


class UnsupportedError(Error, NotImplementedError):
    """Well-formed, but nothing here implements it."""


class IoError(Error, OSError):
    """The operating system refused to read or write."""


class OutOfMemoryError(Error, MemoryError):
    """A memory budget or the machine is too small."""


class CancelledError(Error):
    """The progress callback returned False."""


class InternalError(Error, RuntimeError):
    """A fault of Calotype's own."""


# In the order of calotype::ErrorCode.
BY_CODE: tuple[type[Error], ...] = (
    InvalidArgumentError,
    NotFoundError,
    InvalidDataError,
    UnsupportedError,
    IoError,
    OutOfMemoryError,
    CancelledError,
    InternalError,
)
