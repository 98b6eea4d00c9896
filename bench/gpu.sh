#!/usr/bin/env bash
# Everything that a GPU is to show, in under eight minutes: correctness first, then the numbers, a table last.
#
#     OUT=folder bench/gpu.sh            # on a machine with a GPU
#     OUT=folder bench/gpu.sh --tiny     # the same from start to end with tiny models on the CPU: is the script whole?
#
# Installs nothing from a network; wheels in .whl/ are installed if the folder is there. Every part has a limit of its
# own and none may pass the common deadline: what fails or is slow loses itself only. The checks of correctness run side
# by side, with a part that compiles the kernels of the large model; what is timed has the GPU to itself. $OUT (default
# runs/gpu) gets summary.md, results.json, log.txt and, while it runs, what each part has found so far in parts/: a
# script that is told to end makes the table of that, and after one that was killed `bench/gpu_table.py $OUT/parts $OUT`
# does. PYTHON names the interpreter, BACKENDS the engine's backends to compare at 0.6B (the first alone runs
# elsewhere), PARTS the parts to run (default: all). Exit status: 0 if all correctness checks passed, 1 otherwise.
set -u
{ # read whole before it runs, so that editing the file does not change a run
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-runs/gpu}
SECONDS=0
DEADLINE=${DEADLINE:-450}  # seconds; the table takes a few more
export PYTHONPATH=src OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0 HF_HUB_OFFLINE=1
mkdir -p "$OUT"
WORK=$OUT/parts
rm -rf "$WORK" # of an earlier run
mkdir "$WORK"
LOG=$OUT/log.txt
: >"$LOG"

if [ "${1:-}" = --tiny ]; then
  DEVICE=cpu SMALL=tiny LARGE=tiny DTYPE=float32 PROMPT=32 LONG=64 GROUP=48 STEPS=4 WORKERS=0 DEADLINE=${TINY_DEADLINE:-1500}
  DRAWING="--path 8 --summary 4 --runs 1" CASES="1x1,1x8,2x8,4x8" LARGE_CASES="1x8,4x8" PEER_CASES="1x8" GROUPED="1:4x1@48,4x1@48"
  TESTS="tests/engine/test_structured.py tests/models/test_batch.py" BACKENDS=${BACKENDS:-auto,padded}
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
else
  DEVICE=cuda SMALL=0.6b LARGE=4b DTYPE=bfloat16 PROMPT=512 LONG=8192 GROUP=2048 STEPS=16 WORKERS=12
  DRAWING="" CASES="1x1,1x8,8x8,64x8,32x4" LARGE_CASES="1x8,64x8" PEER_CASES="1x8,8x8" GROUPED="1:64x1@2048,64x1@2048"
  TESTS="tests/engine tests/models/test_batch.py tests/models/test_logprobs.py tests/models/test_thoughts.py"
  BACKENDS=${BACKENDS:-auto,captured}
fi

table() { # what has been found so far; ends the script
  trap - TERM INT
  [ "$(jobs -rp)" ] && kill $(jobs -rp) 2>/dev/null
  "$PYTHON" bench/gpu_table.py "$WORK" "$OUT"
  exit $?
}
trap table TERM INT

# part NAME SECONDS COMMAND..: run it within its limit and the deadline; its status and time go to parts.tsv
part() {
  local name=$1 limit=$2 left=$((DEADLINE - SECONDS)) started=$SECONDS status child=
  shift 2
  [ "$BASH_SUBSHELL" = 0 ] || trap 'kill $child 2>/dev/null; exit 143' TERM # one that runs beside others
  [[ -z ${PARTS:-} || " $PARTS " = *" $name "* ]] || return 0
  if [ "$left" -lt 10 ]; then
    printf '%s\t%s\t%s\n' "$name" "no time left" 0 >>"$WORK/parts.tsv"
    return
  fi
  [ "$DEVICE" = cpu ] && limit=$((limit * 6))
  [ "$limit" -gt "$left" ] && limit=$left
  echo "== $name (at most $limit s): $*" | tee -a "$LOG"
  timeout -k 5 "$limit" "$@" >"$WORK/$name.log" 2>&1 &
  child=$!
  wait $child # not in the foreground, where a signal to this script would have to wait for the end of the part
  status=$?
  cat "$WORK/$name.log" >>"$LOG"
  tail -n "${TAIL:-3}" "$WORK/$name.log"
  [ $status = 124 ] || [ $status = 137 ] && status="out of time"
  printf '%s\t%s\t%s\n' "$name" "$status" $((SECONDS - started)) >>"$WORK/parts.tsv"
}

decode() { # NAME SECONDS MODEL CASES PEERS BACKENDS [OPTIONS..]
  local name=$1 limit=$2 model=$3 cases=$4 peers=$5 backends=$6
  shift 6
  part "$name" "$limit" "$PYTHON" -m polythink bench decode "$model" --cases "$cases" --peers "$peers" \
    --backends "$backends" --dtype "$DTYPE" --device "$DEVICE" --prompt "$PROMPT" --steps "$STEPS" --rounds 2 \
    --out "$WORK/$name.json" --overwrite "$@"
}

if [ -d .whl ]; then
  part wheels 30 "$PYTHON" -m pip install --quiet --no-index --no-deps .whl/*.whl
fi

# ---- correctness, side by side: none of it is timed
workers=$([ $WORKERS -gt 0 ] && "$PYTHON" -c 'import xdist' 2>/dev/null && echo "--numprocesses $WORKERS --dist worksteal")
side=()
# shellcheck disable=SC2086
POLYTHINK_TEST_DEVICE=$DEVICE part tests 140 "$PYTHON" -m pytest -vv -m "not long" --timeout 90 $workers $TESTS & side+=($!)
# shellcheck disable=SC2086
part cuda_check 140 "$PYTHON" bench/cuda_check.py --device "$DEVICE" ${1:-} & side+=($!)
# shellcheck disable=SC2086
part graph_check 140 "$PYTHON" bench/graph_check.py --parts agreement ${1:-} & side+=($!)
if [ "$DEVICE" = cuda ]; then # kernels stay compiled in Triton's cache: those of the small model by graph_check
  part compile 140 "$PYTHON" -m polythink bench decode "$LARGE" --cases "$LARGE_CASES" --peers none --dtype "$DTYPE" \
    --device "$DEVICE" --prompt "$PROMPT" --steps 4 --rounds 1 & side+=($!)
fi
wait "${side[@]}"

# ---- numbers, the most important first
FIRST=${BACKENDS%%,*}
decode small 100 "$SMALL" "$CASES" generate,vllm "$BACKENDS"
decode large 60 "$LARGE" "$LARGE_CASES" none "$FIRST"
decode sharing 60 "$SMALL" "1x8@$LONG,8x1@$LONG,$GROUPED" none "$FIRST"
# shellcheck disable=SC2086
part drawing 40 "$PYTHON" bench/grpo_drawing.py "$SMALL" --dtype "$DTYPE" --device "$DEVICE" $DRAWING \
  --out "$WORK/drawing.json"
decode peers 60 "$SMALL" "$PEER_CASES" continuous "$FIRST" # alone: an assertion on the device ends the process
decode profile 40 "$SMALL" "1x8" none "$FIRST" --profile
# shellcheck disable=SC2086
part graph_times 50 "$PYTHON" bench/graph_check.py --parts times ${1:-}

table
}
