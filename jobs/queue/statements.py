"""The SQL of the queue. Every move of a job is one conditional UPDATE, so of all who try to end a job exactly one
succeeds; the database's clock decides deadlines and leases.
"""

from __future__ import annotations

# One statement, under the advisory lock, so that count and insert see the same queue. An earlier post of the photo is
# looked for first, since joining it adds no job. Jobs past their deadline do not count, whether swept yet or not.
# KEY SHARE waits for a transaction that archives the slot, which locks it FOR UPDATE, and for no other change of it.
ADMIT = """
WITH earlier_post AS (
    SELECT id, expires_at FROM jobs_job
    WHERE payload_digest = %(payload_digest)s AND delivered_at IS NULL AND failure_reason IS NULL
      AND slot_id = %(slot_id)s AND booth_id = %(booth_id)s AND source = %(source)s AND source = 'booth'
      AND created_at > clock_timestamp() - %(dedupe)s
      AND CASE WHEN is_finalized THEN result_file_path IS NOT NULL AND result_expires_at > clock_timestamp()
               ELSE expires_at > clock_timestamp() END
    ORDER BY created_at DESC LIMIT 1
), inserted AS (
    INSERT INTO jobs_job (
        id, slot_id, source, provider_id, operation_id, settings_json, template_media, payload_path, payload_mime_type,
        payload_digest, booth_id, metadata, created_at, updated_at, expires_at)
    SELECT %(id)s, %(slot_id)s, %(source)s, %(provider_id)s, %(operation_id)s, %(settings_json)s, %(template_media)s,
        %(payload_path)s, %(payload_mime_type)s, %(payload_digest)s, %(booth_id)s, %(metadata)s,
        clock.now, clock.now, clock.now + %(wait)s
    FROM (SELECT clock_timestamp() AS now) AS clock
    WHERE NOT EXISTS (SELECT FROM earlier_post)
      AND EXISTS (SELECT FROM slots_slot WHERE id = %(slot_id)s AND archived_at IS NULL FOR KEY SHARE)
      AND (SELECT count(*) FROM jobs_job WHERE NOT is_finalized AND expires_at > clock_timestamp()) < %(limit)s
    RETURNING id, expires_at
)
SELECT id AS job_id, expires_at, extract(epoch FROM expires_at - clock_timestamp())::float8 AS seconds_left, joined
FROM (SELECT *, false AS joined FROM inserted UNION ALL SELECT *, true FROM earlier_post) AS ticket
"""

IS_ARCHIVED = "SELECT archived_at IS NOT NULL FROM slots_slot WHERE id = %s"

COUNT_POSTS = "SELECT count(*) FROM stats_processinglog WHERE job_id = %s AND status = 'received'"

# Claims run one at a time where an account or a waiting job's slot has a limit, so that no two use the same capacity.
LOCK_CLAIMS = """
SELECT pg_advisory_xact_lock(%s) WHERE EXISTS (
    SELECT FROM providers_provideraccount WHERE max_concurrent IS NOT NULL OR per_minute IS NOT NULL
) OR EXISTS (
    SELECT FROM jobs_job WHERE NOT is_finalized AND settings_json ? 'max_concurrent'
)
"""

# An account's concurrent calls: jobs under way, other jobs' fallback calls, and calls that outlive their job
# (`finish_late`). Whatever a killed worker had under way counts no longer than its lease.
_CONCURRENT_CALLS = """(
        SELECT count(*) FROM jobs_job AS running_job
        WHERE NOT is_finalized AND status = 'processing' AND lease_expires_at >= clock_timestamp()
          AND running_job.provider_id = account.provider_id
      ) + (
        SELECT count(*) FROM providers_providercall AS call JOIN jobs_job AS caller ON caller.id = call.job_id
        WHERE call.ended_at IS NULL AND call.provider_id = account.provider_id
          AND (caller.is_finalized OR caller.provider_id <> call.provider_id)
          AND caller.lease_expires_at >= clock_timestamp()
      )
"""

# Oldest first, for each provider and each slot up to its limits: one at its limit holds up no other's jobs.
#   capacity  what each account's limits leave, computed once; an index cannot be searched by the volatile clock
#   running   jobs under way by slot
#   waiting   jobs that are pending or whose lease has run out, with their rank in their slot
#   eligible  those that their slot's limit allows, with their rank at their provider
#   chosen    those to claim; MATERIALIZED, because a plan that ran the subquery twice would lock and claim more than
#             LIMIT. It repeats conditions for a row that another transaction has changed meanwhile.
CLAIM = (
    """
WITH capacity AS MATERIALIZED (
    SELECT account.*, coalesce(max_concurrent, per_minute, per_day) IS NOT NULL AS is_limited,
        CASE WHEN max_concurrent IS NOT NULL THEN max_concurrent - (
"""
    + _CONCURRENT_CALLS
    + """
        ) END AS free_concurrent,
        CASE WHEN per_minute IS NOT NULL THEN per_minute - (
            SELECT count(*) FROM providers_providercall AS call
            WHERE call.provider_id = account.provider_id
              AND call.at > statement_timestamp() - make_interval(secs => %(window)s)
        ) END AS free_this_minute
    FROM providers_provideraccount AS account WHERE provider_id = ANY(%(providers)s)
), running AS MATERIALIZED (
    SELECT slot_id, count(*) AS jobs FROM jobs_job
    WHERE NOT is_finalized AND status = 'processing' AND lease_expires_at >= clock_timestamp() GROUP BY slot_id
), waiting AS MATERIALIZED (
    SELECT id, slot_id, provider_id, created_at, (settings_json ->> 'max_concurrent')::int AS slot_limit,
        row_number() OVER (PARTITION BY slot_id ORDER BY created_at) AS rank_in_slot
    FROM jobs_job
    WHERE NOT is_finalized AND expires_at > clock_timestamp() AND provider_id = ANY(%(providers)s)
      AND (status = 'pending' OR lease_expires_at < clock_timestamp())
), eligible AS MATERIALIZED (
    SELECT id, row_number() OVER (PARTITION BY provider_id ORDER BY created_at) AS rank_at_provider
    FROM waiting LEFT JOIN running USING (slot_id)
    WHERE slot_limit IS NULL OR rank_in_slot <= slot_limit - coalesce(running.jobs, 0)
), chosen AS MATERIALIZED (
    SELECT job.id, is_enabled, encrypted_key, base_url, encrypted_proxy_url, coalesce(is_limited, false) AS is_limited
    FROM jobs_job AS job JOIN eligible ON eligible.id = job.id
        LEFT JOIN capacity ON capacity.provider_id = job.provider_id
    WHERE NOT job.is_finalized AND (job.status = 'pending' OR job.lease_expires_at < clock_timestamp())
      AND (free_concurrent IS NULL OR rank_at_provider <= free_concurrent)
      AND (free_this_minute IS NULL OR job.provider_job_reference IS NOT NULL OR rank_at_provider <= free_this_minute)
    ORDER BY job.created_at
    LIMIT %(limit)s
    FOR UPDATE OF job SKIP LOCKED
)
UPDATE jobs_job AS job SET
    status = 'processing', claim_token = gen_random_uuid(), claims = claims + 1,
    lost_claims = lost_claims + (status = 'processing')::int,
    lease_expires_at = clock_timestamp() + %(lease)s,
    claimed_at = coalesce(claimed_at, clock_timestamp()), updated_at = clock_timestamp()
FROM chosen WHERE job.id = chosen.id
RETURNING job.id, claim_token AS token, slot_id, source, provider_id, operation_id, settings_json, template_media,
    metadata, payload_path, payload_mime_type, provider_job_reference, used_fallback, claims, lost_claims, created_at,
    expires_at, extract(epoch FROM expires_at - clock_timestamp())::float8 AS seconds_left,
    is_enabled, encrypted_key, base_url, encrypted_proxy_url, is_limited
"""
)

# A call is recorded by the holder of the job's claim alone, and only while there is time; the lease then holds for the
# call's first seconds. Under a key of the caller's: who asks again after a lost answer gets the same call.
BEGIN_CALL = """
WITH caller AS (
    UPDATE jobs_job SET lease_expires_at = greatest(lease_expires_at, clock_timestamp() + %(lease)s)
    WHERE id = %(job_id)s AND claim_token = %(token)s AND NOT is_finalized AND expires_at > clock_timestamp()
    RETURNING id, slot_id
)
INSERT INTO providers_providercall (provider_id, slot_id, job_id, is_fallback, idempotency_key, at)
SELECT %(provider_id)s, slot_id, id, %(is_fallback)s, %(key)s, clock_timestamp() FROM caller
ON CONFLICT (idempotency_key) DO NOTHING
RETURNING id
"""

GET_CALL = "SELECT id FROM providers_providercall WHERE idempotency_key = %s"

# Whether an account's `max_concurrent` allows one more call, for a fallback.
HAS_CAPACITY = (
    """
SELECT account.max_concurrent IS NULL OR account.max_concurrent > (
"""
    + _CONCURRENT_CALLS
    + ") FROM providers_provideraccount AS account WHERE provider_id = %s"
)

GET_ACCOUNT = """
SELECT is_enabled, encrypted_key, base_url, encrypted_proxy_url,
    coalesce(max_concurrent, per_minute, per_day) IS NOT NULL AS is_limited
FROM providers_provideraccount WHERE provider_id = %s
"""

GET_EARLIER_CALLS = """
SELECT job_id, count(*) FILTER (WHERE ended_at IS NOT NULL) AS earlier_calls,
    max(call.id) FILTER (WHERE ended_at IS NULL) AS open_call,
    bool_or(ended_at IS NULL OR outcome IN ('made', 'late', 'ambiguous')) AS may_have_been_billed,
    bool_or(coalesce(outcome = 'refused', false)) AS was_refused
FROM providers_providercall AS call JOIN jobs_job AS job ON job.id = call.job_id AND used_fallback = is_fallback
WHERE job_id = ANY(%s) GROUP BY job_id
"""

# Also the leases of jobs that have ended, whose calls are still under way.
EXTEND = """
WITH extended AS (
    UPDATE jobs_job SET lease_expires_at = clock_timestamp() + %(lease)s
    WHERE id = ANY(%(ids)s) AND claim_token = ANY(%(tokens)s)
    RETURNING id, is_finalized
)
SELECT id FROM extended WHERE NOT is_finalized
"""

STORE_PROVIDER_REFERENCE = """
UPDATE jobs_job SET provider_job_reference = %s, updated_at = clock_timestamp()
WHERE id = %s AND claim_token = %s AND NOT is_finalized
"""

FALL_BACK = """
UPDATE jobs_job SET used_fallback = true, provider_job_reference = NULL, updated_at = clock_timestamp()
WHERE id = %s AND claim_token = %s AND NOT is_finalized
"""

RELEASE = """
UPDATE jobs_job SET status = 'pending', claim_token = NULL, lease_expires_at = NULL, updated_at = clock_timestamp()
WHERE id = ANY(%s) AND claim_token = ANY(%s) AND NOT is_finalized
RETURNING id
"""

# The four ends. The photo is removed at the job's end, and its path cleared. For a slot with `on_failure`, a failed job
# keeps both until the booth's response, which returns the photo, is delivered.
_RETURNS_ORIGINAL = """
    coalesce(settings_json ->> 'on_failure' = 'original' AND failure_reason IN ('timeout', 'provider_error'), false)
        AS returns_original
"""

_RETURNING_ENDED = (
    """
RETURNING id, slot_id, source, provider_id, created_at, claimed_at, finalized_at, expires_at,
    payload_mime_type, provider_job_reference, used_fallback,
"""
    + _RETURNS_ORIGINAL
)

SUCCEED = (
    """
UPDATE jobs_job SET
    is_finalized = true, finalized_at = statement_timestamp(), updated_at = statement_timestamp(),
    result_expires_at = statement_timestamp() + %(retention)s,
    result_file_path = %(path)s, result_mime_type = %(mime_type)s, result_size_bytes = %(size_bytes)s,
    result_checksum = %(checksum)s, result_inline_base64 = %(inline_base64)s, payload_path = NULL
WHERE id = %(id)s AND claim_token = %(token)s AND NOT is_finalized AND expires_at > statement_timestamp()
"""
    + _RETURNING_ENDED
)

FAIL = (
    """
UPDATE jobs_job SET
    is_finalized = true, finalized_at = statement_timestamp(), updated_at = statement_timestamp(),
    failure_reason = 'provider_error', error_reason = %(reason)s, error_message = %(message)s,
    payload_path = CASE WHEN settings_json ->> 'on_failure' = 'original' THEN payload_path END
WHERE id = %(id)s AND claim_token = %(token)s AND NOT is_finalized AND expires_at > statement_timestamp()
"""
    + _RETURNING_ENDED
)

EXPIRE = (
    """
UPDATE jobs_job SET
    is_finalized = true, finalized_at = statement_timestamp(), updated_at = statement_timestamp(),
    failure_reason = 'timeout', error_reason = 'slow',
    payload_path = CASE WHEN settings_json ->> 'on_failure' = 'original' THEN payload_path END
WHERE id = %(id)s AND NOT is_finalized AND expires_at <= statement_timestamp()
"""
    + _RETURNING_ENDED
)

CANCEL = (
    """
UPDATE jobs_job SET
    is_finalized = true, finalized_at = statement_timestamp(), updated_at = statement_timestamp(),
    failure_reason = 'cancelled', payload_path = NULL
WHERE id = %(id)s AND NOT is_finalized
"""
    + _RETURNING_ENDED
)

# A picture that came after the deadline, for a slot with `finish_late`: the job stays a timeout.
ADD_LATE_RESULT = """
UPDATE jobs_job SET
    updated_at = statement_timestamp(), result_expires_at = statement_timestamp() + %(retention)s,
    result_file_path = %(path)s, result_mime_type = %(mime_type)s, result_size_bytes = %(size_bytes)s,
    result_checksum = %(checksum)s
WHERE id = %(id)s AND claim_token = %(token)s AND failure_reason = 'timeout' AND result_checksum IS NULL
"""

# Whether the job's picture is this one: a result's path has its claim's token.
HAS_RESULT = """
SELECT FROM jobs_job
WHERE id = %(id)s AND claim_token = %(token)s AND failure_reason = 'timeout'
  AND result_file_path = %(path)s AND result_checksum = %(checksum)s
"""

# A call that is open though its job has ended and nobody holds its lease any more: its worker was killed.
CLOSE_LOST_CALLS = """
UPDATE providers_providercall AS call SET ended_at = clock_timestamp(), outcome = 'ambiguous', reason = 'internal'
FROM jobs_job AS job
WHERE call.ended_at IS NULL AND job.id = call.job_id AND job.is_finalized
  AND coalesce(lease_expires_at, finalized_at) < clock_timestamp() - %s
"""

LIST_OVERDUE = "SELECT id FROM jobs_job WHERE NOT is_finalized AND expires_at <= clock_timestamp() ORDER BY created_at"

GET_OUTCOME = (
    """
SELECT id, slot_id, source, provider_id, payload_mime_type, is_finalized, failure_reason, error_reason,
    result_file_path, result_inline_base64, result_mime_type, result_size_bytes, result_expires_at, expires_at,
    claim_token, provider_job_reference, used_fallback, settings_json ->> 'reply' AS reply,
"""
    + _RETURNS_ORIGINAL
    + "FROM jobs_job WHERE id = %s"
)

GET_JOB_INPUT = """
SELECT provider_id, operation_id, settings_json, template_media, payload_path, payload_mime_type
FROM jobs_job WHERE id = %s
"""

LIST_FINISHED = "SELECT id FROM jobs_job WHERE id = ANY(%s) AND is_finalized"

MARK_DELIVERED = """
UPDATE jobs_job SET
    delivered_at = coalesce(delivered_at, clock_timestamp()), result_inline_base64 = NULL, payload_path = NULL
WHERE id = %s
"""

RECORD_PROCESS = """
INSERT INTO jobs_process (id, kind, name, capacity, busy, is_listening)
VALUES (%(id)s, %(kind)s, %(name)s, %(capacity)s, %(busy)s, %(is_listening)s)
ON CONFLICT (id) DO UPDATE SET busy = excluded.busy, is_listening = excluded.is_listening, seen_at = clock_timestamp()
"""

REMOVE_PROCESS = "DELETE FROM jobs_process WHERE id = %s"
