"""What a number may be: one place for the settings of recipes, the options of commands and the weights of terms."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from concepts_cli.errors import UcdError, shown, text_of

MOST = 10**9  # of any number that has no limit of its own
WEIGHT = {"at_least": -1000, "at_most": 1000}  # of a term in a composition
SCORE = {"at_least": -1000, "at_most": 1000}  # a similarity or a logit
NAMES = {int: "a whole number", float: "a number"}


def parse_number(kind: type, text: str, rules: Mapping[str, Any]) -> Any:
    """The `int` or `float` that a text is; None if it is neither, not finite, or outside the limits of `rules`.

    Rules are `at_least`, `above`, `at_most` and `below`; where there is none, -MOST and MOST are the limits.
    """
    if kind is int:
        number: int | float = int(text) if re.fullmatch(r"[-+]?[0-9]{1,18}", text.strip()) else math.nan
    else:
        try:
            number = float(text)
        except ValueError:
            return None
    lower, upper = _limits(rules)
    above_lower = number > lower if "above" in rules else number >= lower
    below_upper = number < upper if "below" in rules else number <= upper
    return number if above_lower and below_upper else None  # nan is neither


def number_words(kind: type, rules: Mapping[str, Any]) -> str:
    """What `parse_number` takes: 'a whole number from 1 to 1,000', 'a number above 0 and at most 1,000'."""
    lower, upper = (f"{limit:,}" for limit in _limits(rules))
    if not {"above", "below"}.intersection(rules):
        return f"{NAMES[kind]} from {lower} to {upper}"
    least = "above" if "above" in rules else "of at least"
    return f"{NAMES[kind]} {least} {lower} and {'below' if 'below' in rules else 'at most'} {upper}"


def check_number(name: str, value: Any, rules: Mapping[str, Any], kind: type = float) -> Any:
    """The value as a number within the limits. Raises UcdError that names it."""
    number = parse_number(kind, text_of(value), rules)
    if number is None:
        raise UcdError(f"{name}: got {shown(value)}, expected {number_words(kind, rules)}")
    return number


def _limits(rules: Mapping[str, Any]) -> tuple[Any, Any]:
    lower = rules.get("above", rules.get("at_least", -MOST))
    return lower, rules.get("below", rules.get("at_most", MOST))
