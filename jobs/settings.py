"""Configuration, read once from the environment (prefix RETALKING_) in each process's entry file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from jobs.names import OWN_FOLDERS, PREFIX_PATTERN
from jobs.telemetry import LogFormat

# As suggested by Standard Webhooks: 76 hours in total.
DEFAULT_RETRIES_S = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
RetryPause = Annotated[float, Field(ge=0, le=7 * 86400)]


class Settings(BaseSettings):
    """Shared by all processes; docs/configuration.md is generated from it. Durations in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix="RETALKING_", env_file=".env", extra="ignore", frozen=True)

    # Locations
    redis_url: SecretStr = Field(SecretStr("redis://127.0.0.1:6379/0"), description="Redis: broker, job store, events")
    data_dir: Path = Field(Path("data"), description="Data of the embedded services and the local object store")
    public_url: str = Field(
        "http://127.0.0.1:8000", description="URL at which callers reach the API; links start with it"
    )
    link_secret: SecretStr = Field(
        SecretStr(""),
        description="Secret that signs upload and result links; empty: one is generated and stored in data_dir",
    )

    # Access
    require_keys: bool = Field(
        False,
        description="Calls need an API key (`retalking keys create`); false: anyone who reaches the port may call",
    )
    public_hosts: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="Host names, comma separated, at which callers reach the API, besides loopback and the host of "
        "public_url. Checked only if no keys are required, against DNS rebinding",
    )
    cors_origins: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="Origins, comma separated, whose pages may call the API from a browser, e.g. "
        "https://app.example.com; `*`: any, only if keys are required. Empty: none",
    )
    requests_per_minute: int = Field(
        600, ge=1, le=60000, description="Requests per minute of one account; an account may have its own limit"
    )
    live_jobs_per_key: int = Field(
        100, ge=1, description="Unfinished jobs of one account; an account may have its own limit"
    )
    batch_items_per_key: int = Field(
        1000, ge=1, description="Items of one account's batches that wait to become jobs; without keys: of all callers"
    )
    stored_bytes_per_key: int = Field(
        100 * 1024**3,
        ge=1024,
        description="Bytes of uploads, inputs and results of one account; an account may have its own limit",
    )
    stored_bytes: int = Field(1024**4, ge=1024, description="The same for all callers together")
    min_free_bytes: int = Field(
        1024**3,
        ge=0,
        description="With less free space on the disk of data_dir, or of a Redis on this machine, submissions and "
        "uploads are refused; below half of it, results are not stored either. 0: no check",
    )
    metrics_open: bool = Field(
        False, description="Serve `/metrics` without a key even if keys are required; false: an admin key is needed"
    )

    # Logs and traces
    log_format: LogFormat = Field("json", description="`json`: one object per line; `text`: for people")
    traces_endpoint: str = Field(
        "", description="OTLP over HTTP, e.g. http://collector:4318; empty: no traces. Needs the extra `traces`"
    )

    # S3 (all empty: objects are files under data_dir/objects)
    s3_bucket: str = Field("", description="Bucket; if set, objects are stored in S3 instead of the local folder")
    s3_endpoint: str = Field("", description="Endpoint of an S3-compatible store; empty: AWS")
    s3_public_endpoint: str = Field(
        "", description="Endpoint of presigned links, if callers reach the store at another address"
    )
    s3_region: str = Field("us-east-1", description="Region used in signatures")
    s3_access_key_id: SecretStr = Field(SecretStr(""), description="Empty: the standard AWS credential chain")
    s3_secret_access_key: SecretStr = Field(SecretStr(""), description="Secret of the access key")
    link_ttl_s: int = Field(3600, ge=60, le=7 * 86400, description="Lifetime of presigned links")

    # Limits on input
    max_upload_bytes: int = Field(2 * 1024**3, ge=1024, description="Largest single input file")
    max_json_bytes: int = Field(1024**2, ge=1024, description="Largest JSON body and largest form field")
    max_connections: int = Field(
        1024, ge=16, description="Connections of one API process; beyond that, the longest idle one is closed"
    )
    unread_response_s: float = Field(
        60.0, gt=0, description="A connection that does not read its response for this long is closed"
    )
    upload_idle_s: float = Field(60.0, gt=0, description="A request body is aborted if nothing arrives for this long")
    upload_min_bytes_per_s: int = Field(
        8192, ge=0, description="A request body slower than this, after upload_idle_s, is aborted; 0: no limit"
    )
    submissions_open_per_key: int = Field(
        16, ge=1, description="Concurrent submissions and uploads of one account, per API process"
    )
    submissions_open: int = Field(
        64, ge=1, description="The same for all callers. Each takes up to 1 MB of memory, 9 MB with S3"
    )
    event_streams_per_key: int = Field(100, ge=1, description="Open event streams of one account, per API process")
    event_streams: int = Field(400, ge=1, description="The same for all callers")
    downloads_open_per_key: int = Field(
        64, ge=1, description="Concurrent downloads of one account's files, per API process"
    )
    downloads_open: int = Field(256, ge=1, description="The same for all callers")
    fetch_min_bytes_per_s: int = Field(
        32768,
        ge=0,
        description="Fetching an input is aborted if its URL sends more slowly than this for 10 s; 0: no limit",
    )
    fetch_limit_s: float = Field(
        900.0, gt=0, description="Longest time for fetching all inputs of a job from URLs, including retries"
    )
    fetch_slots: int = Field(
        16,
        ge=4,
        le=256,
        description="Jobs whose inputs a webhook worker fetches from URLs concurrently. Each takes up to 1 MB of "
        "memory, 9 MB with S3",
    )
    output_prefixes: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="Folders of the object store, comma separated, e.g. exports, below which `output.prefix` of a job "
        "may put a copy of its result, in a folder of its account. Empty: none",
    )
    export_limit_s: float = Field(
        900.0, gt=0, description="Longest time of one attempt to PUT a result to a caller's URL"
    )
    export_min_bytes_per_s: int = Field(
        32768,
        ge=0,
        description="Such an attempt is aborted if the URL takes fewer bytes than this for 10 s; 0: no limit",
    )
    export_slots: int = Field(8, ge=4, le=256, description="Results that a webhook worker exports concurrently")
    export_retries_s: Annotated[list[RetryPause], NoDecode, Field(max_length=40)] = Field(
        default=[5, 60, 300, 1800, 7200],
        description="Pauses before the second and each further attempt to export a result, comma separated",
    )
    max_video_s: float = Field(600.0, gt=0, description="Longest input video")
    max_audio_s: float = Field(600.0, gt=0, description="Longest speech")

    # Jobs
    lease_s: float = Field(30.0, gt=1, description="A worker that does not renew its lease for this long loses its job")
    stall_s: float = Field(300.0, gt=1, description="A worker gives up a render without progress for this long")
    render_limit_s: float = Field(3600.0, gt=1, description="Time limit of one attempt")
    split_min_s: float = Field(
        60.0, ge=0, description="Results longer than this are split among all idle workers; 0: never"
    )
    max_attempts: int = Field(3, ge=1, le=10, description="Attempts before a job fails as worker_lost")
    retention_s: int = Field(7 * 86400, ge=60, description="Finished jobs and their files are deleted after this time")
    upload_ttl_s: int = Field(
        86400, ge=60, description="Uploads and files that no job uses are deleted after this time"
    )
    idempotency_ttl_s: int = Field(86400, ge=60, description="How long an Idempotency-Key is remembered")
    janitor_interval_s: float = Field(2.0, gt=0.05, description="Pause between two rounds of the janitor")
    worker_ttl_s: float = Field(30.0, gt=1, description="A worker without a heartbeat for this long is considered dead")

    shutdown_grace_s: float = Field(
        8.0, ge=0, description="A worker that is stopped finishes its job within this time, or returns it to the queue"
    )

    # Webhooks
    webhook_secret: SecretStr = Field(
        SecretStr(""), description="Signing secret (whsec_...); empty: one is generated and stored in data_dir"
    )
    webhook_retries_s: Annotated[list[RetryPause], NoDecode, Field(max_length=40)] = Field(
        default=list(DEFAULT_RETRIES_S),
        description="Pauses before the second and each further attempt to deliver an event, comma separated, with up "
        "to 10 % random jitter. After the last attempt the event is given up",
    )
    webhook_breaker_s: float = Field(
        30.0,
        gt=0,
        description="A receiver that failed three times in a row is not tried for this long, then for increasing times",
    )
    webhook_slots: int = Field(64, ge=4, le=512, description="Concurrent requests of a webhook worker")
    webhook_timeout_s: float = Field(10.0, gt=0, le=120, description="Timeout of a request to a receiver")
    allow_private_hosts: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="Host names, addresses or CIDR ranges, comma separated, "
        "that input URLs and webhooks may reach although they are private",
    )

    # Worker
    engine: str = Field("auto", description="Engine for jobs with engine `auto`: auto, or the name of one")
    models_dir: Path = Field(Path("models"), description="Checkpoints of the neural engine")
    datasets_dir: Path = Field(
        Path("dataset"), description="Data sets that `retalking evaluate --dataset NAME` finds by name"
    )
    tracker: Literal["auto", "dlib", "neural"] = Field(
        "auto",
        description="Face tracker of the neural engine: dlib, neural (S3FD and 2DFAN4), or auto: neural if its trained "
        "weights and a CUDA device are available",
    )
    inference: Literal["auto", "exact", "fast"] = Field(
        "auto",
        description="Arithmetic of the neural engine: exact (float32), fast (half precision; needs CUDA), or "
        "auto: fast if CUDA is available",
    )
    inference_batch: int = Field(
        16, ge=1, le=32, description="Batch size of the neural engine on a CUDA device, in frames"
    )
    kernels: Literal["background", "before_ready", "plain"] = Field(
        "background",
        description="Compiled kernels of the neural engine: background (the first jobs run plain kernels, several "
        "times slower, until the compiled ones are ready), before_ready (the worker waits for them before its first "
        "job), or plain (never compiled)",
    )
    kernels_dir: Path | None = Field(
        None,
        description="Folder with bundles that `retalking compile` wrote. They are executed: trust them like code. "
        "Empty: none",
    )
    gpu_slots: int = Field(
        1,
        ge=1,
        le=8,
        description="Concurrent jobs of a render worker, each in a process with its own copy of the models",
    )
    worker_memory_bytes: int = Field(
        8 * 1024**3, ge=0, description="Private memory that a render process may use; 0: no limit"
    )
    face_cache_bytes: int = Field(
        8 * 1024**3,
        ge=0,
        description="Size of the face cache: the analysis of a video is kept for the next speech on it; 0: disabled",
    )
    face_cache_ttl_s: float = Field(
        86400.0, gt=0, description="Entries of the face cache are deleted when unused for this long"
    )
    c2pa_cert: Path | None = Field(
        None,
        description="PEM chain that signs results (C2PA), the signer's certificate first; empty: unsigned",
    )
    c2pa_key: Path | None = Field(None, description="Unencrypted PEM key of c2pa_cert, readable by the worker alone")
    work_dir: Path | None = Field(None, description="Folder for temporary files; empty: the system default")

    @field_validator(
        "allow_private_hosts",
        "cors_origins",
        "public_hosts",
        "webhook_retries_s",
        "export_retries_s",
        "output_prefixes",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("output_prefixes")
    @classmethod
    def _check_prefixes(cls, prefixes: list[str]) -> list[str]:
        """The folders of the service itself are not for copies."""
        for prefix in prefixes:
            if not re.fullmatch(PREFIX_PATTERN, prefix) or prefix.split("/")[0] in OWN_FOLDERS:
                own = ", ".join(sorted(OWN_FOLDERS))
                raise ValueError(
                    f"RETALKING_OUTPUT_PREFIXES: {prefix!r} is not a folder such as exports, besides {own}"
                )
        return prefixes

    @model_validator(mode="after")
    def _check_origins(self) -> Self:
        """An origin is what browsers send: scheme, host and port, without a path. Without keys, `*` would open the
        service to every page that a user of this network visits."""
        for origin in self.cors_origins:
            if origin == "*" and not self.require_keys:
                raise ValueError("RETALKING_CORS_ORIGINS may be * only if RETALKING_REQUIRE_KEYS is true")
            if origin != "*" and not re.fullmatch(r"https?://[^/\s?#@]+", origin):
                raise ValueError(f"RETALKING_CORS_ORIGINS: {origin!r} is not an origin such as https://app.example.com")
        return self
