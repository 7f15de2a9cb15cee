"""All benchmarks that this machine allows within fifteen minutes: each figure beside its target.

    python -m benchmarks [NAME ...] [--output benchmarks.json] [--against earlier.json]

A benchmark is a module here with `rows()`, which yields `Row`s, and `TAKES`, about how many seconds; it raises
`Unavailable` where the machine lacks something. Writes what was found as JSON, to compare revisions with `--against`. Exits
with 1 when a figure falls short of its target, or a benchmark fails, which ends no other.
"""

import argparse
import importlib
import json
import os
import platform
import sys
import time
import traceback
from pathlib import Path

import torch

from benchmarks.rows import Row, Unavailable

# The quickest first. `quality` is not among them: it heals for 42 minutes.
NAMES = ("saliency", "large", "pages", "scaling", "compact", "latency", "visitors", "rivals")
MOST_SECONDS = 15 * 60


def found_by(name: str, seconds_left: float) -> list[Row]:
    """The rows of one benchmark. Raises Unavailable where it lacks time or a part of the machine."""
    try:
        module = importlib.import_module(f"benchmarks.{name}")
    except ImportError as error:
        raise Unavailable(str(error)) from error
    if seconds_left < module.TAKES:
        raise Unavailable(f"it takes {module.TAKES} s, and {seconds_left:.0f} s are left")
    rows = []
    for row in module.rows():
        print(f"  {row.told()}", flush=True)
        rows.append(row)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"among {', '.join(NAMES)}; all by default")
    parser.add_argument("--output", type=Path, default=Path("benchmarks.json"))
    parser.add_argument("--against", type=Path, help="what an earlier revision wrote")
    options = parser.parse_args()
    earlier = json.loads(options.against.read_text(encoding="utf-8"))["rows"] if options.against else []
    before = {each["name"]: each["value"] for each in earlier}
    ends = time.monotonic() + MOST_SECONDS
    rows, failed = list[Row](), list[str]()
    for name in options.names or NAMES:
        print(f"{name}:", flush=True)
        try:
            rows += found_by(name, ends - time.monotonic())
        except Unavailable as reason:
            print(f"  left out: {reason}", flush=True)
        except Exception:  # whatever a benchmark comes upon
            failed.append(name)
            traceback.print_exc()
    if not options.names:
        print("quality:\n  left out: it takes 42 minutes, python -m benchmarks.quality runs it")
    machine = {"system": platform.platform(), "cores": os.cpu_count(), "torch": torch.__version__}
    told = {"machine": machine, "rows": [row.as_json() for row in rows]}
    options.output.write_text(json.dumps(told, indent=1), encoding="utf-8")
    print()
    for row in rows:
        print(row.told(before.get(row.name)))
    for name in failed:
        print(f"{name} failed: its error stands above")
    return int(bool(failed) or any(row.holds is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
