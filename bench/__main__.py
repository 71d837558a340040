"""`python -m bench`: starts everything, measures, and prints the results beside their targets."""

from __future__ import annotations

import argparse
import atexit
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import django

ROOT = Path(tempfile.mkdtemp(prefix="photoslot-bench-"))
atexit.register(shutil.rmtree, ROOT, ignore_errors=True)
os.environ |= {"DJANGO_SETTINGS_MODULE": "bench.settings", "BENCH_ROOT": str(ROOT)}
django.setup()

from bench import api, providers, scenarios, service  # noqa: E402 - only once Django is set up
from bench.scenarios import Line, Options  # noqa: E402
from photoslot.embedded_postgres import EmbeddedPostgresError  # noqa: E402

FULL = Options(rounds=3, photos=10, held=300, jobs=2000, seeded=1_000_000, requests=60)
QUICK = Options(rounds=1, photos=8, held=100, jobs=600, seeded=100_000, requests=30)
ALL = scenarios.SCENARIOS | providers.SCENARIOS | api.SCENARIOS
VERDICTS = {True: "reached", False: "missed", None: ""}


def main() -> int:
    arguments = _parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing is left running
    base = QUICK if arguments.quick else FULL
    options = replace(base, held=arguments.booths or base.held)
    names = arguments.only or list(arguments.scenarios)
    if names != list(api.SCENARIOS):  # these have a table of their own
        print(
            f"Photo {scenarios.PHOTO_BYTES / 1e6:.2f} MB, {os.cpu_count()} cores; beside a floor: provider "
            f"{scenarios.LATENCY} s, {options.rounds} rounds of floor and service in turn."
        )
        _print(Line("", "floor", "ours", "target"))
    try:
        with service.create_database(), service.run_fakes():
            return _measure(names, options)
    except (service.BenchError, EmbeddedPostgresError) as error:
        print(f"The bench could not start: {error}", file=sys.stderr)
        return 1


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one short round, 100 booths held, 600 jobs, a tenth of the API's rows: a first impression",
    )
    parser.add_argument("--only", action="append", choices=ALL, metavar="NAME", help=", ".join(ALL))
    others = parser.add_mutually_exclusive_group()
    others.set_defaults(scenarios=scenarios.SCENARIOS)
    for name, instead in (("providers", providers.SCENARIOS), ("api", api.SCENARIOS)):
        text = f"the scenarios of {name} instead"
        others.add_argument(f"--{name}", action="store_const", dest="scenarios", const=instead, help=text)
    parser.add_argument("--booths", type=int, help="how many booths are held at once (1000 takes a minute)")
    return parser.parse_args()


def _measure(names: list[str], options: Options) -> int:
    """Returns the exit code: a failed post is a failure, a missed target is not."""
    failures = 0
    for name in names:
        try:
            for line in ALL[name](options):
                _print(line)
        except service.BenchError as error:
            failures += 1
            print(f"{name} FAILED: {error}")
    return int(failures > 0)


def _print(line: Line) -> None:
    columns = f"{line.label:36}{line.floor:>10}{line.ours:>18}  {line.target:17}{VERDICTS[line.reached]:9}{line.note}"
    print(columns.rstrip(), flush=True)


sys.exit(main())
