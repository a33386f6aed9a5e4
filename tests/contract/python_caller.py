"""Runs a job with the client that openapi-python-client made: `python_caller.py URL KEY`, next to the inputs."""

import hashlib
import json
import sys
import time
from pathlib import Path

from generated_client import AuthenticatedClient
from generated_client.api.jobs import get_job, list_jobs, submit_job, submit_job_files
from generated_client.api.results import get_result
from generated_client.models import JobForm, JobFormMetadata, JobOutput, JobSubmission, Problem
from generated_client.types import File

url, key = sys.argv[1:]
client = AuthenticatedClient(base_url=url.rstrip("/"), token=key)
with Path("face.mp4").open("rb") as video, Path("speech.wav").open("rb") as audio:
    form = JobForm(
        video=File(payload=video, file_name="face.mp4", mime_type="video/mp4"),
        audio=File(payload=audio, file_name="speech.wav", mime_type="audio/wav"),
        output=JobOutput(crf=20),
        metadata=JobFormMetadata.from_dict({"order": 7}),
    )
    job = submit_job_files.sync(client=client, body=form)
assert not isinstance(job, Problem), job
while job.status not in ("succeeded", "failed", "canceled"):
    time.sleep(0.1)
    job = get_job.sync(job.id, client=client)
result = get_result.sync_detailed(job.id, client=client).content
refusal = submit_job.sync(client=client, body=JobSubmission())
page = list_jobs.sync(client=client, limit=5)
print(
    json.dumps(
        {
            "status": job.status,
            "bytes": len(result),
            "sha256": hashlib.sha256(result).hexdigest(),
            "crf": job.options.output.crf,
            "metadata": job.metadata.to_dict(),
            "refusal": refusal.code,
            "listed": len(page.jobs),
        }
    )
)
