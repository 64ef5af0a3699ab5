"""Tiled images ahead of time: decoded in worker threads while the accelerator computes, kept within a bound of bytes.

An announcement is only a hint. An announced image comes sooner, but it is the same image, and a bad image is refused in
the same words.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from PIL import Image

from swift.llm.images.protocol import Picture
from swift.llm.images.source import ImageSource, open_image
from swift.utils.errors import UserError

CACHE_BYTES = 512 * 2**20
DECODING_THREADS = 4  # Pillow, zlib and NumPy release the interpreter's lock while they work on pixels


def single_threaded_pool(size: int) -> ThreadPoolExecutor:
    """A pool of ``size`` threads in which torch's operations do not start threads of their own.

    Such threads would belong to a second OpenMP team. Once OpenMP counts more threads than cores, those of the first
    team sleep between operations instead of waiting awake, and a step on the CPU takes a fifth longer.
    """
    threads = torch.get_num_threads()
    pool, ready = ThreadPoolExecutor(size, "images"), threading.Barrier(size + 1)

    def keep_to_one() -> None:
        torch.get_num_threads()  # the first call in a thread sets its number; a later one would undo the next line
        torch.set_num_threads(1)
        ready.wait()

    for _ in range(size):  # each waits until all have begun, so none takes two
        pool.submit(keep_to_one)
    ready.wait()
    torch.set_num_threads(threads)  # the number is a thread's own, but the latest one is that of future threads
    return pool


class ImageCache:
    """Tiled images by source, so that the questions about one study share one tiling.

    Beyond ``max_bytes`` the least recently used image is dropped. Any number of threads may use the cache. An image
    that several of them request at once is decoded once.

    Images that were announced and not yet requested take at most half of ``max_bytes`` and are dropped last. Up to
    ``threads`` more may be in preparation. With 0 ``threads``, for a processor that only one thread may use,
    announcements do nothing. A copy in another process, also in a forked one, starts empty.
    """

    def __init__(
        self, processor: Callable[[Image.Image], Picture], max_bytes: int = CACHE_BYTES, threads: int = DECODING_THREADS
    ):
        self.processor, self.max_bytes, self.threads = processor, max_bytes, threads
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()  # guards everything below
        self._images: OrderedDict[str, Picture] = OrderedDict()
        self._bytes = self._largest = 0
        self._announced: dict[str, ImageSource] = {}  # not yet requested, the next one first
        self._loading: dict[str, Future[Picture]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._busy = 0  # threads of the pool at work

    def __reduce__(self):
        return type(self), (self.processor, self.max_bytes, self.threads)

    def __call__(self, source: ImageSource) -> Picture:
        """The tiled image. It is made in this thread if no other has begun with it. Raises UserError, naming the image,
        as ``open_image`` and the processor do."""
        self._begin_in_child()
        key, is_maker = source.key, False
        with self._lock:
            self._announced.pop(key, None)
            self._start_announced()
            if key in self._images:
                self._images.move_to_end(key)
                return self._images[key]
            if key not in self._loading:
                self._loading[key], is_maker = Future(), True
            future = self._loading[key]
        if is_maker:
            self._load(source, future)
        return future.result()

    def prefetch(self, sources: Iterable[ImageSource], *, first: bool = False) -> None:
        """Announce the images that will be requested next, in order, and return at once.

        They replace the images announced before, or with ``first`` are put before them. Bad images are skipped here;
        the request for one raises the error.
        """
        self._begin_in_child()
        with self._lock:
            later = self._announced.values() if first else ()
            self._announced = {source.key: source for source in (*sources, *later)}
            self._start_announced()

    def _start_announced(self) -> None:
        """Give announced images to idle threads as long as there is room. The caller holds the lock."""
        waiting = sum(self._images[key].nbytes for key in self._announced if key in self._images)
        for key, source in self._announced.items():
            if self._busy == self.threads or waiting + (self._busy + 1) * self._largest > self.max_bytes // 2:
                return
            if key not in self._images and key not in self._loading:
                self._pool = self._pool or single_threaded_pool(self.threads)
                future: Future[Picture] = Future()
                self._pool.submit(self._load_announced, source, future)
                self._loading[key] = future
                self._busy += 1

    def _load_announced(self, source: ImageSource, future: Future[Picture]) -> None:
        self._load(source, future)
        with self._lock:
            self._busy -= 1
            if future.exception() is not None:
                self._announced.pop(source.key, None)
            self._start_announced()

    def _load(self, source: ImageSource, future: Future[Picture]) -> None:
        """Make the image in this thread, keep it, and hand it or its error to all threads that wait for ``future``."""
        image = problem = None
        try:
            image = self.processor(open_image(source))
        except BaseException as error:  # also an interrupt must reach the threads that wait
            problem = error
        with self._lock:
            del self._loading[source.key]
            if image is not None:
                self._keep(source.key, image)
        if image is not None:
            future.set_result(image)
        elif isinstance(problem, UserError) and source.name not in str(problem):
            future.set_exception(UserError(f"image {source.name}: {problem}"))
        else:
            future.set_exception(problem)

    def _keep(self, key: str, image: Picture) -> None:
        self._images[key] = image
        self._bytes += image.nbytes
        self._largest = max(self._largest, image.nbytes)
        while self._bytes > self.max_bytes:
            unwanted = next((old for old in self._images if old not in self._announced), next(iter(self._images)))
            self._bytes -= self._images.pop(unwanted).nbytes

    def _begin_in_child(self) -> None:
        """Start anew in a forked process: a fork copies the state but none of the threads."""
        if self._process != os.getpid():
            self._begin()
