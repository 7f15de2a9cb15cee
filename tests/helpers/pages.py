"""The dashboard in process: pages that are opened, worked on and read through `app.py`."""

import base64
import json
import time
from typing import Any

import numpy as np
import pytest
from streamlit.components.v2.bidi_component.main import _make_trigger_id
from streamlit.proto.WidgetStates_pb2 import WidgetState, WidgetStates
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Button

from pruner import PrunerError
from pruner.dashboard.jobs import Job
from tests.helpers.project import PROJECT

STUDIO = [  # in the order of the journey, after the page that opens a model
    "shrink",
    "overview",
    "saliency",
    "unit",
    "weights",
    "calibrate",
    "masks",
    "run",
    "experiments",
    "export",
]
LEARN = [  # in the order of the lessons, after the page that lists them
    "learn",
    "lesson_cell",
    "lesson_packed",
    "lesson_saliency",
    "lesson_gates",
    "lesson_steps",
    "lesson_frozen",
    "lesson_smaller",
    "lesson_repair",
    "lesson_healing",
]
CONSUMERS = {"consumers": ("linear.weight",), "task": "softmax"}  # of the small example
UNITS = {"example": "embedded-reber", "granularity": "units", "sparsity": "0.5", "round_to": "1"}  # as a link


def new_app() -> AppTest:
    return AppTest.from_file(str(PROJECT / "app.py"), default_timeout=120)


def checked(app: AppTest) -> AppTest:
    assert not app.exception, app.exception[0].stack_trace
    return app


def go(app: AppTest, page: str) -> AppTest:
    """To another page, as a browser goes there: it no longer tells of the widgets of the page that it left."""
    return checked(app.switch_page(f"pages/{page}.py")._run(WidgetStates()))


def click(app: AppTest, key: str) -> AppTest:
    """Click the button with a key."""
    app.button(key=key).click()
    return checked(app.run())


def button(app: AppTest, label: str) -> Button:
    return next(each for each in app.button if each.label == label)


def press(app: AppTest, label: str) -> AppTest:
    """Click the button with a label."""
    button(app, label).click()
    return checked(app.run())


def set_to(app: AppTest, **values: Any) -> AppTest:
    """Set values of the session."""
    for key, value in values.items():
        app.session_state[key] = value
    return checked(app.run())


def choose(app: AppTest, label: str, value: str) -> AppTest:
    """Choose one of the segments of the control with a label."""
    control = next(each for each in app.get("button_group") if each.label == label)
    control.set_value(value)
    return checked(app.run())


def select_row(app: AppTest, table: str, row: int) -> AppTest:
    """Select a row of the table with a key."""
    return set_to(app, **{table: {"selection": {"rows": [row], "columns": [], "cells": []}}})


def click_line(app: AppTest, button: str, line: int) -> AppTest:
    """Click the button of a line of a table; `button` is the key of the column of buttons."""
    ids = [each for table in app.dataframe for each in table.proto.button_click_widgets.values()]
    states = app._tree.get_widget_states()
    clicked = WidgetState(id=next(each for each in ids if each.endswith(f"-{button}")))
    clicked.string_trigger_value.data = json.dumps({"row": line, "label": ""})
    states.widgets.append(clicked)
    return checked(app._run(states))


def slide(app: AppTest, edition: int | None = None, **moved: Any) -> AppTest:
    """Move sliders of the page Masks, `overall`, `layers` or `gates`, as the browser tells it once they rest."""
    grids, stands = canvases(app)[-1].id, standing(app)
    told = {**stands, **moved, "edition": edition or said(app)["edition"], "rests": True}
    states = app._tree.get_widget_states()
    events = json.dumps([{"event": "move", "value": told}])
    states.widgets.append(WidgetState(id=_make_trigger_id(grids, "events"), json_trigger_value=events))
    return checked(app._run(states))


def said(app: AppTest) -> dict[str, Any]:
    """What the page Masks tells its sliders, to be taken up if the edition is new: overall, layers, gates, edition."""
    return sent_to_the_canvas(app)[0]["sliders"]["said"]


def standing(app: AppTest) -> dict[str, Any]:
    """Where the sliders of the page Masks stand in the browser."""
    return app.session_state.shown.told()


def upload(app: AppTest, name: str, data: bytes, which: int = 0) -> AppTest:
    app.file_uploader[which].upload(name, data)
    return checked(app.run())


def work(app: AppTest, label: str, job: str) -> AppTest:
    """Start the work of a page and wait for its end."""
    button(app, label).click()
    app.run()
    wait(app.session_state[job])
    return checked(app.run())


def run_to_the_end(app: AppTest) -> AppTest:
    return work(go(app, "run"), "Run", "run")


def wait(job: Job[Any]) -> Job[Any]:
    deadline = time.monotonic() + 300  # on a busy machine
    while job.status.state == "running":
        assert time.monotonic() < deadline, "the job does not end"
        time.sleep(0.01)
    return job


def compute_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let heavy work run in the threads of this process, where what is patched is seen."""
    monkeypatch.setattr("pruner.dashboard.queueing.CAN_FORK", False)


def endless(progress: Any) -> Any:
    """Work that goes on until it is cancelled."""
    while True:
        progress(0.5, "working")
        time.sleep(0.01)


def failing(progress: Any) -> Any:
    raise PrunerError("expected *more*")


def metrics(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def texts(app: AppTest) -> str:
    """All words of a page that are not of a special kind."""
    return "\n".join(element.value for element in [*app.markdown, *app.caption])


def figure_of(app: AppTest, index: int = 0) -> dict[str, Any]:
    """One of the figures of a page as Plotly gets it."""
    return json.loads(app.get("plotly_chart")[index].proto.spec)


def numbers_of(values: Any) -> list[float]:
    """The numbers of a figure's array, which Plotly sends packed."""
    if isinstance(values, dict):
        return np.frombuffer(base64.b64decode(values["bdata"]), dtype=values["dtype"]).ravel().tolist()
    return np.asarray(values, dtype=float).ravel().tolist()


def canvases(app: AppTest) -> list[Any]:
    """The messages to the canvases of a page; no other component is sent bytes."""
    return [each.proto for each in app.get("bidi_component") if each.proto.bytes]


def sent_to_the_canvas(app: AppTest, which: int = -1) -> tuple[dict[str, Any], bytes]:
    """Header and arrays of the message to the gate canvas, which stands after the sliders of parts where there are any."""
    data = canvases(app)[which].bytes
    length = int.from_bytes(data[:4], "little")
    return json.loads(data[4 : 4 + length]), data[4 + length :]
