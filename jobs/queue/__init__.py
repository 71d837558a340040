"""The queue: one table, its statements, and the verbs of a job from admission to its end."""
