"""The service with one of its guards removed, to see the damage that the guard prevents.

python -m tests.faults.unguarded "claim token" -- manage.py run_workers

`GUARDS` says where each guard stands in the code, as text: one that has moved fails loudly, or its test would prove
nothing. A test takes `with_and_without(guard)` and expects the damage where `without` names it.
"""

from __future__ import annotations

import inspect
import os
import runpy
import sys
import textwrap
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple


class Cut(NamedTuple):
    """Replaces `old` in a statement, or in the source of a function or method: `module:name` or `module:Class.name`."""

    place: str
    old: str
    new: str = ""


_STATEMENTS = "jobs.queue.statements:"
_JOB_RUN = "jobs.worker.job_run:JobRun."
GUARDS: dict[str, list[Cut]] = {
    "claim token": [Cut(_STATEMENTS + name, "AND claim_token = %(token)s ") for name in ("SUCCEED", "FAIL")],
    "final once": [
        Cut(_STATEMENTS + "SUCCEED", "AND NOT is_finalized"),
        Cut(_STATEMENTS + "EXPIRE", "AND NOT is_finalized"),
    ],
    "lease": [Cut(_STATEMENTS + "CLAIM", "lease_expires_at < clock_timestamp()", "true")],
    "provider's reference": [Cut(_STATEMENTS + "STORE_PROVIDER_REFERENCE", "NOT is_finalized", "false")],
    "earlier calls": [Cut(_STATEMENTS + "GET_EARLIER_CALLS", "job_id = ANY(%s)", "job_id = ANY(%s) AND false")],
    "joining": [Cut(_STATEMENTS + "ADMIT", "WHERE payload_digest =", "WHERE false AND payload_digest =")],
    "slot's copy": [
        Cut(
            _STATEMENTS + "CLAIM",
            "operation_id, settings_json, template_media",
            "operation_id, (SELECT settings_json FROM slots_slot WHERE id = slot_id) AS settings_json, template_media",
        )
    ],
    "waiting for the database": [
        Cut(
            "jobs.worker.provider_run:RunContext.retry",
            "if self.deadline.seconds_left_with_overtime() <= DATABASE_RETRY_SECONDS:",
            "if True:",
        )
    ],
    "claim of a call": [
        Cut(
            _STATEMENTS + "BEGIN_CALL",
            "AND claim_token = %(token)s AND NOT is_finalized AND expires_at > clock_timestamp()",
        )
    ],
    "idempotency key": [Cut(_STATEMENTS + "BEGIN_CALL", "%(key)s", "gen_random_uuid()")],
    "earlier calls' outcomes": [
        Cut(_STATEMENTS + "GET_EARLIER_CALLS", "'made', 'late', "),
        Cut(_STATEMENTS + "GET_EARLIER_CALLS", "outcome = 'refused'", "false"),
    ],
    "lease of an open call": [Cut(_STATEMENTS + "CLAIM", "AND caller.lease_expires_at >= clock_timestamp()")],
    "end before leaving": [Cut(_JOB_RUN + "_finish", "await asyncio.shield(finishing)", "await finishing")],
    "end as our fault": [Cut(_JOB_RUN + "_store_and_finalize", "await self._finalize(failure)", "raise")],
    "storing again": [Cut(_JOB_RUN + "_try_to_store", "if time.monotonic() >= last_try:", "if True:")],
    "lost workers": [Cut(_JOB_RUN + "_run", "if self.claim.lost_claims >= MAX_LOST_CLAIMS:", "if False:")],
    "own late result": [Cut(_STATEMENTS + "HAS_RESULT", "WHERE", "WHERE false AND")],
    "deadline of a place": [
        Cut(
            "jobs.worker.provider_run:ProviderRun.back_off",
            "await deadline.bound(self._context.permit.reacquire(), deadline.seconds_left())",
            "await self._context.permit.reacquire()",
        )
    ],
    "step written once": [Cut("stats.journal:WRITE_STEP", "WHERE NOT EXISTS", "WHERE true OR NOT EXISTS")],
    "socket closed at the bound": [  # psycopg's own way
        Cut(
            "core.database:BoundedAsyncConnection.wait",
            "await waiting.wait_async(gen, self.pgconn.socket, interval=interval, timeout=timeout)",
            "await AsyncConnection.wait(self, gen, interval)",
        )
    ],
    "server's bounds": [Cut("core.database:LIMIT_SESSION", "WHERE", "WHERE false AND")],
    "checked connections": [Cut("core.database:is_alive", "return False", "return True")],
    "listener's probe": [Cut("jobs.queue.notify:Listener._listen", "raise NothingHeard", "continue")],
    "stray notifications": [Cut("jobs.queue.notify:parse_job_id", "return None", "raise")],
    "withdrawal": [
        Cut("ingest.withdrawal:withdraw_later", "_withdraw(queue, job, wait_seconds)", "asyncio.sleep(0)"),
    ],
    "share of an address": [
        Cut("photoslot.http_protocol:LimitedProtocol._is_trusted", "return any(", "return True or any(")
    ],
    "slow clients": [
        Cut("photoslot.http_protocol:LimitedProtocol._check_progress", "if self._is_too_slow():", "if False:")
    ],
    "room for booths": [Cut("photoslot.http_protocol:LimitedProtocol._make_room", "victim.transport.abort()", "pass")],
    "limit of guesses": [
        Cut("ingest.password:RESERVE_TRY", "WHERE old.count + (SELECT failures FROM earlier) < %(allowed)s")
    ],
    "pixels at once": [
        Cut("core.image_work:run", "if pixels > LARGE_PIXELS:", "if False:"),
        Cut("core.image_work:Budget.reserve", "min(amount, self._size)", "0"),
    ],
    "lock-out by address": [Cut("staff.login:_list_limits", "ip_address=address), settings", "), settings")],
    "address guard": [Cut("providers.address_guard:_check", "if not all(", "if False and not all(")],
    "signature of a link": [Cut("jobs.storage.links:parse_token", "_signer.unsign(token)", "token.partition(':')[0]")],
    "end of a link": [Cut("guests.views:_get_finished_job", "or job.result_expires_at <= job.now")],
    "slot's lock": [Cut(_STATEMENTS + "ADMIT", "FOR KEY SHARE")],
    "admission lock": [
        Cut("jobs.queue.verbs:Queue.admit", '"SELECT pg_advisory_xact_lock(%s)"', '"SELECT %s::bigint"'),
    ],
}


def remove(guard: str, set_attribute: Callable[[Any, str, Any], None] = setattr) -> None:
    """Removes the guard from this process. Tests pass `monkeypatch.setattr`."""
    for cut in GUARDS[guard]:
        module, _, path = cut.place.partition(":")
        owner: Any = import_module(module)
        *classes, name = path.split(".")
        for each in classes:
            owner = getattr(owner, each)
        found = getattr(owner, name)
        text = found if isinstance(found, str) else textwrap.dedent(inspect.getsource(found))
        if cut.old not in text:
            raise LookupError(f"The guard {guard!r} is no longer in {cut.place}: {cut.old!r}")
        changed: Any = text.replace(cut.old, cut.new)
        if not isinstance(found, str):
            namespace: dict[str, Any] = {}
            exec(compile(changed, cut.place, "exec"), vars(inspect.getmodule(found)), namespace)  # noqa: S102
            changed = namespace[name]
        set_attribute(owner, name, changed)


def main(guard: str, _: str, *command: str) -> None:
    import django  # noqa: PLC0415 - not when a test imports this

    sys.path.insert(0, os.getcwd())  # noqa: PTH109
    django.setup()
    remove(guard)
    if command[0] == "-m":
        sys.argv = [*command[1:]]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [*command]
        runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
