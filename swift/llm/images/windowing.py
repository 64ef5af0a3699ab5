"""Gray values of any depth, reduced to the 8 bits that a viewer's window shows."""

from __future__ import annotations

import numpy as np

OUTLIERS = 0.005  # share of the pixels at either end that may be markers or burnt-in text


def spread_range(
    values: np.ndarray, inverted: bool = False, outliers: float = 0.0, counts: np.ndarray | None = None
) -> np.ndarray:
    """The range of the finite ``values`` spread over 0..255 (uint8), with low values dark, or bright if ``inverted``.

    The share ``outliers`` of the values at either end, rounded down, lies outside the range and is cut off, unless
    nothing else differs. ``counts`` says how often each value stands in the image; by default, once. Values that are
    not finite are black, and so is an image of one value.
    """
    if values.dtype.kind == "u" and values.itemsize <= 2:  # every level once instead of every pixel
        low = int(values.min())
        places = values - values.dtype.type(low)
        counts = np.bincount(places.ravel())
        levels = np.arange(low, low + len(counts), dtype=np.float64)
        return spread_range(np.where(counts > 0, levels, np.nan), inverted, outliers, counts)[places]
    values = values.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.any() or np.ptp(values[finite]) == 0:
        return np.zeros(values.shape, np.uint8)
    low, high = _range(values[finite], outliers, None if counts is None else counts[finite])
    shares = np.clip((values - low) / (high - low), 0, 1)
    return eight_bits(np.where(finite, shares, np.nan), inverted)


def _range(values: np.ndarray, outliers: float, counts: np.ndarray | None) -> tuple[float, float]:
    """The lowest and highest value without the share ``outliers`` at either end; with it, if they would be equal."""
    order = np.argsort(values, kind="stable")
    seen = np.cumsum(np.ones(len(values), np.int64) if counts is None else counts[order])
    cut = int(seen[-1] * outliers)
    ends = (np.searchsorted(seen, cut, side="right"), np.searchsorted(seen, seen[-1] - cut, side="left"))
    low, high = (float(values[order[place]]) for place in ends)
    return (low, high) if high > low else (float(values.min()), float(values.max()))


def eight_bits(shares: np.ndarray, inverted: bool = False) -> np.ndarray:
    """Shares of full brightness, 0..1, as 0..255 (uint8), or 255..0 if ``inverted``. Values not finite are black."""
    finite = np.isfinite(shares)
    levels = np.where(finite, shares, 0.0) * 255.0
    return np.rint(np.where(finite & inverted, 255.0 - levels, levels)).astype(np.uint8)


def window(values: np.ndarray, center: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Shares of full brightness, 0..1, that a DICOM window gives to ``values`` (PS3.3 C.11.2.1.2 and C.11.2.1.3).

    ``function`` is LINEAR, LINEAR_EXACT or SIGMOID. Raises ValueError for another function and for a width that leaves
    no window.
    """
    if not width >= 1 and not (width > 0 and function != "LINEAR"):
        raise ValueError(f"a window {width:g} wide shows nothing")
    if function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(-4.0 * (values - center) / width))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1.0
    elif function != "LINEAR_EXACT":
        raise ValueError(f"the window function {function} is unknown")
    if width == 0:
        return np.where(values > center, 1.0, 0.0)
    return np.clip((values - center) / width + 0.5, 0.0, 1.0)
