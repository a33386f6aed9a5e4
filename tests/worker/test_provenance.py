"""Jobs of a worker that signs its results: signed, or failed by name."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from jobs.local_objects import LocalObjectStore
from jobs.models import InputRef, Job, JobRequest, JobSpec, JobStatus
from jobs.names import curves_key, input_key, job_prefix, new_job_id, targets_key
from jobs.settings import Settings
from jobs.store import JobStore
from retalking_client.provenance import read_provenance
from retalking_core.evaluation.clip import EvaluationModels
from retalking_core.media.limits import MediaLimits
from retalking_core.provenance import TrialCertificate, make_trial_certificate
from tests.jobs.making import published_keys
from tests.worker.conftest import Clips
from tests.worker.scripted_engine import Act, ScriptedEngine
from worker.context import RunContext
from worker.engines import EngineSet
from worker.runner import run_job
from worker.supervision import ShutdownNotice

Work = Callable[..., Job]


@pytest.fixture
def certificate(tmp_path: Path) -> TrialCertificate:
    return make_trial_certificate(tmp_path / "certificate")


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjectStore:
    return LocalObjectStore(tmp_path / "objects")


@pytest.fixture
def work(job_store: JobStore, objects: LocalObjectStore, clips: Clips, tmp_path: Path) -> Work:
    """A job from its submission to its end, in this process. settings: those of the worker."""

    def run(settings: dict[str, Any], **asked: Any) -> Job:
        engine = ScriptedEngine(tmp_path / "marks")
        engine.warm_up()
        context = RunContext(
            settings=Settings(_env_file=None, data_dir=tmp_path / "data", work_dir=tmp_path / "work", **settings),
            store=job_store,
            objects=objects,
            engines=EngineSet({"preview": engine}),
            limits=MediaLimits(),
            worker_id="w1",
            notice=ShutdownNotice(),
            models=EvaluationModels(tmp_path / "models"),
            storage_pauses_s=(0.05,),
        )
        job_id = new_job_id()
        refs = {}
        for part, path in (("video", clips.video), ("audio", clips.audio)):
            objects.put_file(input_key(job_id, part), path, "application/octet-stream")
            refs[part] = InputRef(kind="object", key=input_key(job_id, part), filename="holiday with Anna.mp4")
        request = JobRequest(**({"evaluate": []} | asked))
        job_store.jobs.create(job_id, JobSpec(**refs, request=request), max_attempts=3)
        run_job(job_id, context)
        return job_store.jobs.get(job_id)

    return run


def files_of(objects: LocalObjectStore, job: Job) -> list[str]:
    return [key for key in objects.list_keys(job_prefix(job.id)) if "/input/" not in key]


def test_the_published_file_is_the_signed_one(
    work: Work, objects: LocalObjectStore, certificate: TrialCertificate, tmp_path: Path
) -> None:
    job = work({"c2pa_cert": certificate.chain, "c2pa_key": certificate.key})
    assert job.status is JobStatus.SUCCEEDED, job.error
    assert job.result is not None
    fetched = tmp_path / "result.mp4"
    assert objects.fetch(job.result.key, fetched)
    assert fetched.stat().st_size == job.result.size_bytes, "size and hash are those of the signed file"
    manifest = read_provenance(fetched, certificate.authority.read_bytes()).manifest
    assert manifest is not None
    assert manifest.state == "trusted"
    assert len(manifest.ingredients) == 2
    assert b"Anna" not in fetched.read_bytes(), "a caller's file name stays with the caller"
    assert set(files_of(objects, job)) == {*published_keys(job.result.key)} - {
        curves_key(job.result.key),
        targets_key(job.result.key),
    }


def test_without_a_certificate_nothing_is_signed(work: Work, objects: LocalObjectStore, tmp_path: Path) -> None:
    job = work({})
    assert job.result is not None
    objects.fetch(job.result.key, tmp_path / "result.mp4")
    assert read_provenance(tmp_path / "result.mp4").manifest is None


@pytest.mark.parametrize("fault", ["no key", "no file", "not a key", "half"])
def test_a_failing_signer_fails_the_job_before_the_render(
    work: Work, objects: LocalObjectStore, certificate: TrialCertificate, tmp_path: Path, fault: str
) -> None:
    settings = {"c2pa_cert": certificate.chain, "c2pa_key": certificate.key}
    if fault == "no key":
        del settings["c2pa_key"]
    elif fault == "no file":
        certificate.key.unlink()
    elif fault == "not a key":
        certificate.key.write_text("-----BEGIN PRIVATE KEY-----\n")
    else:
        certificate.chain.write_bytes(certificate.authority.read_bytes())
    job = work(settings)
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert job.error.code == "provenance_failed"
    assert str(tmp_path) not in job.error.message
    assert files_of(objects, job) == []
    assert not (tmp_path / "marks" / "folder").exists(), "the engine was not asked"


def test_a_result_that_cannot_be_signed_is_not_published(work: Work, objects: LocalObjectStore, tmp_path: Path) -> None:
    """A certificate for a web server: in order by itself, and no signer of media. The library sees it when it signs."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "www.example.org")]), datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "web.pem").write_bytes(certificate.public_bytes(pem))
    (tmp_path / "web.key").write_bytes(secret)
    job = work({"c2pa_cert": tmp_path / "web.pem", "c2pa_key": tmp_path / "web.key"})
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert job.error.code == "provenance_failed"
    assert (tmp_path / "marks" / "folder").exists(), "it was rendered"
    assert files_of(objects, job) == []


def test_mkv_is_refused_if_results_are_signed(work: Work, certificate: TrialCertificate) -> None:
    job = work({"c2pa_cert": certificate.chain, "c2pa_key": certificate.key}, output={"container": "mkv"})
    assert job.error is not None
    assert job.error.code == "unsupported_option"
    assert "mp4 or mov" in job.error.message


def test_a_failing_render_is_reported_before_its_signature(work: Work, certificate: TrialCertificate) -> None:
    job = work({"c2pa_cert": certificate.chain, "c2pa_key": certificate.key}, seed=Act.NO_FACE)
    assert job.error is not None
    assert job.error.code == "face_not_found"
