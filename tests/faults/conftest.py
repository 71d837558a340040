import shutil

collect_ignore = [] if shutil.which("pgbouncer") else ["test_pgbouncer.py"]
