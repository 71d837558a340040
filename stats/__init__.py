"""What happened: the append-only processing log, the hourly counters, the Prometheus metrics.

Its verbs write inside the queue's transactions, so figures never drift from jobs. May know `slots` and below.
"""
