"""Sign pickled objects with a key of this user, so that those of the user's own processes attach without a question.

The key is 32 random bytes in the user's data folder, outside of the folder of segments: a program that can write
segments but not read the home of the user, in a container for example, cannot sign. A process of the user can read the
key, but it could run code in any of the user's kernels anyway.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import os
import secrets

from shmkernel._core import private_files

_SIZE = 32
_UNSIGNED = bytes(_SIZE)
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # they say nothing about the key, and the next call may have it


def sign(front: bytes, stream: bytes) -> bytes:
    """Return the signature of an object; zeros if there is no key, and none can be made."""
    key = _key(make=True)
    return _signature(key, front, stream) if key else _UNSIGNED


def holds(signature: bytes, front: bytes, stream: bytes) -> bool:
    """Return whether the signature was made with this user's key."""
    key = _key(make=False)
    return key is not None and hmac.compare_digest(signature, _signature(key, front, stream))


def _signature(key: bytes, front: bytes, stream: bytes) -> bytes:
    made = hmac.new(key, len(front).to_bytes(8, "little"), hashlib.sha256)
    made.update(front)
    made.update(stream)
    return made.digest()


def _key(*, make: bool) -> bytes | None:
    """Return the key, None if there is none that only this user can read."""
    path = private_files.path("key")
    try:
        if make and not os.path.lexists(path):
            with contextlib.suppress(FileExistsError):  # of several processes one makes it
                private_files.make(path, secrets.token_bytes(_SIZE))
        key = private_files.read(path, _SIZE + 1)
    except OSError as error:
        if error.errno in _PASSING:
            raise
        return None
    return key if key and len(key) == _SIZE else None
