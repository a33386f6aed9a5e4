"""The API process as `retalking up` starts it: on a socket that was bound before."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

import pytest

from cli.stack.processes import Child
from cli.stack_parts import StackAddress, api_spec, child_environment, listening_socket
from jobs.settings import Settings
from tests.services import accepted_socket, own_database


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_answers_on_a_kept_connection_are_sent_at_once(redis_url: str, tmp_path: Path, host: str) -> None:
    (tmp_path / "logs").mkdir()
    with listening_socket(StackAddress(host, 0)) as listener:
        address = StackAddress(host, listener.getsockname()[1])
        environment = child_environment(Settings(_env_file=None), tmp_path, own_database(redis_url), address)
        api = Child(api_spec(tmp_path, listener.fileno()), environment, tmp_path)
        api.start()
        connection = http.client.HTTPConnection(host, address.port, timeout=60)
        try:
            connection.request("GET", "/healthz")
            assert connection.getresponse().read()
            with accepted_socket(api.pid, connection.sock) as accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        finally:
            connection.close()
            api.ask_to_stop()
            api.finish()
