"""Another notebook, as a process with a session of its own."""

import os

from tests.helpers import Child, holding


def elsewhere(make, label="plot.ipynb"):
    """Run `make` in another session, which keeps the result."""

    def work():
        os.environ["JPY_SESSION_NAME"] = label
        return make()

    return holding(work)


def answering(answer, label="plot.ipynb"):
    """Start another session, which sends the result of `answer` for each word that it receives."""

    def work(connection):
        os.environ["JPY_SESSION_NAME"] = label
        connection.send("ready")
        while True:
            connection.send(answer(connection.recv()))

    child = Child(work)
    assert child.hear() == "ready"
    return child
