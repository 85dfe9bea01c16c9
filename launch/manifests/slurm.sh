#!/usr/bin/env bash
# A Ray cluster inside a Slurm allocation, and a recipe on it. From the project's folder, on a path that every node sees:
#   sbatch launch/manifests/slurm.sh recipes/amazon.yaml source.root=/shared/agentrecbench out=/shared/runs
# The same command again goes on where it was. ENVIRONMENT names variables to send, for instance ENVIRONMENT="WANDB_API_KEY".
#SBATCH --job-name=star-rl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --time=48:00:00
set -euo pipefail

recipe=${1:?usage: sbatch slurm.sh RECIPE [key=value ..]}
shift
bin=${STAR_RL_BIN:-$PWD/.venv/bin}   # holds ray and star-rl, at the same path on every node
port=${RAY_PORT:-6379}
board=${RAY_DASHBOARD_PORT:-8265}
agent=${RAY_AGENT_PORT:-52365}       # of the process that starts jobs; another Ray on the node may hold it
gpus=${SLURM_GPUS_ON_NODE:-8}
temp=/tmp/ray_${SLURM_JOB_ID}

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${hosts[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
variables=()
for name in ${ENVIRONMENT:-}; do variables+=(--env "$name"); done

pids=()
finish() { kill "${pids[@]}" 2>/dev/null || true; wait "${pids[@]}" 2>/dev/null || true; }
trap finish EXIT

srun --nodes=1 --ntasks=1 --overlap --nodelist="$head" \
  "$bin/ray" start --head --block --node-ip-address="$address" --port="$port" --num-gpus="$gpus" \
  --dashboard-host=0.0.0.0 --dashboard-port="$board" --dashboard-agent-listen-port="$agent" --temp-dir="$temp" &
pids+=($!)
for ((tries = 0; tries < 120; tries++)); do
  (exec 3<>"/dev/tcp/$address/$board") 2>/dev/null && break
  sleep 1
done
for host in "${hosts[@]:1}"; do
  srun --nodes=1 --ntasks=1 --overlap --nodelist="$host" \
    "$bin/ray" start --block --address="$address:$port" --dashboard-agent-listen-port="$agent" --num-gpus="$gpus" &
  pids+=($!)
done
sleep "${RAY_JOIN_SECONDS:-15}"   # nodes that come later are missed by the preflight, which says so

"$bin/star-rl" submit "$recipe" "$@" --address "http://$address:$board" --python "$bin/python" "${variables[@]}" --follow
