"""Numbers, times and amounts as a reader wants them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from math import isfinite

from finetune_trainer import metrics

NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
THIN = "\N{NARROW NO-BREAK SPACE}"


def value(number: object) -> str:
    """A number with four digits that count; a dash for None."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        return NOTHING if number is None else str(number)
    if not isfinite(number):
        return "not finite"
    if isinstance(number, int) or abs(number) >= 10000:
        return f"{number:,.0f}".replace("-", MINUS)
    if number and abs(number) < 1e-3:
        return f"{number:.2e}".replace("-", MINUS)
    return f"{number:.4g}".replace("-", MINUS)


def change(number: float) -> str:
    """A difference with its sign."""
    return ("+" if number > 0 else "") + value(float(f"{number:.3g}"))


def percent(share: object, digits: int = 1) -> str:
    """A share of 1 in percent; small ones keep their digits."""
    if not isinstance(share, int | float) or isinstance(share, bool):
        return NOTHING
    text = f"{100 * share:.{digits}f}" if abs(share) >= 0.1 or share == 0 else f"{100 * share:.2g}"
    return f"{text}{THIN}%".replace("-", MINUS)


def perplexity(loss: float) -> str:
    """The perplexity of a loss in nats."""
    return value(metrics.perplexity(loss))


def amount(count: float) -> str:
    """A large count, shortened: 12.3 M."""
    for unit in ("", "k", "M", "G"):
        if abs(count) < 1000:
            return f"{count:.3g}{THIN}{unit}" if unit else value(round(count) if count >= 100 else count)
        count /= 1000
    return f"{count:,.3g}{THIN}T"


def size(count: float) -> str:
    """Bytes with a decimal unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g}{THIN}{unit}"
        count /= 1000
    return f"{count:,.3g}{THIN}TB"


def duration(seconds: float) -> str:
    """A time in its two largest units: 2 d 3 h, 1 h 5 min, 12 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next((place for place, (number, _) in enumerate(parts) if number), len(parts) - 1)
    return " ".join(f"{number}{THIN}{unit}" for number, unit in parts[first : first + 2] if number) or f"0{THIN}s"


def spaced(name: str) -> str:
    """A name in camelCase as words: `exactMatch` is exact match, `macroF1` is macro F1."""
    spaced = re.sub(r"(?<=[a-z0-9])([A-Z])(?=[a-z])", lambda found: f" {found[1].lower()}", name)
    return re.sub(r"(?<=[a-z])([A-Z])", r" \1", spaced)


def moment(seconds: float) -> str:
    """Unix time to the minute."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
