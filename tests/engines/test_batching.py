"""What a network may give, and batches that do not fit."""

import pytest
import torch

from retalking_core.engines.videoretalking.batching import AdaptiveBatcher, ValidatingNetworks, in_batches_of, in_groups
from retalking_core.errors import EngineFaultError, OutOfMemoryError
from tests.engines.stand_ins import StandIns, Warped


def test_batches_are_halved_until_they_fit() -> None:
    sizes = []

    def work(part):
        sizes.append(len(part))
        if len(part) > 3:
            raise torch.OutOfMemoryError("too much")
        return [10 * k for k in part]

    batches = AdaptiveBatcher(16)
    assert [k for part in batches.run(range(20), work) for k in part] == [10 * k for k in range(20)]
    assert sizes[:4] == [16, 8, 4, 2]
    assert batches.size == 2


def test_one_item_that_does_not_fit_is_a_named_error() -> None:
    def work(part):
        raise torch.OutOfMemoryError("CUDA out of memory.\nlong story")

    with pytest.raises(OutOfMemoryError) as caught:
        list(AdaptiveBatcher(4).run([1, 2], work))
    assert caught.value.details["reason"] == "CUDA out of memory."


@pytest.mark.parametrize(
    ("wanted", "batches"),
    [
        ("..xxxx...", ["..", "xxx", "x..", "."]),
        ("xxxx", ["xxx", "x"]),
        (".....", ["...", ".."]),
        ("x.x.xx", ["x.x", ".", "xx"]),
        ("", []),
    ],
)
def test_what_is_wanted_begins_a_batch(wanted: str, batches: list[str]) -> None:
    assert ["".join(batch) for batch in in_batches_of(wanted, 3, lambda item: item == "x")] == batches


def test_other_faults_pass_through() -> None:
    def work(part):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        list(AdaptiveBatcher(4).run([1], work))


def check(name: str, result: object) -> None:
    """Raises what a batch with this one result of a network would be refused for."""

    class One(StandIns):
        def get(self, _name: str):
            return lambda: result

    networks = ValidatingNetworks(One())
    networks.get(name)()
    networks.findings().check()
    assert not networks.findings().flags.any(), "findings are taken once"


def test_the_first_network_at_fault_is_named() -> None:
    broken = {"gfpgan": lambda _: torch.full((1, 3, 8, 8), float("nan")), "enet": torch.zeros_like}
    networks = ValidatingNetworks(StandIns(**broken))
    networks.get("gpen512")(torch.rand(1, 3, 8, 8))
    networks.get("enet")(torch.rand(1, 3, 8, 8))
    networks.get("gfpgan")(torch.rand(1, 3, 8, 8))
    with pytest.raises(EngineFaultError) as caught:
        networks.findings().check()
    assert caught.value.details["network"] == "enet"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    picture = torch.rand(2, 3, 8, 8)
    picture[1, 2, 3, 4] = bad
    for result in (picture, (torch.rand(2, 1, 8, 8), picture), Warped(picture, picture, torch.rand(2, 3, 8, 8))):
        with pytest.raises(EngineFaultError, match="not finite"):
            check("dnet", result)


def test_a_constant_picture_in_a_batch_is_refused() -> None:
    picture = torch.rand(3, 3, 8, 8)
    check("gfpgan", picture)
    picture[1] = 0.25
    with pytest.raises(EngineFaultError, match="single color"):
        check("gfpgan", picture)
    check("deep3d", torch.zeros(3, 257))


def test_groups() -> None:
    assert list(in_groups(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
