"""Close a run as KILLED once `mlflow run` has ended. Run as a script, which outlives both.

    python keep_killed.py PID RUN_ID

After a Ctrl-C, `mlflow run` waits for its child and then closes the run as FAILED, whatever the child has
closed it as: MLflow 3.17 means to leave a closed run alone, but compares the status's name with its number.
"""

import sys

import mlflow
import psutil

SECONDS = 120


def main(pid: str, run_id: str) -> None:
    """Wait for the process to end, then set the status; a run that another worker goes on with is left alone."""
    psutil.wait_procs([psutil.Process(int(pid))] if psutil.pid_exists(int(pid)) else [], timeout=SECONDS)
    client = mlflow.MlflowClient()
    if client.get_run(run_id).info.status == "FAILED":
        client.set_terminated(run_id, "KILLED")


if __name__ == "__main__":
    main(*sys.argv[1:])
