"""How quick the staff API is when the database is full (`make bench-api`): over HTTP, one request after the other, each
of another slot, job or time than those before, so that no report is one that was kept. Beside it, what Postgres read.

The database is that of `bench.seed`; who asks is a member of staff with all permissions, and no superuser, for
whom they would not be looked up.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import httpx
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from bench import seed, stage
from bench.booths import PASSWORD
from bench.scenarios import Line, Options, quantile
from jobs.models import Job
from photoslot.bootstrap import bootstrap
from slots.models import Slot

WARM_UP = 3  # requests: what is connected, imported and prepared late
LIST_MS, REPORT_MS, RESULTS_MS = 100.0, 50.0, 20.0


class Question(NamedTuple):
    """`address` has {slot}, {job} and {page} where another one is put in each time; {now} is an hour earlier each time,
    {month} and {quarter} are 31 and 90 days before it."""

    label: str
    address: str
    milliseconds: float | None = None  # p95 at most; None: only told


A_MONTH = "/api/stats/{slot}?from={month}&to={now}"
A_QUARTER = "/api/stats/global?from={quarter}&to={now}"
QUESTIONS = (
    Question("jobs, newest", "/api/jobs", LIST_MS),
    Question("  oldest", "/api/jobs?sort_order=asc", LIST_MS),
    Question("  page 100 of 100", "/api/jobs?page_size=100&page=100", LIST_MS),
    Question("  after any", "/api/jobs?after={job}", LIST_MS),
    Question("  by deadline", "/api/jobs?sort_by=expires_at", LIST_MS),
    Question("  by deadline, after any", "/api/jobs?sort_by=expires_at&after={job}", LIST_MS),
    Question("  pending", "/api/jobs?status=pending", LIST_MS),
    Question("  processing", "/api/jobs?status=processing", LIST_MS),
    Question("  finalized", "/api/jobs?is_finalized=true", LIST_MS),
    Question("  not finalized", "/api/jobs?is_finalized=false", LIST_MS),
    Question("  timeouts", "/api/jobs?failure_reason=timeout", LIST_MS),
    Question("  timeouts, after any", "/api/jobs?failure_reason=timeout&after={job}", LIST_MS),
    Question("  cancelled, by deadline", "/api/jobs?failure_reason=cancelled&sort_by=expires_at", LIST_MS),
    Question("  of a slot", "/api/jobs?slot_id={slot}", LIST_MS),
    Question("  of a slot, by deadline", "/api/jobs?slot_id={slot}&sort_by=expires_at", LIST_MS),
    Question("  of a slot, after any", "/api/jobs?slot_id={slot}&after={job}", LIST_MS),
    Question("  of a slot, processing, after any", "/api/jobs?slot_id={slot}&status=processing&after={job}", LIST_MS),
    Question("  of a slot, provider errors", "/api/jobs?slot_id={slot}&failure_reason=provider_error", LIST_MS),
    Question("a job and its log", "/api/jobs/{job}"),
    Question("slots", "/api/slots?page={page}", LIST_MS),
    Question("  a hundred", "/api/slots?page_size=100&sort_by=updated_at&sort_order=desc", LIST_MS),
    Question("  search", "/api/slots?search={page}&sort_by=name", LIST_MS),
    Question("  of a provider", "/api/slots?provider_id=gemini&operation_id=image_edit&is_active=true", LIST_MS),
    Question("  archived", "/api/slots?archived=true", LIST_MS),
    Question("a slot and its latest pictures", "/api/slots/{slot}"),
    Question("  its history", "/api/slots/{slot}/history"),
    Question("  its latest pictures", "/api/stats/{slot}/recent_results", RESULTS_MS),
    Question("report of a slot", "/api/stats/{slot}?to={now}", REPORT_MS),
    Question("  31 days, by hours", f"{A_MONTH}&group_by=hour", REPORT_MS),
    Question("  31 days, by weeks of Berlin", f"{A_MONTH}&group_by=week&tz=Europe/Berlin", REPORT_MS),
    Question("  14 days, by days of Tokyo, CSV", "/api/stats/{slot}?to={now}&tz=Asia/Tokyo&format=csv", REPORT_MS),
    Question("report of all slots", "/api/stats/global?to={now}", REPORT_MS),
    Question("  90 days, by days", f"{A_QUARTER}&group_by=day&page_size=100", REPORT_MS),
    Question("  90 days, by days of Berlin, CSV", f"{A_QUARTER}&group_by=day&tz=Europe/Berlin&format=csv", REPORT_MS),
    Question("  90 days, by months, sorted", f"{A_QUARTER}&group_by=month&sort_by=success", REPORT_MS),
    Question("  90 days, of a provider", f"{A_QUARTER}&group_by=day&provider_id=gemini", REPORT_MS),
    Question("  90 days, of a slot", f"{A_QUARTER}&group_by=day&slot_id={{slot}}", REPORT_MS),
)


def full_database(options: Options) -> Iterator[Line]:
    seed.seed(options.seeded, days=90, tell=lambda _line: None)
    bootstrap()
    users: Any = get_user_model().objects
    user = users.create_user("bench", password=PASSWORD, is_staff=True)
    user.groups.set(Group.objects.all())
    yield Line("", "p50", "p95", "target", note="what Postgres did for one of them")
    with stage.service(places=4) as target, httpx.Client(base_url=target.url.removesuffix("/ingest/{slot}")) as http:
        login = http.post("/api/login", json={"username": user.username, "password": PASSWORD})
        http.headers["Authorization"] = f"Bearer {login.json()['access_token']}"
        for question in QUESTIONS:
            yield _answered(question, http, options.requests)


SCENARIOS: dict[str, Callable[[Options], Iterator[Line]]] = {"api": full_database}


def _answered(question: Question, http: httpx.Client, requests: int) -> Line:
    addresses = _addresses(question.address, WARM_UP + requests + 1)
    waits = [_milliseconds(http, address) for address in addresses[:-1]][WARM_UP:]
    p50, p95 = quantile(waits, 0.5), quantile(waits, 0.95)
    most = question.milliseconds
    return Line(
        question.label,
        f"{p50:.1f} ms",
        f"{p95:.1f} ms",
        f"≤ {most:.0f} ms" if most else "",
        p95 <= most if most else None,
        _rows(addresses[-1], http.headers["Authorization"]),
    )


def _addresses(address: str, number: int) -> list[str]:
    """Each its own, the same in every run."""
    draw = random.Random(1)
    slots = list(Slot.objects.order_by("id").values_list("pk", flat=True))
    jobs = list(Job.objects.filter(source="booth").order_by("payload_digest").values_list("pk", flat=True)[:number])
    hour = timezone.now().replace(minute=0, second=0, microsecond=0)

    def ago(**time: int) -> str:
        return f"{hour - timedelta(**time):%Y-%m-%dT%H:%M:%SZ}"

    return [
        address.format(
            slot=draw.choice(slots),
            job=jobs[n],
            page=1 + n % 10,
            now=ago(hours=n),
            month=ago(hours=n, days=31),
            quarter=ago(hours=n, days=90),
        )
        for n in range(number)
    ]


def _milliseconds(http: httpx.Client, address: str) -> float:
    began = time.perf_counter()
    answer = http.get(address)
    took = (time.perf_counter() - began) * 1000
    if answer.status_code != 200:
        raise stage.BenchError(f"{address}: {answer.status_code} {answer.text[:200]}")
    return took


def _rows(address: str, authorization: str) -> str:
    """What was read for it and what for: the queries of this very request, each explained as it ran."""
    with CaptureQueriesContext(connection) as captured:
        answer = Client().get(address, headers={"Authorization": authorization})
    assert answer.status_code == 200, answer.content
    queries = [query["sql"] for query in captured.captured_queries if query["sql"].startswith(("SELECT", "(SELECT"))]
    read = given = 0
    with connection.cursor() as cursor:
        for sql in queries:
            cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}")
            plan = cursor.fetchone()[0][0]["Plan"]
            read += _read(plan)
            given += int(plan["Actual Rows"])
    return f"{len(queries)} queries, {read:,} rows read, {given:,} given"


def _read(plan: dict[str, Any]) -> int:
    """Rows of tables and indexes that the plan looked at, also those that it then dropped."""
    inner = sum(_read(below) for below in plan.get("Plans", ()))
    if "Relation Name" not in plan:
        return inner
    looked_at = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    return inner + int(sum(plan.get(name, 0) for name in looked_at) * plan["Actual Loops"])
