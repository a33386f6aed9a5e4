"""Configuration, read once from the environment (prefix RETALKING_) in each process's entry file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from jobs.journal import LogFormat

# As Standard Webhooks suggests: 76 hours in all.
DEFAULT_RETRIES_S = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
RetryPause = Annotated[float, Field(ge=0, le=7 * 86400)]


class Settings(BaseSettings):
    """All processes share this one table; docs/configuration.md is generated from it.

    Durations in seconds, sizes in bytes.
    """

    model_config = SettingsConfigDict(env_prefix="RETALKING_", env_file=".env", extra="ignore", frozen=True)

    # Where things are
    redis_url: SecretStr = Field(SecretStr("redis://127.0.0.1:6379/0"), description="Redis: broker, job store, events")
    data_dir: Path = Field(Path("data"), description="Files of the embedded services and of the local object store")
    public_url: str = Field("http://127.0.0.1:8000", description="How callers reach the API; links are built on it")
    link_secret: SecretStr = Field(
        SecretStr(""), description="Signs local upload links; empty: one is made and kept in data_dir"
    )

    # Who may call
    require_keys: bool = Field(
        False, description="Every call needs an API key (`retalking keys create`); false: whoever reaches the port"
    )
    public_hosts: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="Host names, comma separated, under which callers reach the API, beside loopback and the host of "
        "public_url. Asked only without keys, where a name of somebody else's may point here (DNS rebinding)",
    )
    requests_per_minute: int = Field(
        600, ge=1, le=60000, description="Requests of one key; a key may have a limit of its own"
    )
    live_jobs_per_key: int = Field(
        100, ge=1, description="Jobs of one key that are not over; a key may have a limit of its own"
    )
    stored_bytes_per_key: int = Field(
        100 * 1024**3,
        ge=1024,
        description="Uploads, inputs and results that one key may have stored; a key may have a limit of its own",
    )
    stored_bytes: int = Field(1024**4, ge=1024, description="The same of all callers together")
    min_free_bytes: int = Field(
        1024**3,
        ge=0,
        description="Where fewer are free on the disk of data_dir or of a Redis on this machine, submissions and "
        "uploads are refused; below half of it no result is stored either. 0: not watched",
    )
    metrics_open: bool = Field(
        False, description="`/metrics` without a key where keys are required; else with an admin key"
    )

    # What is told about it
    log_format: LogFormat = Field("json", description="`json`: one object a line; `text`: for people")
    traces_endpoint: str = Field(
        "", description="OTLP over HTTP, e.g. http://collector:4318; empty: no traces. Needs the extra `traces`"
    )

    # S3 (all empty: objects are files under data_dir/objects)
    s3_bucket: str = Field("", description="Bucket; setting it switches from the local folder to S3")
    s3_endpoint: str = Field("", description="Endpoint of an S3-compatible store; empty: AWS")
    s3_public_endpoint: str = Field(
        "", description="Endpoint put into presigned links, where callers see another address"
    )
    s3_region: str = Field("us-east-1", description="Region used in signatures")
    s3_access_key_id: SecretStr = Field(SecretStr(""), description="Empty: the standard AWS credential chain")
    s3_secret_access_key: SecretStr = Field(SecretStr(""), description="Secret of the access key")
    link_ttl_s: int = Field(3600, ge=60, le=7 * 86400, description="How long a presigned link lives")

    # Limits on input
    max_upload_bytes: int = Field(2 * 1024**3, ge=1024, description="Largest single input file")
    max_json_bytes: int = Field(1024**2, ge=1024, description="Largest JSON body and largest form field")
    max_connections: int = Field(
        1024, ge=16, description="Connections of one API process; above it the one that was idle longest is closed"
    )
    upload_idle_s: float = Field(60.0, gt=0, description="A body of which nothing arrives this long is given up")
    upload_min_bytes_per_s: int = Field(
        8192, ge=0, description="A body that is slower than this, after upload_idle_s, is given up; 0: no limit"
    )
    submissions_open_per_key: int = Field(
        16, ge=1, description="Submissions and uploads of one key that are being received, in each API process"
    )
    submissions_open: int = Field(
        64, ge=1, description="The same of all callers. Each takes up to 1 MB of memory, 9 MB with S3"
    )
    event_streams_per_key: int = Field(100, ge=1, description="Open event streams of one key, in each API process")
    event_streams: int = Field(400, ge=1, description="The same of all callers")
    downloads_open_per_key: int = Field(
        64, ge=1, description="Files of one key's jobs that this service is sending, in each API process"
    )
    downloads_open: int = Field(256, ge=1, description="The same of all callers")
    fetch_min_bytes_per_s: int = Field(
        32768, ge=0, description="An input address that sends more slowly than this for 10 s is given up; 0: any"
    )
    fetch_limit_s: float = Field(
        900.0, gt=0, description="Longest time for all inputs of a job that come from addresses, tries included"
    )
    max_video_s: float = Field(600.0, gt=0, description="Longest input video")
    max_audio_s: float = Field(600.0, gt=0, description="Longest speech")

    # Jobs
    lease_s: float = Field(30.0, gt=1, description="A worker that is silent this long loses its job")
    stall_s: float = Field(300.0, gt=1, description="A render without progress this long is given up by its worker")
    render_limit_s: float = Field(3600.0, gt=1, description="Hard limit of one attempt")
    split_min_s: float = Field(
        60.0, ge=0, description="Results longer than this are rendered by all idle workers together; 0: never"
    )
    max_attempts: int = Field(3, ge=1, le=10, description="Attempts before a job fails as worker_lost")
    retention_s: int = Field(7 * 86400, ge=60, description="Finished jobs and their files are deleted after this")
    upload_ttl_s: int = Field(86400, ge=60, description="Uploads and files that no job took are deleted after this")
    idempotency_ttl_s: int = Field(86400, ge=60, description="How long an Idempotency-Key is remembered")
    janitor_interval_s: float = Field(2.0, gt=0.05, description="Pause between two rounds of the janitor")
    worker_ttl_s: float = Field(30.0, gt=1, description="A worker that has not reported this long counts as gone")

    shutdown_grace_s: float = Field(
        8.0, ge=0, description="A worker told to stop finishes its job within this, or hands it back to the line"
    )

    # Webhooks
    webhook_secret: SecretStr = Field(
        SecretStr(""), description="Signing secret (whsec_...); empty: one is made and kept in data_dir"
    )
    webhook_retries_s: Annotated[list[RetryPause], NoDecode, Field(max_length=40)] = Field(
        default=list(DEFAULT_RETRIES_S),
        description="Pauses before the second and each further attempt at an event, comma separated; each is made up "
        "to a tenth longer at random. After the last the event is given up",
    )
    webhook_breaker_s: float = Field(
        30.0, gt=0, description="A receiver that failed three times in a row is not tried for this, then for longer"
    )
    webhook_slots: int = Field(64, ge=4, le=512, description="Requests that a webhook worker sends at once")
    webhook_timeout_s: float = Field(10.0, gt=0, le=120, description="Time a receiver has to answer")
    allow_private_hosts: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="Host names, addresses or CIDR ranges, comma separated, "
        "that links and webhooks may reach although private",
    )

    # Worker
    engine: str = Field("auto", description="Engine for jobs that say `auto`: auto, or the name of one")
    models_dir: Path = Field(Path("models"), description="Checkpoints of the neural engine")
    tracker: Literal["auto", "dlib", "neural"] = Field(
        "auto",
        description="What follows faces for the neural engine: dlib, neural (S3FD and 2DFAN4), or auto: neural where "
        "its trained weights and a CUDA device are there",
    )
    inference: Literal["auto", "exact", "fast"] = Field(
        "auto",
        description="How the neural engine computes: exact (float32), fast (half precision, compiled; needs CUDA), or "
        "auto: fast where CUDA is",
    )
    inference_batch: int = Field(
        16, ge=1, le=32, description="Frames that the neural engine draws at once on a CUDA device"
    )
    gpu_slots: int = Field(
        1,
        ge=1,
        le=8,
        description="Jobs that a render worker works on at a time, each in a process with its own copy of the models",
    )
    worker_memory_bytes: int = Field(
        8 * 1024**3, ge=0, description="Memory of its own that a render process may take; 0: no limit"
    )
    face_cache_bytes: int = Field(
        8 * 1024**3,
        ge=0,
        description="What is known of a video's face is kept for the next speech on it, up to this; 0: off",
    )
    face_cache_ttl_s: float = Field(86400.0, gt=0, description="Deleted from the face cache when unused this long")
    c2pa_cert: Path | None = Field(
        None,
        description="PEM chain that results are signed with (C2PA), the signer's certificate first; empty: unsigned",
    )
    c2pa_key: Path | None = Field(None, description="PEM key of c2pa_cert, unencrypted, readable by the worker alone")
    work_dir: Path | None = Field(None, description="Scratch space; empty: the system's temporary folder")

    @field_validator("allow_private_hosts", "public_hosts", "webhook_retries_s", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
