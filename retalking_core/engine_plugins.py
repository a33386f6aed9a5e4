"""Engines as plug-ins: each is found through the entry-point group `retalking.engines`, ours like anybody's.

A plug-in that is broken is reported by name and left out; docs/engines.md shows how to write one.
"""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from retalking_core.media.limits import DEFAULT_LIMITS, MediaLimits
from retalking_core.vocabulary.engines import AUTO, ENGINE_NAME, ENTRY_POINT_GROUP, EngineCapabilities

if TYPE_CHECKING:  # the parent of a render worker and `retalking doctor` look for plug-ins without numpy
    from retalking_core.engine import Engine
    from retalking_core.face_cache import FaceCache

OURS = "retalking"
"""The distribution whose engines nobody replaces."""


@dataclass(frozen=True)
class EngineEnvironment:
    """What a deployment gives its engines.

    Attributes:
        models_dir: Folder with checkpoints.
        compiled_dir: Folder for what an engine compiles and finds again at its next start.
        kernels_dir: Folder with bundles of compiled kernels (`retalking compile`); None: there are none.
        chosen: Engine that RETALKING_ENGINE names, or `auto`. An engine that is slow here may insist on being named.
        limits: How much media one job may bring.
        face_cache: Keeps what an engine learns of a video's face for the next speech on it; None: nothing is kept.
        tracker, inference, inference_batch, kernels: Settings of the neural engine (docs/configuration.md).
    """

    models_dir: Path
    compiled_dir: Path
    chosen: str = AUTO
    limits: MediaLimits = DEFAULT_LIMITS
    face_cache: FaceCache | None = None
    tracker: Literal["auto", "dlib", "neural"] = "auto"
    inference: Literal["auto", "exact", "fast"] = "auto"
    inference_batch: int = 16
    kernels: Literal["background", "before_ready", "plain"] = "background"
    kernels_dir: Path | None = None


def no_obstacle(_: EngineEnvironment) -> str | None:
    return None


@dataclass(frozen=True)
class EnginePlugin:
    """What an entry point of the group refers to.

    Attributes:
        load: Builds the engine in the process that renders. Raises EngineUnavailableError or a WeightsError with a
            sentence for the operator where it cannot.
        obstacle: Why the engine cannot run here, as a sentence that tells what to do; None where it can. Called often
            and in light processes: looks at files and settings, loads nothing.
    """

    load: Callable[[EngineEnvironment], Engine]
    obstacle: Callable[[EngineEnvironment], str | None] = no_obstacle


class PluginError(Exception):
    """A plug-in that does not keep its contract. The message names the fault for the operator."""


@dataclass(frozen=True)
class FoundPlugin:
    """An entry point of the group.

    Attributes:
        name: Of the engine.
        distribution: Package that declares it, with its version.
        is_ours: Whether it comes with Retalking.
        plugin: None where it is broken.
        fault: What is wrong with a broken one.
    """

    name: str
    distribution: str
    is_ours: bool = False
    plugin: EnginePlugin | None = field(default=None, repr=False)
    fault: str = ""

    def obstacle(self, environment: EngineEnvironment) -> str | None:
        """Raises PluginError for a broken plug-in."""
        return self._call(self._checked().obstacle, environment, "obstacle")

    def load(self, environment: EngineEnvironment) -> Engine:
        """Raises PluginError for a broken plug-in, and what its `load` raises."""
        engine = self._checked().load(environment)
        check_interface(self.name, engine)
        return engine

    def _checked(self) -> EnginePlugin:
        if self.plugin is None:
            raise PluginError(self.fault)
        return self.plugin

    @staticmethod
    def _call(
        function: Callable[[EngineEnvironment], str | None], environment: EngineEnvironment, name: str
    ) -> str | None:
        try:
            return function(environment)
        except Exception as error:
            raise PluginError(f"`{name}` raises {type(error).__name__}: {error}") from error


def find_plugins() -> list[FoundPlugin]:
    """Every declared engine, ours first, the broken ones with their fault. Imports the plug-ins' modules."""
    by_name: dict[str, list[EntryPoint]] = {}
    for entry in sorted(_declared(), key=lambda entry: (not _is_ours(entry), entry.name, _distribution(entry))):
        by_name.setdefault(entry.name, []).append(entry)
    return [found for entries in by_name.values() for found in _resolve(entries)]


def check_interface(name: str, engine: object) -> None:
    """Raises PluginError where a loaded object is no `Engine` of this name."""
    capabilities = getattr(engine, "capabilities", None)
    if not isinstance(capabilities, EngineCapabilities):
        raise PluginError("the engine's `capabilities` are no `EngineCapabilities`")
    if capabilities.name != name:
        raise PluginError(f"the engine calls itself {capabilities.name!r}, its entry point {name!r}")
    for method, arguments in (("warm_up", 0), ("render", 4)):
        function = getattr(engine, method, None)
        if not callable(function):
            raise PluginError(f"the engine has no method `{method}`")
        try:
            inspect.signature(function).bind(*range(arguments))
        except TypeError as error:
            raise PluginError(f"`{method}` does not take the {arguments} arguments of `Engine`: {error}") from error


def _resolve(entries: Sequence[EntryPoint]) -> list[FoundPlugin]:
    """Those of one name. Ours stays beside others of its name; of several others none is better than the rest."""
    first, *others = entries
    if others and not _is_ours(first):
        owners = " and ".join(map(_distribution, entries))
        return [FoundPlugin(first.name, owners, fault=f"{owners} declare an engine of this name; uninstall one")]
    duplicates = [
        FoundPlugin(entry.name, _distribution(entry), fault="the name belongs to an engine of Retalking")
        for entry in others
    ]
    return [_import(first), *duplicates]


def _import(entry: EntryPoint) -> FoundPlugin:
    def broken(fault: str) -> FoundPlugin:
        return FoundPlugin(entry.name, _distribution(entry), _is_ours(entry), fault=fault)

    if not re.match(ENGINE_NAME, entry.name) or entry.name == AUTO:
        return broken("the name is not one that an engine may have: lower-case letters, digits and underscores")
    try:
        plugin = entry.load()
    except (Exception, SystemExit) as error:
        return broken(f"{entry.value} cannot be imported: {type(error).__name__}: {error}")
    if not isinstance(plugin, EnginePlugin):
        return broken(f"{entry.value} is a {type(plugin).__name__}, not an `EnginePlugin`")
    return FoundPlugin(entry.name, _distribution(entry), _is_ours(entry), plugin)


def _declared() -> list[EntryPoint]:
    found = list(entry_points(group=ENTRY_POINT_GROUP))
    return found if any(map(_is_ours, found)) else [*_of_checkout(), *found]


def _of_checkout() -> list[EntryPoint]:
    """Ours, as declared in pyproject.toml: a checkout runs without being installed."""
    project = Path(__file__).resolve().parents[1] / "pyproject.toml"
    if not project.is_file():
        return []
    declared = tomllib.loads(project.read_text("utf-8"))["project"]["entry-points"][ENTRY_POINT_GROUP]
    return [EntryPoint(name, value, ENTRY_POINT_GROUP) for name, value in declared.items()]


def _is_ours(entry: EntryPoint) -> bool:
    return entry.dist is None or entry.dist.name == OURS


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "this checkout"
