"""Jobs: the queue, the worker, the files of a job, purging, and the public links to results.

The `jobs_job` table is the queue; all of its SQL is in `queue`. A job's way is a `runner`'s, one
provider's turn at it a `stage`'s. May know `stats`, `slots`, `providers`.
"""
