"""`python -m pruner`: the command line."""

import sys

from pruner.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
