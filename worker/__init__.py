"""Celery workers: render queue, webhook delivery, janitor."""
