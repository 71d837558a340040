from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from core import image_work, images
from core.image_work import LARGE_PIXELS, Budget
from tests.conftest import jpeg

pytestmark = pytest.mark.unit

PATIENCE_SECONDS = 20


def test_work_waits_until_the_budget_has_enough_and_keeps_its_turn() -> None:
    budget = Budget(10)
    begun: list[int] = []
    is_begun, may_end = threading.Event(), threading.Event()

    def take(amount: int) -> None:
        with budget.reserve(amount):
            begun.append(amount)
            is_begun.set()
            may_end.wait(PATIENCE_SECONDS)

    with ThreadPoolExecutor(4) as threads:
        threads.submit(take, 6)
        assert is_begun.wait(PATIENCE_SECONDS)
        for count, amount in enumerate((5, 4), 1):  # 4 would fit, but it came after 5
            threads.submit(take, amount)
            while len(budget._waiting) < count:
                threading.Event().wait(0.001)  # until it stands in the queue; nothing tells
        assert begun == [6]
        may_end.set()
    assert begun == [6, 5, 4]


def test_what_is_larger_than_the_whole_budget_runs_alone() -> None:
    budget = Budget(10)
    with budget.reserve(1000):
        assert budget._free == 0
    assert budget._free == 10


def test_the_budget_comes_back_after_an_error() -> None:
    with pytest.raises(images.ImageError):
        image_work.run(images.decode, b"no image", pixels=1_000_000)
    assert image_work.budget._free == image_work.budget._size


def test_large_pictures_have_a_process_of_their_own() -> None:
    assert image_work.run(os.getpid, pixels=LARGE_PIXELS) == os.getpid()
    assert image_work.run(os.getpid, pixels=LARGE_PIXELS + 1) != os.getpid()


def test_large_pictures_do_not_wait_for_the_budget_of_the_others() -> None:
    with image_work.reserve(image_work.WEB_BYTES):
        assert image_work.run(images.probe, jpeg(), pixels=LARGE_PIXELS + 1) == images.probe(jpeg())


def test_others_do_not_wait_for_large_pictures() -> None:
    with ThreadPoolExecutor(1) as threads:
        large = threads.submit(image_work.run, time.sleep, 2, pixels=LARGE_PIXELS + 1)
        assert image_work.run(images.probe, jpeg(), pixels=LARGE_PIXELS) == images.probe(jpeg())
        assert not large.done()


@pytest.mark.parametrize("pixels", [1, LARGE_PIXELS + 1])
def test_an_error_is_the_same_in_either_process(pixels: int) -> None:
    with pytest.raises(images.OpaqueFrame, match="no transparent part"):
        image_work.run(images.check_frame, jpeg(), images.MAX_PIXELS, pixels=pixels)


def test_a_picture_that_kills_its_decoder_is_a_bad_picture() -> None:
    with pytest.raises(images.ImageError, match="ended with code -6"):
        image_work.run(os.abort, pixels=LARGE_PIXELS + 1)
