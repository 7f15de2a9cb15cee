"""What a lesson consists of, the terms that all lessons share, and the works that they cite."""

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SOURCES = {
    "lstm": (
        "Hochreiter & Schmidhuber 1997, “Long short-term memory”, Neural Computation 9(8)",
        "https://doi.org/10.1162/neco.1997.9.8.1735",
    ),
    "forget": (
        "Gers, Schmidhuber & Cummins 2000, “Learning to forget: continual prediction with LSTM”, Neural Computation 12(10)",
        "https://doi.org/10.1162/089976600300015015",
    ),
    "iss": (
        "Wen et al. 2018, “Learning intrinsic sparse structures within long short-term memory”, ICLR",
        "https://arxiv.org/abs/1709.05027",
    ),
    "gates": (
        "Lobacheva, Chirkova, Markovich & Vetrov 2020, “Structured sparsification of gated recurrent neural networks”, AAAI",
        "https://arxiv.org/abs/1911.05585",
    ),
    "magnitude": (
        "See, Luong & Manning 2016, “Compression of neural machine translation models via pruning”, CoNLL",
        "https://arxiv.org/abs/1606.09274",
    ),
    "channels": (
        "He, Zhang & Sun 2017, “Channel pruning for accelerating very deep neural networks”, ICCV",
        "https://arxiv.org/abs/1707.06168",
    ),
    "distillation": (
        "Hinton, Vinyals & Dean 2015, “Distilling the knowledge in a neural network”",
        "https://arxiv.org/abs/1503.02531",
    ),
    "costs": (
        "Theis et al. 2018, “Faster gaze prediction with dense networks and Fisher pruning”",
        "https://arxiv.org/abs/1801.05787",
    ),
    "torch": (
        "PyTorch documentation of nn.LSTM",
        "https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html",
    ),
    "forum": (
        "“Shape of LSTM variables”, a question in the PyTorch forum",
        "https://discuss.pytorch.org/t/shape-of-lstm-variables/15619",
    ),
    "cleanrl": (
        "“LSTM weights should have separate orthogonal initializations for each gate”, CleanRL, issue 358",
        "https://github.com/vwxyzjn/cleanrl/issues/358",
    ),
    "upstream": (
        "LSTMSaliencyPruner in torch.ao.pruning",
        "https://github.com/pytorch/pytorch/blob/main/torch/ao/pruning/_experimental/pruner/lstm_saliency_pruner.py",
    ),
}


@dataclass(frozen=True)
class Answer:
    """One choice of a check question, and what there is to say about it."""

    text: str
    right: bool
    why: str


@dataclass(frozen=True)
class Lesson:
    """The fixed part of a lesson; what is seen and what to notice is measured by the module of the same name."""

    name: str
    title: str
    question: str
    introduction: str
    code: tuple[Callable[..., Any], ...]
    check: str
    answers: tuple[Answer, ...]
    terms: tuple[str, ...]  # explained here
    sources: tuple[str, ...]
    example: str = "embedded-reber"  # the model that is shown


TERMS = {
    "hidden unit": "One number of an LSTM’s hidden state, with its own cell state, four gates and eight rows of weights.",
    "gate": "One of the four values that a hidden unit computes at every step: input i, forget f, cell g and output o.",
    "cell state": "What a hidden unit remembers: one number, kept by its forget gate, changed by its input and cell gates.",
    "row": "The weights with which one gate of one hidden unit reads the input, or the hidden state of the step before.",
    "saliency": "A number that says how much something matters. Here of a row: the sum of its absolute weights.",
    "sparsity": "The share that is dropped, from 0 (nothing) to 1 (everything).",
    "mask": "One yes or no for every row: kept, or dropped. The weights of a dropped row count as zero.",
    "granularity": "What is dropped as one piece: single rows, each gate choosing its own, or whole hidden units.",
    "compact": "A model without what its mask drops: smaller tensors that compute what the masked model computes.",
    "drift": "How far the outputs of a model moved: the size of the change relative to the size of the output.",
    "compensation": "Changing the weights that stay, so that they take over what the dropped ones did.",
    "healing": "Training a pruned model to answer as the whole one does, from inputs without labels.",
}


def source_of(function: Callable[..., Any]) -> str:
    """The lines of a function as they stand in the library, without its docstring."""
    text = textwrap.dedent(inspect.getsource(function))
    body = ast.parse(text).body[0]
    assert isinstance(body, ast.FunctionDef)  # noqa: S101 - lessons show functions
    lines = text.splitlines()
    if ast.get_docstring(body) is not None:
        first = body.body[0]
        del lines[first.lineno - 1 : first.end_lineno]
    return "\n".join(lines).strip()
