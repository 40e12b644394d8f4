#!/usr/bin/env bash
# Training under SLURM, on one or more machines; docs/distributed.md explains it. From the project's folder:
#   sbatch docs/slurm.sh --config conf/isles2022.yaml --data.root /data/ISLES-2022 --training.devices 4 --training.batch_size 8
#SBATCH --job-name=stroke-lesion
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=08:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
# One task a machine, which starts a process for each of its GPUs. USR1 comes to this script (B:) three minutes before
# the time is up: enough for a step, the checkpoint and its upload. After a node has failed, SLURM queues the job again
# by itself (--requeue), with the same job id.
set -uo pipefail
: "${MLFLOW_TRACKING_URI:?set it to a server that every machine reaches}"
python=${PYTHON:-.venv/bin/python}
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-} # srun does not take it from sbatch since SLURM 22.05
[ -n "$SRUN_CPUS_PER_TASK" ] || unset SRUN_CPUS_PER_TASK

# The MLflow run is made before the first step, and its id kept beside the log: whatever ends the job, it goes on there.
run=slurm-$SLURM_JOB_ID.run
if [ ! -s "$run" ]; then
    "$python" -m mlflow runs create --experiment-name "${EXPERIMENT:-stroke-lesion}" --status killed \
        --tags "slurm_job=$SLURM_JOB_ID" | sed -n 's/.*"run_id": "\([^"]*\)".*/\1/p' > "$run"
    [ -s "$run" ] || exit 1
fi

stopped=
stop() {
    # Not TERM, at which srun kills its tasks outright; USR1 it passes on, and our command treats it like TERM.
    [ -n "$stopped" ] || kill -USR1 "$step"
    stopped=yes
}
srun "$python" src/run.py "${STAGE:-main}" "$@" --training.resume "$(cat "$run")" &
step=$!
trap stop USR1 TERM
code=0
while
    wait "$step" # which a signal interrupts
    code=$?
    kill -0 "$step" 2> /dev/null
do :; done
if [ -n "$stopped" ] && [ "$code" -ne 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
