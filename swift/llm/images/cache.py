"""Tiled images ahead of time: decoded in worker threads while the accelerator computes, kept within a bound of bytes.

An announcement is only a hint. An image comes out the same, and a bad one is refused in the same words, whether it was
announced or not; it only comes sooner.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from PIL import Image

from swift.llm.images.protocol import Picture
from swift.llm.images.source import ImageSource, open_image
from swift.utils.errors import UserError

CACHE_BYTES = 512 * 2**20
DECODING_THREADS = 4  # Pillow, zlib and NumPy let go of the interpreter's lock while they work on pixels


class ImageCache:
    """Tiled images by source, the least recently used dropped beyond ``max_bytes``: the questions about one study share
    one tiling. For any number of threads; an image that several want at once is decoded once.

    Images announced and not yet asked for take at most half of ``max_bytes`` and are dropped last; up to ``threads``
    more may be in the making. With 0 ``threads``, for a processor that only one thread may use, announcements do
    nothing. A copy in another process, forked ones included, starts empty.
    """

    def __init__(
        self, processor: Callable[[Image.Image], Picture], max_bytes: int = CACHE_BYTES, threads: int = DECODING_THREADS
    ):
        self.processor, self.max_bytes, self.threads = processor, max_bytes, threads
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()  # guards all below
        self._images: OrderedDict[str, Picture] = OrderedDict()
        self._bytes = self._largest = 0
        self._announced: dict[str, ImageSource] = {}  # not yet asked for, the next one first
        self._loading: dict[str, Future[Picture]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._busy = 0  # threads of the pool at work

    def __reduce__(self):
        return type(self), (self.processor, self.max_bytes, self.threads)

    def __call__(self, source: ImageSource) -> Picture:
        """The tiled image; where no thread has begun with it, it is made in this one. Raises UserError, naming it, as
        ``open_image`` and the processor do."""
        self._begin_in_child()
        key, mine = source.key, False
        with self._lock:
            self._announced.pop(key, None)
            self._start_announced()
            if key in self._images:
                self._images.move_to_end(key)
                return self._images[key]
            if key not in self._loading:
                self._loading[key], mine = Future(), True
            future = self._loading[key]
        if mine:
            self._load(source, future)
        return future.result()

    def prefetch(self, sources: Iterable[ImageSource], *, first: bool = False) -> None:
        """Announce what will be asked for next, in order, and return at once. It takes the place of what was announced
        before, or, with ``first``, goes before it. Bad images are passed over: whoever asks for one gets the error."""
        self._begin_in_child()
        with self._lock:
            later = self._announced.values() if first else ()
            self._announced = {source.key: source for source in (*sources, *later)}
            self._start_announced()

    def _start_announced(self) -> None:
        """Give idle threads what was announced, as long as there is room; the lock is held."""
        waiting = sum(self._images[key].nbytes for key in self._announced if key in self._images)
        for key, source in self._announced.items():
            if self._busy == self.threads or waiting + (self._busy + 1) * self._largest > self.max_bytes // 2:
                return
            if key not in self._images and key not in self._loading:
                self._pool = self._pool or ThreadPoolExecutor(self.threads, "images")
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
        """Make the image in this thread, keep it, and hand it, or what went wrong, to all who wait for ``future``."""
        image = problem = None
        try:
            image = self.processor(open_image(source))
        except BaseException as error:  # an interrupt too must reach who waits
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
        """A fork copies the state and none of the threads."""
        if self._process != os.getpid():
            self._begin()
