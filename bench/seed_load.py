"""`python -m bench.seed_load`: fills an empty database with invented slots, jobs, log and counters, to see how the
service behaves when it is full. It refuses a database that has jobs. Nothing removes the rows again: use a database
that you can drop."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext

import django


def main(arguments: Sequence[str] | None = None) -> int:
    from django.conf import settings

    from bench.seed import InUseError, seed

    parser = argparse.ArgumentParser(prog="python -m bench.seed_load", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000, help="each with ten rows of the log; default 1000000")
    parser.add_argument("--days", type=int, default=90, help="over which they came in, until now; default 90")
    options = parser.parse_args(arguments)
    if options.jobs < 1 or options.days < 1:
        parser.error("At least one job, and one day.")
    try:
        with settings.EMBEDDED_POSTGRES or nullcontext():
            seed(options.jobs, options.days, print)
    except InUseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "photoslot.settings")
    django.setup()
    sys.exit(main())
