"""Signing of results, if the deployment has a certificate. If signing fails the job fails: no result stays unsigned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.settings import Settings
from retalking_core.errors import ProvenanceError
from retalking_core.media.container import sniff_kind
from retalking_core.provenance import Credentials, InputFile, ProvenanceClaim, load_credentials
from retalking_core.types import RenderReport
from retalking_core.vocabulary.containers import HEAD_BYTES
from retalking_core.vocabulary.options import JobOptions


@dataclass(frozen=True)
class ResultSigner:
    """Signs the result of one job."""

    credentials: Credentials
    mime: str
    """Media type of the result."""
    badge: bool

    def sign(self, file: Path, video: Path, speech: Sequence[Path], report: RenderReport) -> Path:
        """The signed copy, beside the file. Raises ProvenanceError."""
        from retalking_core.provenance import sign_file

        claim = ProvenanceClaim(
            engine=report.engine,
            engine_version=report.engine_version,
            synthetic_weights=report.synthetic_weights,
            video=_input(video),
            speech=tuple(map(_input, speech)),
            mime=self.mime,
            badge=self.badge,
        )
        signed = file.with_name(f"signed.{file.name}")
        sign_file(file, signed, claim, self.credentials)
        return signed


def open_signer(settings: Settings, options: JobOptions) -> ResultSigner | None:
    """Called before the render, so that no render is wasted on a result that cannot be signed. None: no certificate is
    configured.

    Raises ProvenanceError, and OptionUnsupportedError for a container that cannot carry a signature.
    """
    cert, key = settings.c2pa_cert, settings.c2pa_key
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        missing = "RETALKING_C2PA_KEY" if cert else "RETALKING_C2PA_CERT"
        raise ProvenanceError(f"The worker must sign its results, but {missing} is not set.")
    try:
        from retalking_core.provenance import mime_of_result
    except ImportError as error:
        raise ProvenanceError(
            "The worker must sign its results, but the extra `provenance` is not installed."
        ) from error
    return ResultSigner(load_credentials(cert, key), mime_of_result(options.output.container), options.output.badge)


def _input(path: Path) -> InputFile:
    """The kind is read from the content: names prove nothing."""
    with path.open("rb") as file:
        kind = sniff_kind(file.read(HEAD_BYTES))
    return InputFile(path, kind.content_type)
