
def _copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A deep copy as PyTorch makes it, but for two things that go wrong there.

    The copy has a class of its own, because taking a mask off changes the class; and what an LSTM keeps of computed weights
    from its last call is computed anew, because it cannot be copied.
    """
    if id(module) in memo:
