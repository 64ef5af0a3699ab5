"""Gray values of any depth, reduced to the 8 bits that a viewer's window shows."""

from __future__ import annotations

import numpy as np


def spread_range(values: np.ndarray, inverted: bool = False) -> np.ndarray:
    """The range of the finite ``values`` spread over 0..255 (uint8), with low values dark, or bright if ``inverted``.

    Values that are not finite are black, and so is an image of one value.
    """
    if values.dtype.kind == "u" and values.itemsize <= 2:  # every level once instead of every pixel
        low = int(values.min())
        levels = np.arange(low, int(values.max()) + 1, dtype=np.float64)
        return spread_range(levels, inverted)[values - values.dtype.type(low)]
    values = values.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.any() or np.ptp(values[finite]) == 0:
        return np.zeros(values.shape, np.uint8)
    low, high = values[finite].min(), values[finite].max()
    return eight_bits((values - low) / (high - low), inverted)


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
