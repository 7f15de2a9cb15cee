"""What one server gives to its visitors, all of it in one place; each number may be set by the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache

from pruner.errors import PrunerError, shown

PREFIX = "PRUNER_"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Limits:
    """The limits of a server. `PRUNER_WORKERS=4` in the environment sets `workers`, and so on with all of them.

    Of uploads and messages Streamlit has limits of its own, `server.maxUploadSize` and `server.maxMessageSize`.
    """

    workers: int = CORES
    jobs_a_visitor: int = 4  # that wait or compute at once
    models_a_visitor: int = 10  # that are kept, each with what was made of it
    models: int = 100  # of all visitors
    model_megabytes: int = 2048  # of the files of all these
    inputs_megabytes: int = 200  # of a file of inputs
    idle_seconds: int = 3600  # without use, after which a model is forgotten and what runs for it is stopped


def limits_of(environment: Mapping[str, str]) -> Limits:
    """The limits that an environment sets, and the usual ones. Raises PrunerError for what is no number from 1 on."""
    found: dict[str, int] = {}
    for field in fields(Limits):
        name = f"{PREFIX}{field.name.upper()}"
        if name in environment:
            told = environment[name].strip()
            if not told.isdecimal() or int(told) < 1:
                raise PrunerError(f"expected a whole number from 1 on in {name}, found {shown(told)}; set it anew")
            found[field.name] = int(told)
    return Limits(**found)


@cache
def limits() -> Limits:
    """Those of this server."""
    return limits_of(os.environ)
