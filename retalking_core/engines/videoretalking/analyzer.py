"""Pass one of the videoretalking engine: everything that is learned about a clip before it is drawn."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retalking_core import __version__
from retalking_core.engines.original.renderer import cropped_as_asked
from retalking_core.engines.presence import FADE_S, fade_strength, refuse_faceless
from retalking_core.engines.videoretalking.analysis import (
    AHEAD,
    ClipAnalysis,
    ClipFaces,
    crop_256,
    locate_faces,
    plan_windows,
    read_coefficients,
)
from retalking_core.engines.videoretalking.batching import AdaptiveBatcher, ValidatingNetworks
from retalking_core.engines.videoretalking.face_cache_session import (
    FaceAnalysis,
    FaceCacheSession,
    memory_key,
    open_session,
)
from retalking_core.errors import FaceNotFoundError
from retalking_core.face_cache import FaceCache
from retalking_core.faces.track import FaceTracker, TrackRequest
from retalking_core.media.limits import MediaLimits
from retalking_core.media.reader import open_video
from retalking_core.media.sources import PrefetchingFrameSource
from retalking_core.options import RenderOptions
from retalking_core.progress import Progress, ProgressHook
from retalking_core.stages.coefficients import regress_coefficients
from retalking_core.stages.stabilize import TEMPLATE_KEYS, expression_of, load_template
from retalking_core.types import FaceTrack, FrameSource, Timeline

# Those that the face memory hangs on.
REFERENCE_NETWORKS = ("deep3d", "dnet", "gpen512", "parsenet")
# Share of the whole render that the first pass takes: half for the track, half for the coefficients.
ANALYZE_SHARE = 0.2


class ClipAnalyzer:
    """Looks at clips with one tracker and one set of networks. templates: the original's expression file."""

    def __init__(
        self,
        networks: ValidatingNetworks,
        tracker: FaceTracker,
        limits: MediaLimits,
        templates: Path | None,
        batch_size: int,
    ) -> None:
        self._networks, self._tracker, self._limits = networks, tracker, limits
        self._templates, self._batch_size = templates, batch_size

    @contextmanager
    def memory(
        self,
        cache: FaceCache | None,
        video: Path,
        count: int,
        options: RenderOptions,
        scratch: Path,
        progress: ProgressHook,
    ) -> Iterator[FaceCacheSession]:
        """What is known about this video's face."""

        def key() -> str:
            networks = [self._networks.digest(name) for name in REFERENCE_NETWORKS]
            template = (
                None if self._templates is None or not self._templates.is_file() else self._templates.read_bytes()
            )
            expression = options.expression
            if expression not in TEMPLATE_KEYS:
                expression = Path(expression).read_bytes()
            place = (options.face, options.crop, options.pads, options.compat)
            look = (options.one_shot, options.fps, expression, template)
            parts = [__version__, count, type(self._tracker).__name__, *networks, *place, *look]
            return options.face_cache_scope + memory_key(video, parts)

        turns = itertools.count(1)
        # A growing count: waiting for another render counts as progress.
        with open_session(cache, key, lambda: progress(Progress("analyze", 0.0, next(turns))), scratch) as memory:
            yield memory

    def scene(
        self,
        source: FrameSource,
        timeline: Timeline,
        sound: NDArray[np.float32],
        options: RenderOptions,
        memory: FaceCacheSession,
        count: int,
        progress: ProgressHook,
    ) -> ClipAnalysis:
        """Pass one: one track for everything, coefficients, and what follows from both."""
        analysis, faces = self._find_faces(source, options, memory, count, progress)
        shown = analysis.track.visible[timeline.source_index]
        if not shown.any():
            raise FaceNotFoundError("No usable face in the part of the video that would be shown.")
        if options.missing_face == "fail":
            refuse_faceless(analysis.track, np.unique(timeline.source_index), source)
        return ClipAnalysis(
            timeline=timeline,
            faces=faces,
            windows=plan_windows(analysis, faces, self._expression(options.expression)),
            sound=sound,
            strength=fade_strength(shown, round(FADE_S * float(timeline.fps))),
            still=self._still(source, faces) if options.one_shot else None,
            color=source.info.color,
            height=source.info.height,
        )

    def _find_faces(
        self, source: FrameSource, options: RenderOptions, memory: FaceCacheSession, count: int, progress: ProgressHook
    ) -> tuple[FaceAnalysis, ClipFaces]:
        def tell(part: int) -> Callable[[int, int], None]:
            share = ANALYZE_SHARE / 2
            return lambda done, total: progress(Progress("analyze", share * (part + done / total), done, total))

        def locate(track: FaceTrack) -> ClipFaces:
            return cropped_as_asked(locate_faces(track, count, source, options.pads), source.info, options)

        if memory.analysis is not None:
            return memory.analysis, locate(memory.analysis.track)
        request = TrackRequest(range(count), options.face, options.crop)
        track = self._tracker.track(PrefetchingFrameSource(source, AHEAD), request, tell(0))
        faces = locate(track)
        batches = AdaptiveBatcher(self._batch_size)
        memory.remember(
            analysis := FaceAnalysis(track, read_coefficients(source, faces, self._networks, batches, tell(1)))
        )
        return analysis, faces

    def _still(self, source: FrameSource, faces: ClipFaces) -> NDArray[np.float32]:
        """The first picture with a face: all that the expression network sees with one_shot."""
        first = np.flatnonzero(faces.visible)[:1]
        frames = list(source.frames_at(first.tolist()))
        return crop_256(frames, faces.at(first), source.info.color, self._networks.device).cpu().numpy()

    def _expression(self, asked: str) -> NDArray[np.float32]:
        """The template's 64 numbers: of a word, or of the face in a picture. Raises: FaceNotFoundError."""
        if asked in TEMPLATE_KEYS:
            return load_template(asked, self._templates)
        source = open_video(Path(asked), self._limits)
        try:
            track = self._tracker.track(source, TrackRequest([0]), lambda _done, _total: None)
        except FaceNotFoundError as error:
            raise FaceNotFoundError("The picture given as `expression` shows no usable face; send another.") from error
        faces = locate_faces(track, 1, source, (0, 0, 0, 0))
        places = faces.at(np.zeros(1, np.int64))
        picture = crop_256(list(source.frames_at([0])), places, source.info.color, self._networks.device)
        row = regress_coefficients(self._networks.get("deep3d"), picture, places.scaled())[0]
        return expression_of(row.cpu().numpy())
