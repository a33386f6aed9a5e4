"""Data sets: which video is rendered with which track; `retalking run --dataset`, which renders every pairing; and
`retalking evaluate --dataset`, which renders and scores what an earlier run did not, and reports.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from cli.rendering import Rendered, RenderRequest, open_renderer
from jobs.settings import Settings
from retalking_client import Client, RetalkingClientError
from retalking_client.cli.common import EXIT_USAGE, CommandError, describe_note
from retalking_client.cli.progress import follow
from retalking_core.clip_plan import plan_clip
from retalking_core.digests import file_sha256
from retalking_core.errors import MetricUnavailableError, RetalkingError
from retalking_core.evaluation.clip import EvaluationModels
from retalking_core.evaluation.measurement import Measurement
from retalking_core.evaluation.metrics import METRICS, MetricValue
from retalking_core.evaluation.report import (
    ClipSection,
    ReportPage,
    format_number,
    make_strips,
    write_page,
    write_players,
)
from retalking_core.evaluation.scores import ClipFeatures, ClipScores, clip_features, fid, means, no_fid, score
from retalking_core.media.limits import MediaLimits
from retalking_core.vocabulary.options import JobOptions
from worker.engines import media_limits
from worker.translation import measurement_of, render_options

PAIRS_FILE = "pairs.csv"
VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".png", ".jpg", ".jpeg", ".webp"})
AUDIO_SUFFIXES = frozenset({".wav", ".mp3", ".m4a", ".flac", ".ogg", ".aac", ".aiff", ".amr", ".caf"})


@dataclass(frozen=True)
class Pairing:
    """One clip to render. audio may be the video itself."""

    name: str
    video: Path
    audio: Path

    def digest(self, engine: str) -> str:
        """Name of the clip's folder: depends on the content and the engine, not on file names."""
        digest = hashlib.sha256(engine.encode())
        for path in (self.video, self.audio):
            digest.update(bytes.fromhex(file_sha256(path)))
        return digest.hexdigest()[:16]


def find_pairings(folder: Path) -> list[Pairing]:
    """The first that applies: the rows of `pairs.csv` (columns video, audio, optionally name); every file of `video/`
    with every file of `audio/`, or of `val/face/` with `val/audio/` (talkingface-toolkit); each video of the folder
    with the track of the same name, or with its own sound.

    Raises CommandError if there is nothing to render, or a file is missing.
    """
    if (folder / PAIRS_FILE).is_file():
        pairings = list(_listed(folder))
    elif crossed := next(filter(_is_crossed, (folder / faces for faces in ("video", "val/face"))), None):
        tracks = _files(crossed.parent / "audio", AUDIO_SUFFIXES | VIDEO_SUFFIXES)
        pairings = [
            Pairing(f"{video.stem} + {audio.stem}", video, audio)
            for video in _files(crossed, VIDEO_SUFFIXES)
            for audio in tracks
        ]
    else:
        by_name = {path.stem: path for path in _files(folder, AUDIO_SUFFIXES)}
        pairings = [
            Pairing(video.stem, video, by_name.get(video.stem, video)) for video in _files(folder, VIDEO_SUFFIXES)
        ]
    if not pairings:
        raise CommandError("dataset_empty", f"{folder} holds no videos to render (docs/evaluation.md).", EXIT_USAGE)
    return pairings


def _is_crossed(faces: Path) -> bool:
    """Whether there is a folder of tracks beside a folder of faces."""
    return faces.is_dir() and (faces.parent / "audio").is_dir()


def _listed(folder: Path) -> Iterator[Pairing]:
    with (folder / PAIRS_FILE).open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"video", "audio"} <= set(rows.fieldnames or ()):
            raise CommandError("dataset_invalid", f"{PAIRS_FILE} needs the columns video and audio.", EXIT_USAGE)
        for row in rows:
            video, audio = (folder / (row[column] or "") for column in ("video", "audio"))
            for path in (video, audio):
                if not path.is_file():
                    raise CommandError("file_not_found", f"{PAIRS_FILE}, line {rows.line_num}: no file {path}.")
            yield Pairing(row.get("name") or f"{video.stem} + {audio.stem}", video, audio)


def _files(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in suffixes)


RECORD = "renders.json"


@dataclass(frozen=True)
class DoneRender:
    """One row of the record of finished renders."""

    digest: str
    """Of both files, the engine and all options: a change of any needs a new render."""
    engine: str
    seconds: float
    duration_s: float
    stage_times_s: Mapping[str, float]
    face_coverage: float
    face_cache: str
    notes: list[dict[str, Any]]

    @classmethod
    def of(cls, digest: str, done: Rendered) -> DoneRender:
        report = done.report
        return cls(
            digest,
            report.engine,
            round(done.wall_s, 3),
            report.duration_s,
            {name: round(seconds, 3) for name, seconds in report.stage_times_s.items()},
            report.face_coverage,
            report.face_cache,
            [asdict(note) for note in report.notes],
        )


def render_dataset(folder: Path, out: Path, request: RenderRequest, console: Console) -> None:
    """Render what an earlier run did not; results and their record go to `out`. A clip that fails does not stop the
    others. Raises CommandError at the end if one failed."""
    pairings = find_pairings(folder)
    renderer = open_renderer(request, Settings(), console, "Try --engine preview.")
    record, failed = read_record(out / RECORD), []
    names = result_names(pairings, request.job.output.container)
    for number, (pairing, name) in enumerate(zip(pairings, names, strict=True), 1):
        digest = sha256(f"{pairing.digest(request.job.engine)} {request.fingerprint()}".encode()).hexdigest()
        label = f"[{number}/{len(pairings)}] {pairing.name}"
        if (out / name).is_file() and name in record and record[name].digest == digest:
            console.print(f"{label}: already rendered", highlight=False, markup=False)
            continue
        console.print(label, highlight=False, markup=False)
        try:
            done = renderer.render(pairing.video, pairing.audio, out / name, request.options())
        except RetalkingError as error:
            failed.append(pairing)
            console.print(f"  {error.code}: {error.message}", highlight=False, markup=False)
            continue
        record[name] = DoneRender.of(digest, done)
        write_record(out / RECORD, record)
    print_renders(record, console)
    for name in record:
        typer.echo(out / name)
    _raise_for_failed(failed, len(pairings))


def result_names(pairings: Sequence[Pairing], container: str) -> list[str]:
    """video__audio.mp4; equal names (from files in several folders) are numbered in the order of the data set."""
    stems = [f"{pairing.video.stem}__{pairing.audio.stem}" for pairing in pairings]
    seen: Counter[str] = Counter()
    names = []
    for stem in stems:
        seen[stem] += 1
        names.append(f"{stem}.{container}" if seen[stem] == 1 else f"{stem}__{seen[stem]}.{container}")
    return names


def _raise_for_failed(failed: list[Pairing], count: int) -> None:
    if failed:
        names = ", ".join(pairing.name for pairing in failed[:5])
        more = " and more" if len(failed) > 5 else ""
        raise CommandError("clips_failed", f"{len(failed)} of {count} clips failed: {names}{more}.")


def read_record(file: Path) -> dict[str, DoneRender]:
    """Renders of an earlier run; empty if there is no readable record."""
    try:
        rows = json.loads(file.read_text("utf-8"))
        return {name: DoneRender(**row) for name, row in rows.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write_record(file: Path, record: Mapping[str, DoneRender]) -> None:
    partial = file.with_name(f".{file.name}.part")
    partial.write_text(json.dumps({name: vars(row) for name, row in record.items()}, indent=2) + "\n", "utf-8")
    os.replace(partial, file)


def print_renders(record: Mapping[str, DoneRender], console: Console) -> None:
    """One row per clip, and the total time of each stage."""
    table = Table(title="Renders", title_justify="left", show_edge=False)
    for heading in ("clip", "engine", "seconds", "x real time", "face", "cache"):
        table.add_column(heading, justify="left" if heading in ("clip", "engine", "cache") else "right")
    for name, row in record.items():
        times = f"{row.seconds / row.duration_s:.2f}" if row.duration_s else "-"
        table.add_row(name, row.engine, f"{row.seconds:.2f}", times, f"{row.face_coverage:.0%}", row.face_cache)
    table.add_section()
    stages: dict[str, float] = {}
    for row in record.values():
        for stage, seconds in row.stage_times_s.items():
            stages[stage] = stages.get(stage, 0.0) + seconds
    for stage, seconds in stages.items():
        table.add_row(f"all: {stage}", "", f"{seconds:.2f}")
    console.print(table)


# Pairing, its digest and the file to write, to what the render said about its result.
Render = Callable[[Pairing, str, Path], "RenderRecord"]
NOTES, MOUTH_TARGET = "notes.json", "mouth_target.json"


@dataclass(frozen=True)
class RenderRecord:
    """What evaluation needs to know of a render."""

    notes: list[dict[str, Any]]
    """code, sentence, ranges_s."""
    mouth_target: NDArray[np.float32] | None = None
    """f32 [M], see `RenderReport`; None where the engine states none, or a service rendered."""


@dataclass(frozen=True)
class DatasetRun:
    """What to evaluate."""

    dataset: Path
    engine: str
    jobs: str | None
    """URL of the service that renders; None: render in this process."""
    out: Path
    """Folder of renders, scores and report."""
    metrics: list[str]


@dataclass(frozen=True)
class ScoredClip:
    pairing: Pairing
    folder: Path
    scores: ClipScores


def run_dataset(plan: DatasetRun, as_json: bool, console: Console) -> None:
    """A clip that fails does not stop the others. Raises CommandError at the end if one failed."""
    settings = Settings()
    limits = media_limits(settings)
    pairings = find_pairings(plan.dataset)
    render = (
        _remote_renderer(plan.jobs, plan.engine, plan.metrics, console)
        if plan.jobs
        else _local_renderer(plan.engine, settings, console)
    )
    models = EvaluationModels(settings.models_dir)
    scored: list[ScoredClip] = []
    failed: list[tuple[Pairing, str]] = []
    for number, pairing in enumerate(pairings, 1):
        console.print(f"[{number}/{len(pairings)}] {pairing.name}", highlight=False, markup=False)
        try:
            scored.append(_one_clip(plan, pairing, render, models, limits))
        except (RetalkingError, RetalkingClientError, CommandError) as error:
            failed.append((pairing, f"{error.code}: {error.message}"))
            console.print(f"  {failed[-1][1]}", highlight=False, markup=False)
    if not scored:
        raise CommandError("dataset_failed", f"None of the {len(pairings)} clips could be rendered and scored.")
    set_metrics = [_fid(scored, models, limits)]
    _report(plan, scored, failed, set_metrics, models, limits)
    if as_json:
        typer.echo((plan.out / "scores.json").read_text(), nl=False)
    else:
        print_scores(scored, set_metrics, Console())
        for file in ("scores.csv", "scores.json", "report.html"):
            typer.echo(plan.out / file)
    if failed:
        raise CommandError("clips_failed", f"{len(failed)} of {len(pairings)} clips failed; run again to retry them.")


def _one_clip(
    plan: DatasetRun, pairing: Pairing, render: Render, models: EvaluationModels, limits: MediaLimits
) -> ScoredClip:
    digest = pairing.digest(plan.engine)
    folder = plan.out / "clips" / digest
    folder.mkdir(parents=True, exist_ok=True)
    result, stored = folder / "result.mp4", folder / "scores.json"
    if not result.is_file():
        for stale in (stored, folder / "inception.npz", folder / MOUTH_TARGET):
            stale.unlink(missing_ok=True)
        record = render(pairing, digest, folder / "unfinished" / "result.mp4")
        _write_text(folder / NOTES, json.dumps(record.notes))
        if record.mouth_target is not None:
            _write_text(folder / MOUTH_TARGET, json.dumps(record.mouth_target.astype(float).tolist()))
        os.replace(folder / "unfinished" / "result.mp4", result)  # last: a clip with a result is complete
        (folder / "unfinished").rmdir()
    scores = _stored_scores(stored, plan.metrics, models)
    if scores is None:
        scores = score(_measurement(pairing, result, models, limits), plan.metrics)
        _write_text(stored, json.dumps(scores.to_json()))
    return ScoredClip(pairing, folder, scores)


def _fid(scored: Sequence[ScoredClip], models: EvaluationModels, limits: MediaLimits) -> MetricValue:
    """Features are stored beside each clip, so that a later run computes only those of new clips."""
    features = []
    try:
        for clip in scored:
            stored = clip.folder / "inception.npz"
            if not stored.is_file():
                result = clip.folder / "result.mp4"
                clip_features(_measurement(clip.pairing, result, models, limits)).write(stored)
            features.append(ClipFeatures.read(stored))
    except MetricUnavailableError as error:
        return no_fid(error.reason)
    except (RetalkingError, ValueError, KeyError) as error:
        return no_fid(f"the frames of {clip.pairing.name} could not be measured ({error})")
    return fid(features)


def _measurement(pairing: Pairing, result: Path, models: EvaluationModels, limits: MediaLimits) -> Measurement:
    options = JobOptions()
    with plan_clip(pairing.video, pairing.audio, render_options(options, None), limits) as clip:
        measurement = measurement_of(result, clip, None, options, limits, models)
    target = result.with_name(MOUTH_TARGET)
    if not target.is_file():
        return measurement
    return replace(measurement, stored_mouth_target=np.array(json.loads(target.read_text()), np.float32))


def _stored_scores(file: Path, requested: Sequence[str], models: EvaluationModels) -> ClipScores | None:
    """Scores of an earlier run, if they contain all requested metrics and no missing checkpoint is present by now."""
    try:
        scores = ClipScores.from_json(json.loads(file.read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    known = {metric.name: metric for metric in scores.metrics}
    for name in requested:
        if name not in known:
            return None
        needed = METRICS[name].checkpoints
        if known[name].value is None and needed and all(models.has(file) for file in needed):
            return None
    return ClipScores([known[name] for name in requested], scores.curves, scores.synthetic_weights)


def _stored_notes(clip: ScoredClip) -> list[dict[str, Any]]:
    """Notes of the render; empty for folders of versions without notes."""
    file = clip.folder / NOTES
    notes: list[dict[str, Any]] = json.loads(file.read_text()) if file.is_file() else []
    return notes


def _local_renderer(engine: str, settings: Settings, console: Console) -> Render:
    request = RenderRequest(JobOptions(engine=engine))
    renderer = open_renderer(request, settings, console, "Try --engine preview, or --jobs URL.")

    def render(pairing: Pairing, _digest: str, result: Path) -> RenderRecord:
        report = renderer.render(pairing.video, pairing.audio, result, request.options()).report
        return RenderRecord([asdict(note) for note in report.notes], report.mouth_target)

    return render


def _remote_renderer(url: str, engine: str, metrics: Sequence[str], console: Console) -> Render:
    """The clip's digest is the idempotency key: a run that was interrupted finds its jobs again.

    Only the service knows what the engine aimed at: it measures the metrics of that, and sends the curve with them.
    """
    measured = [name for name in metrics if name.startswith("mouth_target_")]

    def render(pairing: Pairing, digest: str, result: Path) -> RenderRecord:
        with Client(url) as client:
            key = "-".join(("evaluate", digest, *measured))
            job = client.submit(pairing.video, pairing.audio, idempotency_key=key, engine=engine, evaluate=measured)
            job = follow(client, job, console).raise_for_status()
            client.download(job, result)
            curves = client.evaluation(job).curves if measured else None
            target = np.array(curves.mouth_target, np.float32) if curves and curves.mouth_target else None
            notes = [note.model_dump(mode="json") for note in (job.render.notes if job.render else ())]
            return RenderRecord(notes, target)

    return render


def _report(
    plan: DatasetRun,
    scored: Sequence[ScoredClip],
    failed: Sequence[tuple[Pairing, str]],
    set_metrics: Sequence[MetricValue],
    models: EvaluationModels,
    limits: MediaLimits,
) -> None:
    """scores.json, scores.csv and report.html."""
    _write_text(plan.out / "scores.json", json.dumps(_document(plan, scored, failed, set_metrics), indent=2) + "\n")
    _write_csv(plan.out / "scores.csv", plan.metrics, scored)
    sections = []
    for clip in scored:
        measurement = _measurement(clip.pairing, clip.folder / "result.mp4", models, limits)
        players = [clip.folder / "players" / name for name in ("result.mp4", "reference.mp4")]
        if not all(player.is_file() for player in players):
            players = write_players(measurement, clip.folder / "players")
        sections.append(
            ClipSection(
                clip.pairing.name,
                clip.scores,
                players,
                make_strips(measurement, clip.scores.curves),
                [describe_note(note["sentence"], note["ranges_s"]) for note in _stored_notes(clip)],
            )
        )
    facts = [f"engine: {plan.engine}", f"clips: {len(scored)}"] + ([f"failed: {len(failed)}"] if failed else [])
    write_page(ReportPage(f"Evaluation of {plan.dataset.name}", facts, sections, set_metrics), plan.out / "report.html")


def _document(
    plan: DatasetRun,
    scored: Sequence[ScoredClip],
    failed: Sequence[tuple[Pairing, str]],
    set_metrics: Sequence[MetricValue],
) -> dict[str, object]:
    found = means([clip.scores for clip in scored])
    means_of = {name: found[name] or (None, 0) for name in plan.metrics}
    return {
        "dataset": plan.dataset.name,
        "engine": plan.engine,
        "mean": {name: mean for name, (mean, _count) in means_of.items()},
        "clips_in_mean": {name: count for name, (_mean, count) in means_of.items()},
        "set": [asdict(metric) for metric in set_metrics],
        "clips": [
            {
                "name": clip.pairing.name,
                "folder": clip.folder.name,
                "synthetic_weights": clip.scores.synthetic_weights,
                "notes": _stored_notes(clip),
                "metrics": clip.scores.to_json()["metrics"],
            }
            for clip in scored
        ],
        "failed": [{"name": pairing.name, "error": message} for pairing, message in failed],
    }


def _write_csv(path: Path, metrics: Sequence[str], scored: Sequence[ScoredClip]) -> None:
    """One row per clip, one column per metric; empty if unavailable. The last row contains the means."""
    means_of = means([clip.scores for clip in scored])
    partial = path.with_name(f".{path.name}.part")
    with partial.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["clip", *metrics])
        for clip in scored:
            values = (clip.scores.value(name) for name in metrics)
            out.writerow([clip.pairing.name, *("" if value is None else repr(value) for value in values)])
        out.writerow(["mean", *(repr(mean[0]) if (mean := means_of[name]) else "" for name in metrics)])
    os.replace(partial, path)


def print_scores(scored: Sequence[ScoredClip], set_metrics: Sequence[MetricValue], console: Console) -> None:
    """One row per metric, one column per clip, and the mean; metrics of the whole set have only that."""
    means_of = means([clip.scores for clip in scored])
    table = Table(show_edge=False)
    table.add_column("metric")
    for clip in scored:
        table.add_column(clip.pairing.name, justify="right")
    table.add_column("mean", justify="right")
    for metric in scored[0].scores.metrics:
        values = [clip.scores.value(metric.name) for clip in scored]
        mean = means_of[metric.name]
        table.add_row(metric.name, *map(format_number, values), format_number(mean[0] if mean else None))
    for metric in set_metrics:
        table.add_row(metric.name, *[""] * len(scored), format_number(metric.value))
    console.print(table)
    every = [*set_metrics, *(metric for clip in scored for metric in clip.scores.metrics)]
    reasons = {f"{metric.name}: {metric.reason}" for metric in every if metric.value is None}
    for reason in sorted(reasons):
        console.print(f"- {reason}", highlight=False, markup=False)


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
