"""Jobs: the queue, the worker, the files of a job, purging, and the public links to results.

The `jobs_job` table is the queue; all of its SQL is in `queue`. May know `stats`, `slots`, `providers`.
"""
