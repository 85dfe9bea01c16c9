#!/usr/bin/env bash
# A Ray cluster inside a Slurm allocation, and a recipe on it. From the project's folder, on a path that every node sees:
#   sbatch launch/manifests/slurm.sh amazon source.root=/shared/agentrecbench out=/shared/runs \
#     "teacher.options.chat.endpoints=[http://HOST:8000/v1]"
# The same command again goes on where it was. ENVIRONMENT names variables to send, for instance ENVIRONMENT="WANDB_API_KEY".
# Five minutes before the time limit Slurm sends TERM: the job is stopped and put back into the queue, to go on from its
# checkpoints, where Slurm allows that (JobRequeue); elsewhere send the same command again.
#SBATCH --job-name=star-rl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=48:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
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

pids=() id=
finish() {
  kill "${pids[@]}" ${follower:-} 2>/dev/null || true
  wait "${pids[@]}" 2>/dev/null || true
  rm -f ${made:+"$made"}
}
trap finish EXIT
ending() {
  trap '' TERM   # requeueing ends this script's processes, while `finish` is at work
  if [[ -n $id ]]; then "$bin/star-rl" stop "$id" --address "$url" || true; fi
  # A job that was cancelled gets TERM as well, and stays cancelled.
  if [[ $(scontrol show job "$SLURM_JOB_ID") == *JobState=RUNNING* ]]; then
    scontrol requeue "$SLURM_JOB_ID" || echo "slurm.sh: not put back into the queue: send the same command again" >&2
  fi
  exit 143
}
trap ending TERM

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
url=http://$address:$board
variables=()
for name in ${ENVIRONMENT:-}; do variables+=(--env "$name"); done

# What a node starts: Gloo and NCCL take the interface of its address on the way to another node, unless they are told.
# By themselves they ask for the address of the node's name.
on_its_network=("$bin/python" -c '
import os, socket, sys, psutil
way = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
way.connect((sys.argv[1], 9))
own = way.getsockname()[0]
for interface, held in psutil.net_if_addrs().items():
    if own in (one.address for one in held):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
os.execv(sys.argv[2], sys.argv[2:])')

"${step[@]}" --nodelist="$head" "${on_its_network[@]}" "${hosts[1]:-$head}" \
  "$bin/ray" start --head --block --node-ip-address="$address" --port="$port" --num-cpus="$cpus" --num-gpus="$gpus" \
  --dashboard-host=0.0.0.0 --dashboard-port="$board" --dashboard-agent-listen-port="$agent" --temp-dir="$temp" &
pids+=($!)
for ((tries = 0; tries < 120; tries++)); do
  (exec 3<>"/dev/tcp/$address/$board") 2>/dev/null && break
  sleep 1
done
for host in "${hosts[@]:1}"; do
  "${step[@]}" --nodelist="$host" "${on_its_network[@]}" "$address" \
    "$bin/ray" start --block --address="$address:$port" --dashboard-agent-listen-port="$agent" \
    --num-cpus="$cpus" --num-gpus="$gpus" &
  pids+=($!)
done
# The preflight waits for nodes that are still joining, and says which are missing.

sent=$("$bin/star-rl" submit "$recipe" "$@" --address "$url" --python "$bin/python" "${variables[@]}")
echo "$sent"
id=$(sed -n 's/^\(star-[^:]*\): sent$/\1/p' <<<"$sent")

# Followed until the job has ended, not until following fails: with this script the allocation ends.
while true; do
  "$bin/star-rl" status "$id" --follow --address "$url" &
  follower=$!
  code=0
  wait -n "${pids[0]}" "$follower" || code=$?
  if [[ $code == 0 ]] && ! kill -0 "$follower" 2>/dev/null; then exit; fi
  if ! kill -0 "${pids[0]}" 2>/dev/null; then
    echo "slurm.sh: the head's \`ray start\` has ended" >&2
    exit 1
  fi
  state=
  read -r _ state _ < <("$bin/star-rl" status "$id" --address "$url" 2>/dev/null) || true
  # Without an answer the job may well go on.
  [[ -z $state || $state == RUNNING || $state == PENDING ]] || exit "$code"
  sleep 10
done
