"""`--option key=value`."""

from __future__ import annotations

import pytest

from jobs.models import JobRequest
from retalking_client import SubmitOptions
from retalking_client.cli.common import CommandError, read_pairs, validate_options


def test_pairs_become_a_spec() -> None:
    pairs = ["length_mode=loop", "output.crf=20", "output.container=mov", "evaluate=[]", "one_shot=true", "priority=2"]
    spec = read_pairs([*pairs, 'face={"x": 10, "y": 20}', "metadata.title=a=b"])
    request = validate_options(JobRequest, spec)
    assert request.output.crf == 20
    assert request.output.container == "mov"
    assert request.evaluate == []
    assert request.face.x == 10
    assert request.metadata == {"title": "a=b"}


@pytest.mark.parametrize("pair", ["crf", "=3", "output.=3", ".crf=3"])
def test_what_is_no_pair_is_refused(pair: str) -> None:
    with pytest.raises(CommandError, match="key=value"):
        read_pairs([pair])


def test_a_name_cannot_be_a_value_and_a_group() -> None:
    with pytest.raises(CommandError, match="cannot both be set"):
        read_pairs(["output=3", "output.crf=3"])


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(CommandError) as caught:
        validate_options(JobRequest, read_pairs(["output.crf=90", "color=red"]))
    assert caught.value.code == "invalid_option"
    assert "output.crf: Input should be less than or equal to 51" in caught.value.message
    assert "color: Extra inputs are not permitted" in caught.value.message


def test_the_command_refuses_unknown_names_and_words_before_it_sends_anything() -> None:
    with pytest.raises(CommandError) as caught:
        validate_options(SubmitOptions, read_pairs(["length_mode=stretch", "output.color=red", "crop.left=wide"]))
    message = caught.value.message
    assert "length_mode: Input should be 'cut_off', 'loop', 'bounce', 'silence' or 'remap'" in message
    assert "output.color: Extra inputs are not permitted" in message
    assert "crop.left: Input should be a valid number" in message
