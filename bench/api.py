"""How fast the staff API is with a full database (`make bench-api`): over HTTP, one request after the other, each for
another slot, job or time than those before, so that no report is a cached one. Beside it, how many rows Postgres read.

The database is that of `bench.seed`; the user is a member of staff with all permissions, not a superuser, for whom they
would not be looked up.
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

from bench import seed, service
from bench.booths import PASSWORD
from bench.scenarios import Line, Options, quantile
from jobs.models import Job
from photoslot.bootstrap import bootstrap
from slots.models import Slot

WARM_UP = 3  # requests not measured: the first ones connect, import and prepare
LIST_MS, REPORT_MS, RESULTS_MS = 100.0, 50.0, 20.0


class ApiRequest(NamedTuple):
    """`address` may have {slot}, {job} and {page}, each time another one; {now}, each time an hour earlier; {month} and
    {quarter}, 31 and 90 days before that."""

    label: str
    address: str
    milliseconds: float | None = None  # limit of the p95; None: no target


A_MONTH = "/api/stats/{slot}?from={month}&to={now}"
A_QUARTER = "/api/stats/global?from={quarter}&to={now}"
API_REQUESTS = (
    ApiRequest("jobs, newest", "/api/jobs", LIST_MS),
    ApiRequest("  oldest", "/api/jobs?sort_order=asc", LIST_MS),
    ApiRequest("  page 100 of 100", "/api/jobs?page_size=100&page=100", LIST_MS),
    ApiRequest("  after any", "/api/jobs?after={job}", LIST_MS),
    ApiRequest("  by deadline", "/api/jobs?sort_by=expires_at", LIST_MS),
    ApiRequest("  by deadline, after any", "/api/jobs?sort_by=expires_at&after={job}", LIST_MS),
    ApiRequest("  pending", "/api/jobs?status=pending", LIST_MS),
    ApiRequest("  processing", "/api/jobs?status=processing", LIST_MS),
    ApiRequest("  finalized", "/api/jobs?is_finalized=true", LIST_MS),
    ApiRequest("  not finalized", "/api/jobs?is_finalized=false", LIST_MS),
    ApiRequest("  timeouts", "/api/jobs?failure_reason=timeout", LIST_MS),
    ApiRequest("  timeouts, after any", "/api/jobs?failure_reason=timeout&after={job}", LIST_MS),
    ApiRequest("  cancelled, by deadline", "/api/jobs?failure_reason=cancelled&sort_by=expires_at", LIST_MS),
    ApiRequest("  of a slot", "/api/jobs?slot_id={slot}", LIST_MS),
    ApiRequest("  of a slot, by deadline", "/api/jobs?slot_id={slot}&sort_by=expires_at", LIST_MS),
    ApiRequest("  of a slot, after any", "/api/jobs?slot_id={slot}&after={job}", LIST_MS),
    ApiRequest("  of a slot, processing, after any", "/api/jobs?slot_id={slot}&status=processing&after={job}", LIST_MS),
    ApiRequest("  of a slot, provider errors", "/api/jobs?slot_id={slot}&failure_reason=provider_error", LIST_MS),
    ApiRequest("a job and its log", "/api/jobs/{job}"),
    ApiRequest("slots", "/api/slots?page={page}", LIST_MS),
    ApiRequest("  a hundred", "/api/slots?page_size=100&sort_by=updated_at&sort_order=desc", LIST_MS),
    ApiRequest("  search", "/api/slots?search={page}&sort_by=name", LIST_MS),
    ApiRequest("  of a provider", "/api/slots?provider_id=gemini&operation_id=image_edit&is_active=true", LIST_MS),
    ApiRequest("  archived", "/api/slots?archived=true", LIST_MS),
    ApiRequest("a slot and its latest pictures", "/api/slots/{slot}"),
    ApiRequest("  its history", "/api/slots/{slot}/history"),
    ApiRequest("  its latest pictures", "/api/stats/{slot}/recent_results", RESULTS_MS),
    ApiRequest("report of a slot", "/api/stats/{slot}?to={now}", REPORT_MS),
    ApiRequest("  31 days, by hours", f"{A_MONTH}&group_by=hour", REPORT_MS),
    ApiRequest("  31 days, by weeks of Berlin", f"{A_MONTH}&group_by=week&tz=Europe/Berlin", REPORT_MS),
    ApiRequest("  14 days, by days of Tokyo, CSV", "/api/stats/{slot}?to={now}&tz=Asia/Tokyo&format=csv", REPORT_MS),
    ApiRequest("report of all slots", "/api/stats/global?to={now}", REPORT_MS),
    ApiRequest("  90 days, by days", f"{A_QUARTER}&group_by=day&page_size=100", REPORT_MS),
    ApiRequest("  90 days, by days of Berlin, CSV", f"{A_QUARTER}&group_by=day&tz=Europe/Berlin&format=csv", REPORT_MS),
    ApiRequest("  90 days, by months, sorted", f"{A_QUARTER}&group_by=month&sort_by=success", REPORT_MS),
    ApiRequest("  90 days, of a provider", f"{A_QUARTER}&group_by=day&provider_id=gemini", REPORT_MS),
    ApiRequest("  90 days, of a slot", f"{A_QUARTER}&group_by=day&slot_id={{slot}}", REPORT_MS),
)


def measure_api(options: Options) -> Iterator[Line]:
    seed.seed(options.seeded, days=90, report=lambda _line: None)
    bootstrap()
    users: Any = get_user_model().objects
    user = users.create_user("bench", password=PASSWORD, is_staff=True)
    user.groups.set(Group.objects.all())
    yield Line("", "p50", "p95", "target", note="what Postgres did for one of them")
    with service.run(capacity=4) as target, httpx.Client(base_url=target.url.removesuffix("/ingest/{slot}")) as http:
        login = http.post("/api/login", json={"username": user.username, "password": PASSWORD})
        http.headers["Authorization"] = f"Bearer {login.json()['access_token']}"
        for request in API_REQUESTS:
            yield _measure_request(request, http, options.requests)


SCENARIOS: dict[str, Callable[[Options], Iterator[Line]]] = {"api": measure_api}


def _measure_request(request: ApiRequest, http: httpx.Client, requests: int) -> Line:
    addresses = _make_addresses(request.address, WARM_UP + requests + 1)
    waits = [_time_request(http, address) for address in addresses[:-1]][WARM_UP:]
    p50, p95 = quantile(waits, 0.5), quantile(waits, 0.95)
    limit = request.milliseconds
    return Line(
        request.label,
        f"{p50:.1f} ms",
        f"{p95:.1f} ms",
        f"≤ {limit:.0f} ms" if limit else "",
        p95 <= limit if limit else None,
        _describe_rows(addresses[-1], http.headers["Authorization"]),
    )


def _make_addresses(address: str, number: int) -> list[str]:
    """The request's addresses, all different, and the same in every run."""
    rng = random.Random(1)
    slots = list(Slot.objects.order_by("id").values_list("pk", flat=True))
    jobs = list(Job.objects.filter(source="booth").order_by("payload_digest").values_list("pk", flat=True)[:number])
    hour = timezone.now().replace(minute=0, second=0, microsecond=0)

    def ago(**time: int) -> str:
        return f"{hour - timedelta(**time):%Y-%m-%dT%H:%M:%SZ}"

    return [
        address.format(
            slot=rng.choice(slots),
            job=jobs[n],
            page=1 + n % 10,
            now=ago(hours=n),
            month=ago(hours=n, days=31),
            quarter=ago(hours=n, days=90),
        )
        for n in range(number)
    ]


def _time_request(http: httpx.Client, address: str) -> float:
    began = time.perf_counter()
    response = http.get(address)
    took = (time.perf_counter() - began) * 1000
    if response.status_code != 200:
        raise service.BenchError(f"{address}: {response.status_code} {response.text[:200]}")
    return took


def _describe_rows(address: str, authorization: str) -> str:
    """Rows read and rows returned, by EXPLAIN ANALYZE of every query of this request."""
    with CaptureQueriesContext(connection) as captured:
        response = Client().get(address, headers={"Authorization": authorization})
    assert response.status_code == 200, response.content
    queries = [query["sql"] for query in captured.captured_queries if query["sql"].startswith(("SELECT", "(SELECT"))]
    read = returned = 0
    with connection.cursor() as cursor:
        for sql in queries:
            cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}")
            plan = cursor.fetchone()[0][0]["Plan"]
            read += _count_read(plan)
            returned += int(plan["Actual Rows"])
    return f"{len(queries)} queries, {read:,} rows read, {returned:,} given"


def _count_read(plan: dict[str, Any]) -> int:
    """Rows of tables and indexes that the plan read, including those that it filtered out."""
    inner = sum(_count_read(below) for below in plan.get("Plans", ()))
    if "Relation Name" not in plan:
        return inner
    looked_at = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    return inner + int(sum(plan.get(name, 0) for name in looked_at) * plan["Actual Loops"])
