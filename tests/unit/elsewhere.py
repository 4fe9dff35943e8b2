"""Another notebook, as a process with a session of its own."""

import os

from tests.helpers import holding


def elsewhere(make, label="plot.ipynb"):
    """Run `make` in another session, which holds the result."""

    def work():
        os.environ["JPY_SESSION_NAME"] = label
        return make()

    return holding(work)
