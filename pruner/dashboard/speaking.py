"""The open example and what was pruned of it speak side by side, with the same dice; each is made to in a thread."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import streamlit as st
from torch import Tensor

from pruner import examples
from pruner.compact.masked_and_compact import Pruned
from pruner.dashboard import judging
from pruner.dashboard.again import make_anew
from pruner.dashboard.jobs import Job
from pruner.dashboard.session import Session, session
from pruner.dashboard.text import plain
from pruner.examples.speaking import SEED, TEMPERATURE, Line, Speech
from pruner.files.checkpoint import Checkpoint
from pruner.lstm.measure import Modules, one_thread
from pruner.lstm.module import build
from pruner.progress import Progress
from pruner.result import Result

EVERY = 0.1  # seconds between two looks at who still speaks
MOST_REMEMBERED = 8  # speeches that are not shown
LONGEST_PROMPT = 80  # characters
TALL = 220  # pixels: as much as the longest speech, so that nothing below moves meanwhile
PRUNED = {"none": "Pruned", "fold": "Pruned and compensated", "heal": "Pruned and healed"}


@dataclass(frozen=True)
class Voice:
    """One that speaks: by what `key` it is remembered, what it is `called`, and how its tensors and LSTMs are made."""

    key: str
    called: str
    made: Callable[[Progress], tuple[Mapping[str, Tensor], Modules]]


def of_dense(checkpoint: Checkpoint) -> Voice:
    """The model as it was opened."""
    return Voice(
        f"{checkpoint.sha256} dense",
        "Dense",
        lambda _: (checkpoint.tensors, {lstm.name: build(lstm, checkpoint.tensors) for lstm in checkpoint.lstms}),
    )


def of_result(result: Result) -> Voice:
    """What a run or shrinking made. As long as it is remembered, so is the result, and no other has its id."""
    return Voice(f"result {id(result)}", PRUNED[result.recipe.compensation], lambda _: _masked(result.pruned))


def of_preview(asked: judging.Asked, result: Result | None) -> Voice:
    """What is previewed and judged, folded where it is to be healed; or the result of that very recipe, if there is one."""
    if result is not None and result.checkpoint is asked.checkpoint and result.recipe == asked.recipe:
        return of_result(result)
    healing = asked.recipe.compensation == "heal"
    called = f"{PRUNED['fold']}, before healing" if healing else PRUNED[asked.recipe.compensation]
    return Voice(asked.key, called, lambda progress: _masked(judging.previewed(asked, progress)))


def _masked(pruned: Pruned) -> tuple[Mapping[str, Tensor], Modules]:
    return pruned.tensors(), pruned.modules("masked")


def show(checkpoint: Checkpoint, pruned: Voice, waits: bool = False) -> None:
    """What both say, if the model is an example: no other is known to speak. The pruned one holds its tongue while there is
    something to wait for first."""
    example = examples.example_of(checkpoint)
    if example is None:
        return
    st.subheader("The model speaks")
    prompt = _prompt(example.speech)
    voices = of_dense(checkpoint), pruned
    _begin(example.speech, prompt, voices[:1] if waits else voices)
    jobs = [session.spoken.get(_key(voice, prompt)) for voice in voices]
    speaking = any(job is not None and job.status.state == "running" for job in jobs)

    def listen() -> None:
        for place, voice, job in zip(st.columns(2), voices, jobs, strict=True):
            with place:
                _hear(voice, job, example.speech)
        if speaking and all(job is None or job.status.state in ("done", "failed") for job in jobs):
            make_anew()

    st.fragment(listen, run_every=EVERY if speaking else None)()


def hush(but: Collection[str] = ()) -> None:
    """Stop all who still speak, `but` some: what they say is out of date. Those who are wanted begin anew later."""
    remembered = dict[str, Job[list[Line]]]()
    for key, job in session.spoken.items():
        if key in but or job.status.state == "done":
            remembered[key] = job
        else:
            job.cancel()
    session.spoken = remembered


def _prompt(speech: Speech) -> str:
    """What is to be gone on from, where the model does that; and by what rule both speak."""
    same = f"with the same dice (seed {SEED}), at temperature {TEMPERATURE}, which favours what is likely."
    if speech.prompt is None:
        st.caption(f"Both spell strings {same} Symbols that the grammar does not allow there are struck out.")
        return ""
    st.text_input("Prompt", key=Session.prompt.key, max_chars=LONGEST_PROMPT, persist_state="session")
    st.caption(f"Both go on from the prompt {same}")
    return session.prompt


def _key(voice: Voice, prompt: str) -> str:
    return f"{voice.key} {prompt}"


def _begin(speech: Speech, prompt: str, voices: Sequence[Voice]) -> None:
    """Let those speak who have not yet; stop all others who still do."""
    wanted = {_key(voice, prompt): voice for voice in voices}
    hush(wanted)
    newest = {key: session.spoken.get(key) or _started(speech, prompt, voice) for key, voice in wanted.items()}
    others = [(key, job) for key, job in session.spoken.items() if key not in wanted]
    session.spoken = dict(others[-MOST_REMEMBERED:]) | newest


def _started(speech: Speech, prompt: str, voice: Voice) -> Job[list[Line]]:
    def speak(progress: Progress) -> list[Line]:
        with one_thread():
            return speech.speak(*voice.made(progress), prompt, progress)

    return Job(speak)


def _hear(voice: Voice, job: Job[list[Line]] | None, speech: Speech) -> None:
    """What one says, under its name."""
    status = job.status if job else None
    lines = status.result if status else None
    count = f": {sum(line.right for line in lines)} of {len(lines)} right" if lines and speech.prompt is None else ""
    st.markdown(f"**{voice.called}**{count}")
    if status is not None and status.error:
        st.caption(plain(status.error))
    elif speech.prompt is not None:
        st.code(lines[0].text if lines else "…", language=None, wrap_lines=True, height=TALL)
    else:
        st.markdown("  \n".join(map(_marked, lines)) if lines else "…")


def _marked(line: Line) -> str:
    """A string with a sign in front, and its wrong symbols struck out in red: a sign for eyes that tell no colours apart."""
    symbols = (f":red[~~**{symbol}**~~]" if at in line.wrong else symbol for at, symbol in enumerate(line.text))
    sign = ":green[:material/check:]" if line.right else ":red[:material/close:]"
    return f"{sign}\N{NO-BREAK SPACE}{''.join(symbols)}" + ("" if line.ended else " … (no end)")
