"""The sandbox as a process of its own.

python -m tests.sandbox --port 9000        the three providers on one port, until Ctrl-C
python -m tests.sandbox run --port 9000    the same, and the whole service against them, with data of its own
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading

from tests.sandbox import gemini, openai, turbotext
from tests.sandbox.journal import Journal
from tests.sandbox.wire import WireSandbox

PORT = 9000
ACCOUNTS = {
    "gemini": ("/gemini", gemini.KEY),
    "openai": ("/openai/v1", openai.KEY),
    "turbotext": ("/turbotext", turbotext.KEY),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.sandbox", description=__doc__.partition("\n")[0])
    parser.add_argument("what", nargs="?", choices=["run"], help="also run the service against it")
    parser.add_argument("--port", type=int, default=PORT, help=f"of the sandbox; default {PORT}, 0: any that is free")
    options = parser.parse_args()
    try:
        sandbox = WireSandbox([gemini.Gemini, openai.OpenAI, turbotext.TurbotextSpeaker, Journal], options.port)
    except OSError as error:
        sys.exit(f"Port {options.port} cannot be used: {error.strerror}. Name another with --port.")
    with sandbox.run():
        variables = environment(sandbox.url)
        print_addresses(sandbox.url, variables)
        if options.what == "run":
            serve(variables)
        else:
            wait()


def environment(url: str) -> dict[str, str]:
    """The service's environment variables: addresses and keys."""
    variables: dict[str, str] = {}
    for provider, (path, key) in ACCOUNTS.items():
        variables |= {f"{provider.upper()}_BASE_URL": url + path, f"{provider.upper()}_API_KEY": key}
    return variables


def print_addresses(url: str, variables: dict[str, str]) -> None:
    lines = ["The sandbox of the paid providers is running. Ctrl-C stops it."]
    lines += [f"  {name}={value}" for name, value in variables.items()]
    lines += [f"  journal: {url}/journal", "A prompt with [[overloaded]] or another scenario in it plays that."]
    print("\n".join(lines), flush=True)  # noqa: T201 - the output of the process


def wait() -> None:
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()


def serve(variables: dict[str, str]) -> None:
    os.environ |= variables | {"DJANGO_SETTINGS_MODULE": "tests.sandbox.settings"}
    # Ctrl-C must leave no database running, not even during the start.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    import django  # noqa: PLC0415 - its settings are known only now

    django.setup()
    from tests.sandbox.service import run  # noqa: PLC0415

    try:
        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
