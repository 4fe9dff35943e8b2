"""What a peer's kernel publishes is shown; user code can publish any content there, which is then ignored."""

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from shmkernel.notebook import peer

ODD = [None, 3, "x", [], [3], {}, {"source": "set_next_input"}, {"source": ["a"]}]


@pytest.fixture
def magics():
    yield peer.PeerMagics(InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}})))
    InteractiveShell.clear_instance()


def message(kind, content):
    return {"msg_type": kind, "content": content, "metadata": {}, "buffers": []}


@pytest.mark.parametrize(
    "kind",
    [
        "stream",
        "display_data",
        "update_display_data",
        "execute_result",
        "clear_output",
        "execute_reply",
        "comm_msg",
        "x",
    ],
)
def test_a_message_of_another_content_than_jupyters_is_ignored(magics, kind, capsys):
    magics._publish("peer", message(kind, {}))
    for key in ("name", "text", "data", "metadata", "transient", "wait", "payload", "comm_id"):
        for value in ODD:
            magics._publish("peer", message(kind, {key: value}))
    magics._publish("peer", message("stream", {"name": "exit", "text": "x"}))
    magics._publish("peer", message("execute_reply", {"payload": ODD}))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("ename", ["", "\0", "\udc80", None, 3, ["a"]])
@pytest.mark.parametrize("lines", [None, 3, [3], ["a"]])
def test_any_error_of_a_peer_can_be_raised_and_shown(ename, lines):
    error = peer._as_there("peer", {"ename": ename, "evalue": ename, "traceback": lines})
    with pytest.raises(peer.PeerError):
        raise error
    assert "".join(error._render_traceback_())
    assert isinstance(peer._as_there("peer", {}), peer.PeerError)
