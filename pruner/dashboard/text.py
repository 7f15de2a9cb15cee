"""Words from files, shown as they are."""

import re


def plain(text: str) -> str:
    """Escape what Markdown would take for formatting: a file may hold any name, links and pictures included."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)
