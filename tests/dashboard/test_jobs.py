"""Long work: how far it is, how it ends, and what a page says of it."""

import time

import pytest
from streamlit.testing.v1 import AppTest

from pruner.dashboard.jobs import Job
from tests.helpers.pages import button, checked, click, endless, failing, go, wait


def test_a_job_tells_how_far_it_is() -> None:
    job = Job(endless)
    while job.status.fraction == 0:
        time.sleep(0.01)
    assert (job.status.state, job.status.fraction, job.status.what) == ("running", 0.5, "working")
    job.cancel()
    assert wait(job).status.state == "cancelled"


def test_a_run_can_be_cancelled_from_its_page(example: AppTest) -> None:
    example.session_state.run = Job(endless)
    example = go(example, "run")
    assert button(example, "Run").disabled
    button(example, "Cancel").click()
    example.run()
    wait(example.session_state.run)
    assert "cancelled" in checked(example.run()).info[0].value


def test_opening_another_model_ends_a_run(example: AppTest) -> None:
    example = go(example, "run")
    job = example.session_state.run = Job(endless)
    click(go(example, "open"), "open_pydocs-chars")
    assert wait(job).status.state == "cancelled"


def test_a_run_that_fails_says_why(example: AppTest) -> None:
    example.session_state.run = wait(Job(failing))
    assert go(example, "run").error[0].value == "expected \\*more\\*"


@pytest.mark.parametrize(
    ("page", "key"), [("calibrate", "calibrating"), ("experiments", "sweep"), ("sensitivity", "sensitivity")]
)
def test_long_work_can_be_cancelled_and_fails_with_a_sentence(example: AppTest, page: str, key: str) -> None:
    example.session_state[key] = Job(endless)
    example = go(example, page)
    button(example, "Cancel").click()
    example.run()
    wait(example.session_state[key])
    assert "cancelled" in checked(example.run()).info[-1].value
    example.session_state[key] = wait(Job(failing))
    assert checked(example.run()).error[0].value == "expected \\*more\\*"


def test_a_fault_that_nobody_foresaw_ends_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threading.excepthook", lambda *_: None)
    assert "fault" in wait(Job(lambda progress: {}["nothing"])).status.error
