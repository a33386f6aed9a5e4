"""How engines are found, and what a broken plug-in does to the others: nothing."""

from __future__ import annotations

import logging
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.errors import ServiceError
from jobs.settings import Settings
from retalking_core.engine_plugins import EngineEnvironment, PluginError, check_interface, find_plugins
from retalking_core.engines.preview.engine import PreviewEngine
from retalking_core.engines.videoretalking.engine import NETWORKS
from retalking_core.engines.videoretalking.plugin import chosen_tracker, computes_fast, obstacle
from retalking_core.errors import EngineUnavailableError
from retalking_core.networks import kernels
from retalking_core.weights.checkpoint import SYNTHETIC_RECORD
from retalking_core.weights.table import ENGINE_WEIGHTS, WEIGHT_FILES
from tests.api.running import ROOT
from worker.engines import choose_engine, load_engines, warm_up_engines

NOWHERE = Path("/nowhere")
GOOD = """
from retalking_core.engine_plugins import EnginePlugin
from retalking_core.engines.preview.engine import PreviewEngine

def load(environment):
    engine = PreviewEngine(environment.limits)
    engine.capabilities = engine.capabilities.model_copy(update={"name": "%s"})
    return engine

PLUGIN = EnginePlugin(load)
"""
Declare = Callable[..., None]


@pytest.fixture
def declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Declare:
    """Put an installed distribution with one engine onto the path, as pip leaves it."""
    folder = tmp_path / "installed"

    def declare(distribution: str, engine: str, source: str, attribute: str = "PLUGIN") -> None:
        module = f"{distribution}_engine_of_test"
        info = folder / f"{distribution}-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / f"{module}.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[retalking.engines]\n{engine} = {module}:{attribute}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)

    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return declare


def test_our_engines_are_found_like_any_other() -> None:
    assert {found.name: (found.is_ours, found.fault) for found in find_plugins()} == {
        "preview": (True, ""),
        "videoretalking": (True, ""),
    }


def test_a_checkout_that_is_not_installed_has_its_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retalking_core.engine_plugins.entry_points", lambda group: ())
    assert {found.name for found in find_plugins() if found.is_ours and found.plugin} == {"preview", "videoretalking"}


def test_plug_ins_are_found_without_numpy() -> None:
    """`retalking doctor` and the parent of a render worker look for them."""
    code = (
        "import sys, worker.engines; from retalking_core.engine_plugins import find_plugins; find_plugins();"
        "print({'numpy', 'torch', 'av', 'cv2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_an_engine_of_another_distribution_is_loaded_and_chosen_by_name(declare: Declare) -> None:
    declare("another", "another", GOOD % "another")
    settings = Settings(_env_file=None)
    engines = load_engines(settings)
    assert set(engines.by_name) == {"preview", "another"}
    assert choose_engine("another", settings, engines) is engines.by_name["another"]
    assert choose_engine("auto", settings, engines) is engines.by_name["preview"]
    named = Settings(_env_file=None, engine="another")
    assert choose_engine("auto", named, engines) is engines.by_name["another"]
    assert set(load_engines(Settings(_env_file=None, engine="preview")).by_name) == {"preview"}
    (found,) = (found for found in find_plugins() if not found.is_ours)
    assert (found.name, found.distribution) == ("another", "another 1.0")


BROKEN = {
    "an import error": ("import no_such_module_of_test", "PLUGIN", "No module named 'no_such_module_of_test'"),
    "a missing attribute": ("", "PLUGIN", "has no attribute 'PLUGIN'"),
    "an exit": ("import sys; sys.exit(3)", "PLUGIN", "SystemExit"),
    "another type": ("PLUGIN = 5", "PLUGIN", "is a int, not an `EnginePlugin`"),
    "the class instead of a plug-in": (GOOD % "broken", "PreviewEngine", "not an `EnginePlugin`"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plug_in_is_named_and_harms_nobody(
    kind: str, declare: Declare, caplog: pytest.LogCaptureFixture
) -> None:
    source, attribute, words = BROKEN[kind]
    declare("wrong", "broken", source, attribute)
    declare("right", "another", GOOD % "another")
    settings = Settings(_env_file=None)
    (found,) = (found for found in find_plugins() if found.name == "broken")
    assert found.plugin is None
    assert words in found.fault
    with caplog.at_level(logging.ERROR):
        engines = load_engines(settings)
    assert set(engines.by_name) == {"preview", "another"}
    (line,) = (record.getMessage() for record in caplog.records if "wrong 1.0" in record.getMessage())
    assert words in line
    assert "doctor" in engines.unavailable["broken"]
    assert load_engines(Settings(_env_file=None, engine="broken")).unavailable["broken"]


FAILING = {
    "load raises": "from retalking_core.engine_plugins import EnginePlugin\n"
    "def load(environment): raise ZeroDivisionError('in load')\nPLUGIN = EnginePlugin(load)",
    "obstacle raises": "from retalking_core.engine_plugins import EnginePlugin\n"
    "def obstacle(environment): raise ZeroDivisionError('in obstacle')\nPLUGIN = EnginePlugin(None, obstacle)",
    "no engine": "from retalking_core.engine_plugins import EnginePlugin\n"
    "PLUGIN = EnginePlugin(lambda environment: object())",
    "another name": GOOD % "else",
}


@pytest.mark.parametrize("kind", FAILING)
def test_a_plug_in_that_fails_to_load_harms_nobody(
    kind: str, declare: Declare, caplog: pytest.LogCaptureFixture
) -> None:
    declare("failing", "failing", FAILING[kind])
    settings = Settings(_env_file=None)
    engines = load_engines(settings)
    assert set(engines.by_name) == {"preview"}
    assert any("failing 1.0" in record.getMessage() for record in caplog.records)
    assert engines.unavailable["failing"]
    insisted = Settings(_env_file=None, engine="failing")
    with pytest.raises(ServiceError, match="failing"):
        choose_engine("auto", insisted, load_engines(insisted))


def test_a_plug_in_that_fails_to_warm_up_harms_nobody(declare: Declare) -> None:
    source = GOOD % "cold" + "\nPreviewEngineOfTest = type('Cold', (PreviewEngine,), {'warm_up': lambda self: 1 / 0})\n"
    declare("cold", "cold", source.replace("engine = PreviewEngine(", "engine = PreviewEngineOfTest("))
    settings = Settings(_env_file=None)
    engines = load_engines(settings)
    assert set(engines.by_name) == {"preview", "cold"}
    warm = warm_up_engines(engines)
    assert set(warm.by_name) == {"preview"}
    assert warm.unavailable["cold"]


def test_a_plug_in_says_why_it_cannot_run_here(declare: Declare) -> None:
    source = "from retalking_core.engine_plugins import EnginePlugin\nPLUGIN = EnginePlugin(None, lambda _: 'No sun.')"
    declare("solar", "solar", source)
    settings = Settings(_env_file=None)
    assert load_engines(settings).unavailable["solar"] == "No sun."


def test_nobody_takes_the_name_of_our_engines(declare: Declare) -> None:
    declare("aaa", "preview", GOOD % "preview")
    (ours, theirs) = (found for found in find_plugins() if found.name == "preview")
    assert (ours.is_ours, bool(ours.plugin)) == (True, True)
    assert (theirs.distribution, theirs.plugin) == ("aaa 1.0", None)
    assert type(load_engines(Settings(_env_file=None, engine="preview")).by_name["preview"]) is PreviewEngine


def test_two_engines_of_one_name_are_both_left_out(declare: Declare) -> None:
    declare("one", "twice", GOOD % "twice")
    declare("two", "twice", GOOD % "twice")
    (found,) = (found for found in find_plugins() if found.name == "twice")
    assert found.plugin is None
    assert "one 1.0 and two 1.0" in found.fault
    assert set(load_engines(Settings(_env_file=None)).by_name) == {"preview"}


@pytest.mark.parametrize("name", ["auto", "Loud", "has-dash"])
def test_names_that_no_job_could_ask_for(name: str, declare: Declare) -> None:
    declare("named", name, GOOD % name)
    (found,) = (found for found in find_plugins() if not found.is_ours)
    assert "name" in found.fault
    assert set(load_engines(Settings(_env_file=None)).by_name) == {"preview"}


def test_an_engine_that_is_not_installed_any_more_is_named(caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(_env_file=None, engine="uninstalled")
    engines = load_engines(settings)
    assert set(engines.by_name) == {"preview"}
    with pytest.raises(ServiceError, match="No installed package declares an engine of this name") as refusal:
        choose_engine("auto", settings, engines)
    assert refusal.value.code == "engine_unavailable"
    assert any("RETALKING_ENGINE=uninstalled" in record.getMessage() for record in caplog.records)


def test_an_engine_with_other_methods_is_refused() -> None:
    engine = PreviewEngine()
    check_interface("preview", engine)
    engine.render = lambda video, audio: None  # type: ignore[method-assign]
    with pytest.raises(PluginError, match="`render` does not take the 4 arguments"):
        check_interface("preview", engine)


def test_faces_are_followed_by_networks_only_where_they_are_trained_and_quick(tmp_path: Path) -> None:
    auto, named = (EngineEnvironment(tmp_path, tmp_path, tracker=name) for name in ("auto", "neural"))
    assert chosen_tracker(auto, has_cuda=True) == "dlib"
    assert chosen_tracker(named, has_cuda=False) == "neural"
    for name in ("s3fd", "fan2d"):
        (tmp_path / WEIGHT_FILES[name].file).write_bytes(b"there")
    assert chosen_tracker(auto, has_cuda=True) == "neural"
    assert chosen_tracker(auto, has_cuda=False) == "dlib"
    with zipfile.ZipFile(tmp_path / WEIGHT_FILES["fan2d"].file, "w") as archive:
        archive.writestr(f"archive/{SYNTHETIC_RECORD}", "7")
    assert chosen_tracker(auto, has_cuda=True) == "dlib"


def test_a_machine_without_cuda_offers_the_neural_engine_only_when_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ENGINE_WEIGHTS:
        (tmp_path / WEIGHT_FILES[name].file).write_bytes(b"there")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "CUDA" in str(obstacle(EngineEnvironment(tmp_path, tmp_path)))
    assert obstacle(EngineEnvironment(tmp_path, tmp_path, chosen="videoretalking")) is None


def test_the_engine_needs_the_weights_that_the_table_says() -> None:
    assert {*NETWORKS, "ganimation"} == set(ENGINE_WEIGHTS)


@pytest.mark.parametrize(
    ("asked", "has_cuda", "fast"),
    [
        ("auto", True, True),
        ("auto", False, False),
        ("exact", True, False),
        ("exact", False, False),
        ("fast", True, True),
    ],
)
def test_fast_where_a_gpu_is(asked: str, has_cuda: bool, fast: bool) -> None:
    assert computes_fast(EngineEnvironment(NOWHERE, NOWHERE, inference=asked), has_cuda) is fast


def test_fast_by_name_needs_a_gpu() -> None:
    with pytest.raises(EngineUnavailableError, match="RETALKING_INFERENCE"):
        computes_fast(EngineEnvironment(NOWHERE, NOWHERE, inference="fast"), has_cuda=False)


@pytest.mark.parametrize("missing", ["compiler", "headers"])
def test_nothing_to_compile_with_is_said(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing == "compiler":
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CC", raising=False)
    else:
        compiler = tmp_path / "gcc"
        compiler.touch(mode=0o755)
        monkeypatch.setenv("CC", str(compiler))
        monkeypatch.setattr(sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path)})
    told = "apt-get install g++" if missing == "compiler" else "apt-get install libpython3-dev"
    assert told in (kernels.missing_build_tools() or "")
