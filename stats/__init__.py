"""What happened: the append-only processing log, the hourly counters, reports and Prometheus metrics of them.

Its verbs write inside the queue's transactions, so figures never drift from jobs. May know `slots` and below.
"""
