"""Images made ahead of time: each is made once, in the order announced, within the bound, and equal every time."""

from __future__ import annotations

import gc
import os
import pickle
import random
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from swift.llm.images.cache import ImageCache, single_threaded_pool
from swift.llm.images.dynamic_hd import DynamicHDImageProcessor, ProcessedImage
from swift.llm.images.source import ImageSource
from swift.utils.errors import UserError

ONE = 2 * (3 * 28 * 28 * 4 + 2 * 2)  # bytes of an image of one crop: two views and their masks
SECONDS = 20.0  # most time that a test waits for an event


class Tiler(DynamicHDImageProcessor):
    """Notes each tiled image, by its first pixel, and the thread that tiles it. Waits while ``gate`` is closed."""

    def __init__(self):
        super().__init__(28)
        self.made: list[int] = []
        self.threads: list[str] = []
        self.alive: weakref.WeakSet[ProcessedImage] = weakref.WeakSet()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, image: Image.Image) -> ProcessedImage:
        self.made.append(image.getpixel((0, 0))[0])
        self.threads.append(threading.current_thread().name)
        assert self.gate.wait(SECONDS)
        made = super().__call__(image)
        self.alive.add(made)
        return made

    def __reduce__(self):
        return Tiler, ()


@pytest.fixture
def sources(tmp_path) -> list[ImageSource]:
    """Thirty small images. The image at position k has gray level k."""
    for level in range(30):
        Image.new("L", (28, 20), level).save(tmp_path / f"{level:02d}.png")
    return [ImageSource.from_path(path) for path in sorted(tmp_path.iterdir())]


def level(image: ProcessedImage) -> int:
    return round(float(image.pixel_values[1, 0, 0, 0] + 1) * 127.5)


def wait_until(true) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_tiling_is_shared_and_the_least_recently_used_goes_first(sources):
    cache = ImageCache(Tiler(), max_bytes=2 * ONE)
    first, second = cache(sources[0]), cache(sources[1])
    assert cache(sources[0]) is first  # and it is now the most recently used
    cache(sources[2])
    assert cache(sources[0]) is first
    assert cache(sources[1]) is not second


def test_what_comes_is_what_the_processor_makes(sources):
    cache = ImageCache(DynamicHDImageProcessor(28))
    cache.prefetch(sources)
    for source in sources:
        expected = DynamicHDImageProcessor(28)(Image.open(source.path))
        assert torch.equal(cache(source).pixel_values, expected.pixel_values)
        assert torch.equal(cache(source).attention_mask, expected.attention_mask)


def test_an_image_that_many_threads_want_is_made_once(sources):
    tiler = Tiler()
    cache = ImageCache(tiler)
    tiler.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        wanted = [pool.submit(cache, sources[3]) for _ in range(8)]
        wait_until(lambda: tiler.made)
        tiler.gate.set()
        assert len({id(future.result(SECONDS)) for future in wanted}) == 1
    assert tiler.made == [3]


def test_announcing_returns_at_once_and_the_request_waits_for_the_thread_at_work(sources):
    tiler = Tiler()
    cache = ImageCache(tiler)
    tiler.gate.clear()
    cache.prefetch(sources[:2])
    wait_until(lambda: len(tiler.made) == 2)
    with ThreadPoolExecutor(1) as pool:
        wanted = pool.submit(cache, sources[1])
        assert not wanted.done()
        tiler.gate.set()
        assert level(wanted.result(SECONDS)) == 1
    assert sorted(tiler.made) == [0, 1]
    assert all(name.startswith("images") for name in tiler.threads)


def test_no_more_than_the_given_number_of_threads_work_ahead(sources):
    tiler = Tiler()
    cache = ImageCache(tiler, threads=3)
    tiler.gate.clear()
    cache.prefetch(sources)
    wait_until(lambda: len(tiler.made) == 3)
    time.sleep(0.05)
    assert sorted(tiler.made) == [0, 1, 2]
    assert level(cache_in_thread(cache, tiler, sources[20])) == 20  # a request does not queue behind them
    wait_until(lambda: len(tiler.made) == len(sources))


def cache_in_thread(cache: ImageCache, tiler: Tiler, source: ImageSource) -> ProcessedImage:
    """Request ``source`` in another thread while all workers wait. The gate opens once it is being made there."""
    with ThreadPoolExecutor(1, "asking") as pool:
        wanted = pool.submit(cache, source)
        wait_until(lambda: any(name.startswith("asking") for name in tiler.threads))
        tiler.gate.set()
        return wanted.result(SECONDS)


def test_without_threads_every_image_is_made_by_who_asks(sources):
    tiler = Tiler()
    cache = ImageCache(tiler, threads=0)
    cache.prefetch(sources[:3])
    assert [level(cache(source)) for source in sources[:3]] == [0, 1, 2]
    assert set(tiler.threads) == {threading.current_thread().name}


def test_images_are_made_in_the_order_announced_and_a_new_announcement_takes_the_place_of_the_old(sources):
    tiler = Tiler()
    cache = ImageCache(tiler, threads=1)
    tiler.gate.clear()
    cache.prefetch(sources[:5])
    wait_until(lambda: tiler.made)  # 0 is at work, 1 to 4 wait
    cache.prefetch([sources[9], sources[7], sources[9]])
    cache.prefetch([sources[8]], first=True)
    tiler.gate.set()
    wait_until(lambda: len(tiler.made) == 4)
    assert tiler.made == [0, 8, 9, 7]


def test_announced_images_take_half_the_room_and_go_on_as_they_are_asked_for(sources):
    tiler = Tiler()
    cache = ImageCache(tiler, max_bytes=10 * ONE, threads=1)
    cache(sources[29])  # from now on the cache knows the size of an image
    cache.prefetch(sources[:20])
    wait_until(lambda: len(tiler.made) == 6)
    time.sleep(0.05)
    assert tiler.made == [29, 0, 1, 2, 3, 4]
    cache(sources[0])
    cache(sources[1])
    wait_until(lambda: len(tiler.made) == 8)
    assert tiler.made[6:] == [5, 6]


def test_images_that_would_not_fit_are_not_made_ahead(sources):
    """Otherwise they would be made, dropped, and made again."""
    tiler = Tiler()
    cache = ImageCache(tiler, max_bytes=ONE, threads=1)
    cache(sources[0])
    cache.prefetch(sources[1:4])
    time.sleep(0.05)
    assert [level(cache(source)) for source in sources[1:4]] == [1, 2, 3]
    assert tiler.made == [0, 1, 2, 3]


def test_what_was_announced_outlives_what_was_used(sources):
    tiler = Tiler()
    cache = ImageCache(tiler, max_bytes=4 * ONE, threads=1)
    cache(sources[0])
    cache.prefetch(sources[1:3])
    wait_until(lambda: len(tiler.made) == 3)
    for source in sources[10:20]:
        cache(source)
    cache(sources[1])
    cache(sources[2])
    assert tiler.made == [0, 1, 2, *range(10, 20)]


def test_bytes_stay_within_the_bound_under_any_requests(sources):
    tiler, draw = Tiler(), random.Random(0)
    cache = ImageCache(tiler, max_bytes=5 * ONE, threads=2)
    most = 0

    def ask(seed: int) -> None:
        own = random.Random(seed)
        for _ in range(60):
            source = own.choice(sources)
            assert level(cache(source)) == sources.index(source)

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask, seed) for seed in range(3)]
        while not all(future.done() for future in asking):
            cache.prefetch(draw.sample(sources, 6), first=draw.random() < 0.5)
            most = max(most, len(tiler.alive))
        for future in asking:
            future.result()
    # five in the cache, two in preparation, and for each of the three threads its last image and the next one
    assert 5 <= most <= 5 + 2 + 3 * 2
    wait_until(lambda: gc.collect() is not None and len(tiler.alive) <= 5)


@pytest.mark.parametrize("announced", [False, True])
def test_a_bad_image_is_refused_by_name_announced_or_not(tmp_path, sources, announced):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.png")
    os.truncate(tmp_path / "cut.png", 900)
    Image.new("L", (1000, 2)).save(tmp_path / "sliver.png")
    cache = ImageCache(Tiler(), threads=1)
    bad = {name: ImageSource.from_path(tmp_path / f"{name}.png") for name in ("cut", "sliver", "gone")}
    if announced:
        cache.prefetch([*bad.values(), sources[5]])
        wait_until(lambda: 5 in cache.processor.made)
    for name, words in {"cut": "truncated or damaged", "sliver": "too narrow", "gone": "is missing"}.items():
        for _ in range(2):
            with pytest.raises(UserError, match=rf"^image .*{name}\.png:? .*{words}"):
                cache(bad[name])
    Image.new("L", (28, 28), 77).save(tmp_path / "gone.png")
    assert level(cache(bad["gone"])) == 77


def test_a_copy_starts_empty_and_works(sources):
    cache = ImageCache(Tiler(), max_bytes=7 * ONE, threads=2)
    cache(sources[1])
    copy = pickle.loads(pickle.dumps(cache))
    assert (copy.max_bytes, copy.threads) == (7 * ONE, 2)
    assert level(copy(sources[1])) == 1
    assert copy.processor.made == [1]


def test_a_forked_process_does_not_wait_for_its_parents_threads(sources):
    """The fork copies an image in preparation, but no thread that would finish it."""
    tiler = Tiler()
    cache = ImageCache(tiler)
    tiler.gate.clear()
    cache.prefetch(sources[:2])
    wait_until(lambda: len(tiler.made) == 2)
    child = os.fork()
    if child == 0:
        tiler.gate.set()
        cache.prefetch(sources[1:3])
        os._exit(0 if [level(cache(source)) for source in sources[:3]] == [0, 1, 2] else 1)
    deadline = time.monotonic() + SECONDS
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if ended == (0, 0):
        os.kill(child, 9)
        os.waitpid(child, 0)
    tiler.gate.set()
    assert ended == (child, 0)


def test_threads_that_make_images_use_one_thread_of_torch_and_leave_the_others_theirs():
    """A second team of OpenMP threads slowed every step on the CPU by a fifth."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with single_threaded_pool(3) as pool:
            assert {pool.submit(torch.get_num_threads).result() for _ in range(9)} == {1}
            assert torch.get_num_threads() == 2
            with ThreadPoolExecutor(1) as others:
                assert others.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(before)
