"""`make server`: a tracking server as a lab has it, on one machine; docs/server.md says the same for a lab's own parts.

PostgreSQL keeps the runs and the users, a bucket keeps the artifacts, and MLflow stands before both.
"""
