"""More hosts than zenoh's usual queue of replies has room for: 256."""

from __future__ import annotations

import pytest

from tests.helpers import PATIENCE

MANY = 300
CROWD = """
import json
from shmkernel.hosts import certificates, network
net = network.Network(certificates.identity(), 'tls/10.77.0.1:7447', [])
net.appear(1, lambda: False)
names = [f'host{at}' for at in range(MANY)]
declare = net._session.liveliness().declare_token
tokens = [declare(f'{network.ROOT}/{what}') for name in names for what in (f'host/{name}', f'shared/{name}/x')]
def answer(query):
    with query:
        for name in names:
            offer = [name, 'x', 'raw', 'raw', 1, 0, 1, 0.0, 'somebody', '']
            query.reply(f'{network.ROOT}/ask/{name}/offers/-', json.dumps([offer]))
queryable = net._session.declare_queryable(f'{network.ROOT}/ask/*/offers/-', answer)
"""


@pytest.fixture
def crowd(hosts):
    """A host that is many."""
    a = hosts[0].kernel()
    a(CROWD.replace("MANY", str(MANY)))
    yield a
    a.begin("import os; os._exit(0)")  # zenoh's threads would wait for each other


def test_all_hosts_are_heard_however_many_they_are(hosts, crowd):
    b = hosts[1].kernel()
    b(f"shm.join('tls/10.77.0.1', timeout={PATIENCE})")
    assert b("len(shm.offers())") == MANY
    assert b("len(shm.join())") == MANY + 2  # the real ones too
    assert crowd("len(net.hosts())") == MANY + 2
    assert f"or one of {MANY - 5} more" in b.fails("shm.attach('x')", "ArgumentError").text
