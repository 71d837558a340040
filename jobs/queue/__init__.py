"""The queue: one table, its SQL statements, and one verb for each step of a job, from admission to its end."""
