"""Parts of a page that are made anew by themselves, and change what all of it shows."""

from pruner.dashboard.again import make_anew
from pruner.dashboard.session import session


def ask_for_all() -> None:
    """Have the whole page made anew by the part of it whose callback asks; the callback itself could not draw before."""
    session.asked_for_all = True


def heed() -> None:
    """Make the whole page anew if this part of it has been asked to."""
    if session.asked_for_all:
        session.asked_for_all = False
        make_anew()


def all_is_made() -> None:
    """What all of the page was asked for is answered by this run of it."""
    session.asked_for_all = False
