#!/usr/bin/env bash
# A Ray cluster inside a Slurm allocation, and a recipe on it. From the project's folder, on a path that every node sees:
#   sbatch launch/manifests/slurm.sh recipes/amazon.yaml source.root=/shared/agentrecbench out=/shared/runs \
#     "teacher.options.chat.endpoints=[http://HOST:8000/v1]"
# The same command again goes on where it was. ENVIRONMENT names variables to send, for instance ENVIRONMENT="WANDB_API_KEY".
#SBATCH --job-name=star-rl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
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
cpus=${SLURM_CPUS_PER_TASK:-64}      # srun takes one core unless it is told
temp=/tmp/ray_${SLURM_JOB_ID}
step=(srun --nodes=1 --ntasks=1 --overlap --cpus-per-task="$cpus")

pids=()
finish() {
  kill "${pids[@]}" 2>/dev/null || true
  wait "${pids[@]}" 2>/dev/null || true
  rm -f ${made:+"$made"}
}
trap finish EXIT

# Whoever reaches a Ray cluster may run code on it, so this one wants a token, made for the allocation. To look at the
# job from elsewhere: export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=THIS_FOLDER/.ray-token-JOBID
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
if [[ $RAY_AUTH_MODE == token && -z ${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-} ]]; then
  export RAY_AUTH_TOKEN_PATH=$PWD/.ray-token-$SLURM_JOB_ID
  (umask 077 && "$bin/python" -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH")
  made=$RAY_AUTH_TOKEN_PATH
fi

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${hosts[0]}
# The head's address on the way to another node; its own name may stand for 127.0.1.1 there.
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" "$bin/python" -c '
import socket, sys
way = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
way.connect((sys.argv[1], 9))
print(way.getsockname()[0])' "${hosts[1]:-$head}")
variables=()
for name in ${ENVIRONMENT:-}; do variables+=(--env "$name"); done

"${step[@]}" --nodelist="$head" \
  "$bin/ray" start --head --block --node-ip-address="$address" --port="$port" --num-cpus="$cpus" --num-gpus="$gpus" \
  --dashboard-host=0.0.0.0 --dashboard-port="$board" --dashboard-agent-listen-port="$agent" --temp-dir="$temp" &
pids+=($!)
for ((tries = 0; tries < 120; tries++)); do
  (exec 3<>"/dev/tcp/$address/$board") 2>/dev/null && break
  sleep 1
done
for host in "${hosts[@]:1}"; do
  "${step[@]}" --nodelist="$host" \
    "$bin/ray" start --block --address="$address:$port" --dashboard-agent-listen-port="$agent" \
    --num-cpus="$cpus" --num-gpus="$gpus" &
  pids+=($!)
done
# The preflight waits for nodes that are still joining, and says which are missing.

"$bin/star-rl" submit "$recipe" "$@" --address "http://$address:$board" --python "$bin/python" "${variables[@]}" --follow
