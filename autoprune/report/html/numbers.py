"""Numbers -> the text in which readers meet them."""

from __future__ import annotations

import math

MINUS = "−"
NONE = "–"
_THOUSANDS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def figure(value: float, digits: int = 3) -> str:
    """Return a number with `digits` significant digits, without an exponent where that stays short."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else NONE
    if not 1e-4 <= abs(value) < 1e7:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{value:.{decimals}f}".replace("-", MINUS)


def signed(value: float, decimals: int = 1) -> str:
    """Return a change with its sign; a change that rounds to nothing has none."""
    text = f"{value:+.{decimals}f}"
    return (text[1:] if float(text) == 0 else text).replace("-", MINUS)


def signed_figure(value: float) -> str:
    """Return a change with its sign, to three significant digits."""
    return ("+" if value > 0 else "") + figure(value)


def amount(value: float, *, exact: bool = False) -> str:
    """Return a count in thousands, millions and so on: 174970 -> `175 k`, or `174.97 k` where exact."""
    for unit, letter in _THOUSANDS:
        if abs(value) >= 0.9995 * unit:
            return f"{value / unit:.10g} {letter}" if exact else f"{figure(value / unit)} {letter}"
    return f"{value:.0f}" if value == round(value) else figure(value)


def data_size(value: float) -> str:
    """Return bytes in decimal units: 704480 -> `704 kB`."""
    text = amount(value)
    return f"{text}B" if text[-1].isalpha() else f"{text} B"


def duration(seconds: float) -> str:
    """Return a time in the two largest units that fit."""
    whole = round(seconds)
    if whole < 60:
        return f"{figure(seconds)} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def about(value: float) -> str:
    """Return a factor as a headline has it: `4.1x`, `1.25x`."""
    return times(value) if value < 1.95 else f"{value:.1f}x"


def times(value: float) -> str:
    """Return a factor: `4.12x`."""
    if value >= 100:
        return f"{value:.0f}x"
    return f"{value:.1f}x" if value >= 9.95 else f"{value:.2f}x"
