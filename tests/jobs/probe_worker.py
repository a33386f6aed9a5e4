"""A Celery worker with the service's own broker configuration and a task that only says that it ran.

python -m tests.jobs.probe_worker   (settings from the environment; RETALKING_PROBE_KEY: where to say it)
"""

from __future__ import annotations

import os

from jobs.messages import make_celery
from jobs.names import RENDER_QUEUE, RENDER_TASK
from jobs.opening import connect_redis
from jobs.settings import Settings


def main() -> None:
    settings = Settings(_env_file=None)
    celery = make_celery(settings)

    @celery.task(name=RENDER_TASK)
    def render_job(job_id: str) -> None:
        with connect_redis(settings.redis_url.get_secret_value()) as client:
            client.rpush(os.environ["RETALKING_PROBE_KEY"], job_id)

    celery.worker_main(["worker", "--pool", "prefork", "-c", "1", "-Q", RENDER_QUEUE, "--without-mingle",
                        "--without-gossip", "--without-heartbeat", "-l", "WARNING"])  # fmt: skip


if __name__ == "__main__":
    main()
