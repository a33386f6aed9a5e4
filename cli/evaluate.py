"""`retalking evaluate`: metrics of a result, or of an engine on a whole data set."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.console import Console

from cli.extras import MissingExtraError
from cli.rendering import read_segments
from retalking_client.cli.common import EXIT_USAGE, CommandError, print_metrics
from retalking_core.vocabulary.engines import MODELS, PREFERENCE
from retalking_core.vocabulary.metrics import METRIC_TABLE
from retalking_core.vocabulary.options import FaceChoice, FaceName, JobOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from retalking_core.evaluation.measurement import Measurement
    from retalking_core.evaluation.scores import ClipScores
    from retalking_core.lines import LineInput


def evaluate(
    result: Annotated[
        Path | None, typer.Argument(exists=True, dir_okay=False, help="A finished video to score")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The video that it was rendered from")
    ] = None,
    metrics: Annotated[str | None, typer.Option(help="Names, separated by commas  [default: all]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
    face: Annotated[
        str | None,
        typer.Option(
            help="Which face of RESULT to measure: a choice of the option `face` (docs/options.md), or its JSON"
        ),
    ] = None,
    segments: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Who speaks when in RESULT, as for `retalking submit` (docs/dubbing.md): scores each segment",
        ),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML page about RESULT to here")] = None,
    model: Annotated[
        str | None, typer.Option(help="Render and score a data set with this model, e.g. video_retalking")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|NAME",
            help="Folder of the data set, or its name under RETALKING_DATASETS_DIR (docs/evaluation.md)",
        ),
    ] = None,
    engine: Annotated[str | None, typer.Option(help="Instead of --model: the name of any engine")] = None,
    jobs: Annotated[str | None, typer.Option(metavar="URL", help="Render on this service instead of here")] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Where the data set's results go; taken up again there")
    ] = Path("out/evaluation"),
) -> None:
    """Score RESULT, or render every pairing of a data set and score it.

    A metric that cannot be computed is null, with the reason.
    """
    if result is not None and dataset is None:
        if model or engine or jobs:
            raise CommandError("invalid_option", "--model, --engine and --jobs go with --dataset.", EXIT_USAGE)
        _score_file(result, reference, metrics, as_json, report, face, segments)
        return
    if dataset is None or result is not None:
        raise CommandError("invalid_option", "Give either a RESULT or --dataset with --model.", EXIT_USAGE)
    if reference or report or face or segments:
        message = "--reference, --face, --segments and --report go with a RESULT."
        raise CommandError("invalid_option", message, EXIT_USAGE)
    try:
        from cli.dataset import DatasetRun, run_dataset
    except ImportError as error:
        raise MissingExtraError("report", error.name) from error
    plan = DatasetRun(dataset_folder(dataset), chosen_engine(model, engine), jobs, out, chosen_metrics(metrics))
    run_dataset(plan, as_json, Console(stderr=True))


def dataset_folder(name: str) -> Path:
    """The folder that --dataset gives, or the data set of that name. Raises CommandError if there is none."""
    folder = Path(name)
    if folder.is_dir():
        return folder
    from jobs.settings import Settings

    datasets = Settings().datasets_dir.expanduser()
    if folder.is_absolute() or ".." in folder.parts or not (named := datasets / name).is_dir():
        known = sorted(path.name for path in datasets.iterdir() if path.is_dir()) if datasets.is_dir() else []
        there = f"it holds {', '.join(known)}" if known else "it holds none"
        raise CommandError(
            "dataset_not_found",
            f"There is no folder {name}, and no data set of that name in {datasets} ({there}). "
            "Set RETALKING_DATASETS_DIR to the folder that holds your data sets.",
            EXIT_USAGE,
        )
    return named


def chosen_engine(model: str | None, engine: str | None) -> str:
    """Name of the engine: --engine, or the one behind --model. Raises CommandError for an unknown model."""
    name = engine or model
    if name is None:
        raise CommandError("invalid_option", "--dataset needs --model, e.g. --model video_retalking.", EXIT_USAGE)
    if model and model not in (*MODELS, *PREFERENCE):
        known = ", ".join((*MODELS, *PREFERENCE))
        raise CommandError("invalid_option", f"There is no model {model}; there are: {known}.", EXIT_USAGE)
    return MODELS.get(name, name)


def chosen_metrics(names_text: str | None) -> list[str]:
    """Names in the given order, each once. Raises CommandError for an unknown one."""
    if names_text is None:
        return list(METRIC_TABLE)
    names = list(dict.fromkeys(name.strip() for name in names_text.split(",") if name.strip()))
    unknown = [name for name in names if name not in METRIC_TABLE]
    if unknown or not names:
        what = f"There is no metric {', '.join(unknown)}" if unknown else "--metrics names none"
        raise CommandError("invalid_option", f"{what}; there are: {', '.join(METRIC_TABLE)}.", EXIT_USAGE)
    return names


def chosen_face(text: str) -> FaceChoice:
    """The value of the option `face`: a name, or a point or box as JSON. Raises CommandError."""
    try:
        value = json.loads(text) if text.lstrip().startswith("{") else text
        return JobOptions(face=value).face
    except ValueError as error:
        names = ", ".join(get_args(FaceName))
        message = f"--face takes {names}, or a point, box or track as JSON."
        raise CommandError("invalid_option", message, EXIT_USAGE) from error


def _score_file(
    result: Path,
    reference: Path | None,
    metrics: str | None,
    as_json: bool,
    page: Path | None,
    face: str | None,
    segments: Path | None,
) -> None:
    names = chosen_metrics(metrics)
    choice = None if face is None else chosen_face(face)
    lines = None if segments is None else read_segments(segments)
    try:
        from jobs.settings import Settings
        from retalking_core.evaluation.clip import EvaluationModels
        from retalking_core.evaluation.measurement import Measurement
        from retalking_core.evaluation.scores import score
    except ImportError as error:
        raise MissingExtraError("preview", error.name) from error

    models = EvaluationModels(Settings().models_dir)
    measurement = Measurement(result, result, reference=reference, models=models)
    if lines is not None:
        measurement = _with_lines(measurement, lines, choice)
    elif choice is not None:
        measurement = replace(measurement, face_boxes=_boxes_of(result, choice))
    scores = score(measurement, names)
    if page is not None:
        _write_page(page, measurement, scores)
    if as_json:
        typer.echo(json.dumps(_document(result, reference, scores), indent=2))
        return
    print_metrics(Console(), _rows(scores))
    if scores.synthetic_weights:
        typer.echo("Synthetic weights were used: metrics that need a checkpoint mean nothing.", err=True)
    if page is not None:
        typer.echo(page)


def _boxes_of(result: Path, choice: FaceChoice) -> NDArray[np.float32]:
    """Where the chosen face is on every frame, f32 [M, 4] px. Raises CommandError where there is none."""
    from retalking_core.errors import InputError
    from retalking_core.face_choice import locate_choice
    from retalking_core.faces.dlib_tracker import DlibFaceTracker
    from retalking_core.faces.track import TrackRequest
    from retalking_core.media.limits import DEFAULT_LIMITS
    from retalking_core.media.reader import open_video

    try:
        video = open_video(result, DEFAULT_LIMITS)
        place, _ = locate_choice(choice, result, video, DEFAULT_LIMITS, lambda done, total: None)
        request = TrackRequest(range(video.info.frame_count), place)
        return DlibFaceTracker().track(video, request, lambda done, total: None).boxes
    except InputError as error:
        raise CommandError(error.code, error.message) from error


def _with_lines(measurement: Measurement, lines: list[LineInput], face: FaceChoice | None) -> Measurement:
    """The result with its segments, whose faces are looked for in it. Raises CommandError."""
    from retalking_core.clip_plan import plan_clip, report_lines, track_speakers
    from retalking_core.errors import InputError
    from retalking_core.faces.dlib_tracker import DlibFaceTracker
    from retalking_core.faces.track import TrackRequest
    from retalking_core.options import RenderOptions
    from retalking_core.types import FaceTrack

    options = RenderOptions() if face is None else RenderOptions(face=face)
    tracker = DlibFaceTracker()
    try:
        with plan_clip(measurement.result, lines, options, measurement.limits) as clip:
            count = clip.source.info.frame_count
            if clip.frames > count:
                message = "The segments go on after the end of RESULT: it was not made of them."
                raise CommandError("segment_out_of_range", message)

            def track(_number: int, choice: FaceChoice) -> FaceTrack:
                return tracker.track(clip.source, TrackRequest(range(count), choice), lambda done, total: None)

            tracks = track_speakers(clip, options, track)
            boxes = [tracks[speaker.face].boxes[clip.timeline.source_index] for speaker in clip.speakers]
            return replace(
                measurement,
                speech=clip.speech,
                face_boxes=boxes[0],
                speakers=clip.speakers,
                stored_lines=report_lines(clip, boxes, None),
            )
    except InputError as error:
        raise CommandError(error.code, error.message) from error


def _document(result: Path, reference: Path | None, scores: ClipScores) -> dict[str, object]:
    return {
        "result": result.name,
        "reference": reference.name if reference else None,
        "synthetic_weights": scores.synthetic_weights,
        "metrics": _rows(scores),
    }


def _rows(scores: ClipScores) -> list[dict[str, object]]:
    """The metrics under the names that they have in a job: what the library calls a line is a segment there."""
    rows = [asdict(metric) for metric in scores.metrics]
    for row in rows:
        row["segments"] = row.pop("lines")
    return rows


def _write_page(page: Path, measurement: Measurement, scores: ClipScores) -> None:
    import tempfile

    try:
        from retalking_core.evaluation.report import ClipSection, ReportPage, make_strips, write_page, write_players
    except ImportError as error:
        raise MissingExtraError("report", error.name) from error
    page.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="retalking-report-") as folder:
        players = write_players(measurement, Path(folder))
        strips = make_strips(measurement, scores.curves)
        title = measurement.result.name
        section = ClipSection(title, scores, players, strips)
        facts = [f"reference: {measurement.reference.name}"] if measurement.reference else ["no reference"]
        write_page(ReportPage(f"Evaluation of {title}", facts, [section]), page)
