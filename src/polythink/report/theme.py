"""The colours of a report, light and dark: CSS variables, so that page and charts follow the reader's system.

`var("#24292f")` is `var(--ink, #24292f)`: the light value still holds where an SVG stands alone, without the page.
"""

from __future__ import annotations

import re

# name -> (light, dark). Text has a contrast of at least 4.5 to the grounds, lines and marks of at least 3 (tested).
COLOURS = {
    "ink": ("#24292f", "#e6e9ed"),
    "soft": ("#5f6873", "#a3acb8"),
    "strong": ("#4b5563", "#c3cad3"),
    "rule": ("#b6bcc6", "#5b6572"),
    "line": ("#e5e7eb", "#2d343d"),
    "grid": ("#e8eaee", "#2f363f"),
    "ground": ("#ffffff", "#14181d"),
    "panel": ("#f6f7f9", "#1d2229"),
    "card": ("#ffffff", "#181d23"),
    "problem": ("#eef1f4", "#262d36"),
    "shade": ("#f3efe3", "#2b281e"),
    "right": ("#22663f", "#6fcf97"),
    "right-ground": ("#e2f2e8", "#17301f"),
    "wrong": ("#95302a", "#f2938b"),
    "wrong-ground": ("#f9e5e3", "#3a1c1a"),
    "warning": ("#7a4f00", "#f0c36a"),
    "warning-ground": ("#fdf0d5", "#352a12"),
    "series-1": ("#2f6db3", "#6aa9ec"),
    "series-2": ("#c4631d", "#ee9a5b"),
    "series-3": ("#328262", "#63c39b"),
    "series-4": ("#8a5fb0", "#bd97e0"),
    "series-5": ("#b8434e", "#ee8088"),
    "series-6": ("#6f7782", "#a7b0bb"),
}
TEXT = ("ink", "soft", "strong", "right", "wrong", "warning")
GROUNDS = ("ground", "panel", "card", "problem")
BADGES = ("right", "wrong", "warning")  # text on a ground of its own
SERIES = tuple(light for name, (light, _) in COLOURS.items() if name.startswith("series"))
_NAMES = {light: name for name, (light, _) in reversed(COLOURS.items())}


def var(light: str) -> str:
    """A colour of the table as a CSS variable; any other colour as it is."""
    return f"var(--{_NAMES[light]}, {light})" if light in _NAMES else light


def with_variables(svg: str) -> str:
    """The SVG with the colours of the table as CSS variables."""
    return re.sub(r"#[0-9a-f]{6}\b", lambda found: var(found[0]), svg)


def theme_css() -> str:
    light, dark = (" ".join(f"--{name}: {pair[i]};" for name, pair in COLOURS.items()) for i in (0, 1))
    return (
        f":root {{ color-scheme: light dark; {light} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
    )
