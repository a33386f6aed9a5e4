"""Names under `.never.test` are never answered; with this folder in PYTHONPATH a process needs no name server for it.

A resolver whose servers stay silent returns after two tries of 5 s with each of two servers.
"""

import socket
import time

SILENCE_S = 20.0

_getaddrinfo = socket.getaddrinfo


def _slow(host, *args, **kwargs):
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    if name and name.rstrip(".").lower().endswith(".never.test"):
        time.sleep(SILENCE_S)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return _getaddrinfo(host, *args, **kwargs)


socket.getaddrinfo = _slow
