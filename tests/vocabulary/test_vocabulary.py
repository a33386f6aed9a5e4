"""The vocabulary is light, and everything that repeats or uses a fact of it agrees with it."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
import typing
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from pydantic import ValidationError

import retalking_core.vocabulary
from jobs.models import JobOutput, JobRequest
from retalking_client import options as client
from retalking_client import responses
from retalking_client.models import Metric
from retalking_core.evaluation.metrics import METRICS
from retalking_core.options import RenderOptions
from retalking_core.vocabulary import containers, engines, options
from retalking_core.vocabulary.metrics import METRIC_TABLE, Better
from retalking_core.weights.checkpoint import TEMPLATE_KEYS
from retalking_core.weights.table import WEIGHT_FILES
from tests.api.running import ROOT


def test_the_vocabulary_imports_nothing_but_pydantic() -> None:
    names = [module.name for module in pkgutil.iter_modules(retalking_core.vocabulary.__path__)]
    assert {"options", "metrics", "containers", "engines"} <= set(names)
    code = (
        "import sys, pydantic, pydantic.dataclasses, pydantic_core; before = set(sys.modules)\n"
        f"for name in {names}: __import__(f'retalking_core.vocabulary.{{name}}')\n"
        "print(*(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    foreign = {name for name in done.stdout.split() if name.partition(".")[0] not in sys.stdlib_module_names}
    ours = {"retalking_core", "retalking_core.vocabulary", *(f"retalking_core.vocabulary.{name}" for name in names)}
    assert {name for name in foreign if not name.startswith("pydantic")} == ours


def words(hint: Any) -> set[str]:
    """All literal values inside a type."""
    if get_origin(hint) is Literal:
        return set(get_args(hint))
    return set().union(*map(words, get_args(hint))) if get_args(hint) else set()


def test_the_client_s_options_are_those_of_the_service() -> None:
    """The client is a distribution of its own and imports nothing of the service, so it repeats them."""
    theirs = get_type_hints(client.SubmitOptions)
    ours = get_type_hints(JobRequest)
    assert set(theirs) == set(JobRequest.model_fields)
    for name in ("upper_face", "length_mode", "face", "missing_face"):
        assert words(theirs[name]) == words(ours[name]), name
    shapes = {
        client.FacePoint: options.FacePoint,
        client.FaceBox: options.FaceBox,
        client.FaceTrackId: options.FaceTrackId,
        client.Margins: options.Crop,
        client.OutputOptions: JobOutput,
        client.SoundOptions: options.SoundOptions,
    }
    for theirs_, ours_ in shapes.items():
        assert set(get_type_hints(theirs_)) == set(get_type_hints(ours_)), ours_
    assert words(get_type_hints(client.OutputOptions)["container"]) == set(containers.OUTPUT_CONTAINERS)
    assert words(get_type_hints(client.SoundOptions)["mix"]) == words(options.SoundMix)
    assert set(get_type_hints(client.Margins)) == set(get_type_hints(options.Pads))
    assert words(get_type_hints(Metric)["better"]) == words(Better)
    assert {kind.content_type: name for name, kind in containers.OUTPUTS.items()} == responses.SUFFIXES


def test_the_library_s_options_are_those_of_a_job() -> None:
    hints = get_type_hints(RenderOptions)
    for name in ("upper_face", "length_mode", "face", "missing_face", "output", "sound"):
        assert hints[name] == typing.get_type_hints(options.JobOptions)[name], name
    assert set(TEMPLATE_KEYS) == set(options.EXPRESSION_TEMPLATES)


def test_every_metric_of_the_table_is_computed_from_files_that_exist() -> None:
    assert list(METRICS) == list(METRIC_TABLE)
    assert {file for row in METRIC_TABLE.values() for file in row.checkpoints} <= set(WEIGHT_FILES)
    options.JobOptions(evaluate=list(METRIC_TABLE))


@pytest.mark.parametrize("name", ["auto", "preview", "third_party"])
def test_an_engine_is_chosen_by_any_name_that_an_engine_may_have(name: str) -> None:
    assert options.JobOptions(engine=name).engine == name


@pytest.mark.parametrize("name", ["", "Preview", "a b", "../x", "x" * 41])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        options.JobOptions(engine=name)


@pytest.mark.parametrize(
    ("wanted", "offered", "chosen"),
    [
        ("auto", {"preview", "videoretalking", "another"}, "videoretalking"),
        ("auto", {"another", "preview"}, "preview"),
        ("auto", {"second", "first"}, "first"),
        ("auto", set(), None),
        ("another", {"another", "preview"}, "another"),
        ("another", {"preview"}, None),
    ],
)
def test_what_auto_means(wanted: str, offered: set[str], chosen: str | None) -> None:
    assert engines.preferred_engine(wanted, offered) == chosen


def test_what_an_engine_refuses_is_found_in_both_shapes_of_the_options() -> None:
    unsupported = {"expression": ("image",), "one_shot": (), "output.badge": ("true",), "face": (), "pads": ()}
    asked = options.JobOptions(
        expression=f"upload:up_{'0' * 32}", one_shot=True, output={"badge": True}, face={"x": 1, "y": 2}
    )
    found = options.refused_options(asked, options.DEFAULT_OPTIONS, unsupported)
    assert set(found) == {"expression", "one_shot", "output.badge", "face"}
    assert found["expression"] == "image"
    rendered = RenderOptions(expression="/x.png", one_shot=True, face=asked.face, output=asked.output)
    assert options.refused_options(rendered, RenderOptions(), unsupported) == found
    assert options.refused_options(RenderOptions(), RenderOptions(), unsupported) == {}
