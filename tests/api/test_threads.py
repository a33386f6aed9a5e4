"""A process that may start no more threads refuses by name, and serves again when it may."""

from __future__ import annotations

import resource
from pathlib import Path

from tests.api.running import check_problem, run_api
from tests.services import own_database


def test_the_api_without_threads(redis_url: str, tmp_path: Path) -> None:
    """Its address space may not grow, so the kernel refuses the stack of a new thread. No thread was started before:
    what the fixture asks is answered by the event loop."""
    with run_api(tmp_path, own_database(redis_url)) as api:
        pid = api.process.pid
        held_pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
        usual = resource.prlimit(pid, resource.RLIMIT_AS)
        limit = held_pages * resource.getpagesize() + 4 * 1024**2
        resource.prlimit(pid, resource.RLIMIT_AS, (limit, usual[1]))
        refused = api.client.get("/jobs")
        problem = check_problem(refused, 503, "threads_exhausted")
        assert problem["retryable"] is True
        assert refused.headers["retry-after"]
        resource.prlimit(pid, resource.RLIMIT_AS, usual)
        assert api.client.get("/jobs").status_code == 200
        assert "Traceback" not in api.log.read_text()
