"""Names of nodes and values in a graph."""


def fresh(name: str, taken: set[str]) -> str:
    """The name, or one like it, which is taken from now on."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def as_text(name: str) -> str:
    """A name as protobuf can write it: names in a file can be anything."""
    return name.encode("utf-8", "backslashreplace").decode()
