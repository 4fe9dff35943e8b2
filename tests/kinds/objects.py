"""What the contracts of objects have in common, whatever their values consist of."""

from __future__ import annotations

import copy

from shmkernel.testing import KindContract


class ObjectContract(KindContract):
    """The contract of a kind, for objects whose first part is an array."""

    kind = "object"

    def change(self, got):
        got[0][...] = 7

    def touch(self, got):
        repr(got)
        copy.deepcopy(got)

    test_changes_are_everybodys = None  # they never are
