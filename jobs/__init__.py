"""Jobs: the queue, the worker, the files of a job, purging, and the public links to results.

The `jobs_job` table is the queue; all of its SQL is in `queue`. `worker.job_run` runs one claimed
job, `worker.provider_run` one provider's part of it. May import `stats`, `slots`, `providers`.
"""
