"""What crosses the worker's edges: options in, engines chosen, metrics and errors out."""

from __future__ import annotations

import errno
import json
import logging
import re
from fractions import Fraction
from pathlib import Path

import av
import pytest
from celery.exceptions import SoftTimeLimitExceeded

from jobs.errors import ERROR_CODES, ServiceError
from jobs.objects import ObjectStoreError, ObjectStoreFullError
from jobs.settings import Settings
from jobs.store import LeaseLostError
from jobs.telemetry import JsonFormatter
from retalking_core import errors as core
from retalking_core.engine import Engine
from retalking_core.engine_plugins import EngineEnvironment, EnginePlugin, FoundPlugin
from retalking_core.evaluation.measurement import Measurement
from retalking_core.evaluation.metrics import available_metrics
from retalking_core.media.container import reading
from retalking_core.media.writer import writing
from retalking_core.options import FaceBox, FacePoint, OutputOptions, RenderOptions, SoundOptions
from retalking_core.progress import Progress
from retalking_core.types import RenderReport
from retalking_core.vocabulary.options import JobOptions
from retalking_core.weights.table import ENGINE_WEIGHTS, WEIGHT_FILES
from tests.worker.conftest import Clips
from tests.worker.scripted_engine import ScriptedEngine, remux
from worker import translation as numbers
from worker.engines import EngineSet, choose_engine, load_engines
from worker.faults import describe_fault, is_transient
from worker.lease import ShutdownRequestedError
from worker.translation import render_options


def test_the_defaults_of_http_are_those_of_the_library() -> None:
    assert render_options(JobOptions(), None) == RenderOptions()


def test_every_option_arrives() -> None:
    asked = JobOptions(
        expression="smile",
        upper_face="angry",
        length_mode="loop",
        face=FacePoint(x=1, y=2, time_s=3),
        missing_face="fail",
        crop={"left": 0.1, "top": 0.2, "right": 0.3, "bottom": 0.4},
        pads={"left": 1, "top": 2, "right": 3, "bottom": 4},
        one_shot=True,
        fps=30,
        output={"crf": 20, "max_height": 480, "container": "mkv", "fps": 24, "badge": True},
        sound={"mix": "over", "ducking_db": -20},
        seed=7,
        audio_track="2",
        transcript="Hello, my friend.",
    )
    missing = set(JobOptions.model_fields) - asked.model_fields_set
    assert missing == {"engine", "evaluate"}, "a new option needs a value here that is not its default"
    assert render_options(asked, None) == RenderOptions(
        expression="smile",
        upper_face="angry",
        length_mode="loop",
        face=FacePoint(1, 2, 3),
        missing_face="fail",
        crop=(0.1, 0.2, 0.3, 0.4),
        pads=(2, 4, 1, 3),
        one_shot=True,
        fps=30,
        output=OutputOptions(20, 480, "mkv", 24, True),
        sound=SoundOptions("over", -20),
        seed=7,
        audio_track="2",
        transcript="Hello, my friend.",
    )
    box = JobOptions(face=FaceBox(left=1, top=2, right=3, bottom=4))
    assert render_options(box, Path("/x/expression")).face == FaceBox(1, 2, 3, 4)
    assert render_options(box, Path("/x/expression")).expression == "/x/expression"


@pytest.mark.parametrize(
    ("asked", "configured", "held", "chosen"),
    [
        ("auto", "auto", ["preview"], "preview"),
        ("auto", "auto", ["preview", "videoretalking"], "videoretalking"),
        ("auto", "preview", ["preview", "videoretalking"], "preview"),
        ("preview", "videoretalking", ["preview", "videoretalking"], "preview"),
        ("auto", "videoretalking", ["preview"], None),
        ("videoretalking", "auto", ["preview"], None),
    ],
)
def test_the_engine_is_the_one_asked_for_or_none(
    tmp_path: Path, asked: str, configured: str, held: list[str], chosen: str | None
) -> None:
    engines = EngineSet({name: ScriptedEngine(tmp_path, name) for name in held})
    settings = Settings(_env_file=None, engine=configured)
    if chosen is None:
        with pytest.raises(ServiceError) as refusal:
            choose_engine(asked, settings, engines)
        assert refusal.value.code == "engine_unavailable"
    else:
        assert choose_engine(asked, settings, engines).capabilities.name == chosen


def test_the_engines_of_a_bare_machine() -> None:
    engines = load_engines(Settings(_env_file=None)).by_name
    assert set(engines) == {"preview"}
    card = engines["preview"].capabilities.public()
    assert (card.name, card.device) == ("preview", "cpu")
    assert card.unsupported_options


def test_the_missing_weights_are_named_with_the_way_to_get_them(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, models_dir=tmp_path)
    (tmp_path / "DNet.pt").write_bytes(b"there")
    reason = load_engines(settings).unavailable["videoretalking"]
    assert "LNet.pth" in reason
    assert "DNet.pt" not in reason
    assert "retalking weights fetch" in reason


@pytest.mark.parametrize("insisted", ["auto", "videoretalking"])
def test_wrong_weights_keep_the_neural_engine_away(
    insisted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where RETALKING_ENGINE names it: a worker that cannot start would leave its jobs in the queue."""
    for name in ENGINE_WEIGHTS:
        (tmp_path / WEIGHT_FILES[name].file).write_bytes(b"not a checkpoint")
    monkeypatch.setattr("retalking_core.engines.videoretalking.plugin._has_cuda", lambda: True)
    settings = Settings(_env_file=None, models_dir=tmp_path, engine=insisted)
    engines = load_engines(settings)
    assert set(engines.by_name) == {"preview"}
    reason = engines.unavailable["videoretalking"]
    assert ".pth is not a torch checkpoint (weights_wrong_file)" in reason
    assert "retalking weights verify" in reason
    with pytest.raises(ServiceError, match=re.escape(reason)):
        choose_engine("videoretalking", settings, engines)


def test_weights_that_the_worker_may_not_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def load(_: EngineEnvironment) -> Engine:
        raise PermissionError(errno.EACCES, "Permission denied", "/models/DNet.pt")

    found = [FoundPlugin("videoretalking", "retalking 1", is_ours=True, plugin=EnginePlugin(load))]
    monkeypatch.setattr("worker.engines.find_plugins", lambda: found)
    engines = load_engines(Settings(_env_file=None, engine="videoretalking"))
    assert "may not read one of its files" in engines.unavailable["videoretalking"]
    assert "/models" not in engines.unavailable["videoretalking"], "callers see it"
    assert any("/models/DNet.pt" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (core.FaceNotFoundError("No face."), "face_not_found"),
        (ServiceError("input_unreachable", "No."), "input_unreachable"),
        (SoftTimeLimitExceeded(), "render_timeout"),
        (ObjectStoreError("s3://bucket/key"), "storage_failed"),
        (MemoryError(), "out_of_memory"),
        (OSError(errno.ENOSPC, "x", "/secret"), "disk_full"),
        (PermissionError(errno.EACCES, "x", "/secret"), "internal_error"),
        (KeyError("/secret"), "internal_error"),
    ],
)
def test_every_fault_has_a_code_and_a_clean_sentence(fault: Exception, code: str) -> None:
    error = describe_fault(fault)
    assert (error.code, error.retryable) == (code, ERROR_CODES[code].retryable)
    assert error.message.endswith(".")
    assert "/" not in error.message


def test_threads_that_run_out_while_writing_are_retried(tmp_path: Path) -> None:
    """FFmpeg reports EAGAIN if it cannot start a thread; the result writer and the object store wrap it."""
    with pytest.raises(core.RetalkingError) as caught, writing():
        raise av.error.BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    stored = ObjectStoreError("x")
    stored.__cause__ = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    for fault in (caught.value, stored):
        assert describe_fault(fault).code == "threads_exhausted"
        assert is_transient(fault)


def test_a_full_disk_inside_another_error_is_found() -> None:
    fault = ObjectStoreError("x")
    fault.__cause__ = OSError(errno.ENOSPC, "x")
    assert describe_fault(fault).code == "disk_full"


def test_the_full_disk_of_the_object_store_is_not_taken_for_the_worker_s() -> None:
    fault = ObjectStoreFullError("x")
    fault.__cause__ = OSError(errno.ENOSPC, "x")
    assert describe_fault(fault).code == "storage_full"


@pytest.fixture
def rendered(tmp_path: Path, clips: Clips) -> tuple[Path, RenderReport]:
    file = tmp_path / "result.mp4"
    return file, remux(clips.video, clips.audio, file)


def test_a_lack_of_memory_is_named_also_inside_an_error_of_the_library() -> None:
    fault = core.RetalkingError("The result could not be written; is the disk full?")
    fault.__cause__ = MemoryError()
    assert describe_fault(fault).code == "out_of_memory"


def test_what_a_broken_header_asks_for_is_no_lack_of_memory() -> None:
    with pytest.raises(core.InputError) as caught, reading("video"):
        raise av.error.MemoryError(12, "Cannot allocate memory")
    assert describe_fault(caught.value).code == "media_unreadable"


@pytest.mark.parametrize(
    "fault",
    [
        core.MediaUnreadableError("damaged"),
        RuntimeError("bad allocation"),
        av.error.BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
    ],
)
def test_what_fails_while_memory_is_full_is_not_the_fault_of_the_input(fault: Exception) -> None:
    """A decoder that gets no memory calls its picture damaged."""
    assert describe_fault(fault, is_memory_full=True).code == "out_of_memory"
    assert describe_fault(fault).code != "out_of_memory"
    assert describe_fault(core.FaceNotFoundError("none"), is_memory_full=True).code == "face_not_found"


def test_a_full_disk_is_named_also_inside_an_error_of_the_library() -> None:
    """What the writer of results raises when FFmpeg cannot write: found with a real full disk (tests/faults)."""
    fault = core.RetalkingError("The result could not be written; is the disk full?")
    fault.__cause__ = OSError(28, "No space left on device")
    assert describe_fault(fault).code == "disk_full"


def _ignore(*_: object, **__: object) -> None:
    return


def test_metrics_come_in_the_order_asked_and_unknown_ones_have_a_reason(
    rendered: tuple[Path, RenderReport], clips: Clips
) -> None:
    file, report = rendered
    names = ["no_such_metric", "av_duration_difference", "mouth_speech_lag"]
    values = numbers.measure(Measurement(file, clips.audio, report), names, _ignore)
    assert [value.name for value in values] == names
    assert values[0].value is None
    assert values[0].reason
    assert values[1].value is not None
    assert values[2].value is None
    assert values[2].reason
    everything = numbers.measure(Measurement(file, clips.audio, report), None, _ignore)
    assert [value.name for value in everything] == available_metrics(None)


def test_a_failed_evaluation_does_not_cost_the_render(
    rendered: tuple[Path, RenderReport], clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(numbers, "measure_all", broken)
    told: list[object] = []
    tell = lambda *words, **_: told.append(words)  # noqa: E731
    measurement = Measurement(rendered[0], clips.audio, rendered[1])
    (value,) = numbers.measure(measurement, ["face_coverage"], tell)
    assert value.value is None
    assert "secret" not in str(value.reason)
    assert len(told) == 1
    assert rendered[1].fps == Fraction(25)


@pytest.mark.parametrize(
    "stop", [core.RenderCanceled("enough"), LeaseLostError("job_1"), ShutdownRequestedError("job_1")]
)
def test_what_stops_a_job_stops_its_evaluation(
    rendered: tuple[Path, RenderReport], clips: Clips, stop: Exception
) -> None:
    def hook(told: Progress) -> None:
        assert told.stage == "evaluate"
        raise stop

    measurement = Measurement(rendered[0], clips.audio, rendered[1], progress=hook)
    with pytest.raises(type(stop)):
        numbers.measure(measurement, ["face_coverage"], _ignore)


def test_a_log_line_is_one_line_of_json() -> None:
    record = logging.LogRecord("worker", logging.ERROR, __file__, 1, "broke\nin two: %s", ("x",), None)
    record.job = "job_1"
    try:
        raise ValueError("here")
    except ValueError as fault:
        record.exc_info = (type(fault), fault, fault.__traceback__)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert (line["level"], line["job"], line["message"]) == ("error", "job_1", "broke\nin two: x")
    assert "ValueError: here" in line["traceback"]
