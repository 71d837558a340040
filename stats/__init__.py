"""What happened: the append-only processing log, the hourly counters, and reports and Prometheus metrics of them.

Writes happen inside the queue's transactions, so figures never drift from jobs. May import `slots` and below.
"""
