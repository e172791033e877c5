#!/usr/bin/env bash
# Every CPU table of "Speed of models" in docs/project/benchmarks.md, in about 30 minutes on an idle 2-core machine.
#
#   bash benchmarks/cpu_tables.sh OUT VIDEOS [RUN]
#
# Each table is a file of OUT, and a table that exists is not measured again. VIDEOS are files to decode. RUN is a
# run folder, whose prediction is measured. T3D names the program, such as T3D="python -m t3d".
set -u -o pipefail
out=${1:?"name a folder for the tables"} videos=${2:?"name videos to decode"} run=${3:-}
mkdir -p "$out"

table() {
  local name=$1 start=$SECONDS
  shift
  [ -s "$out/$name.txt" ] && return
  if OMP_NUM_THREADS=2 ${T3D:-t3d} bench "$@" > "$out/$name.part" 2> "$out/$name.err"; then
    mv "$out/$name.part" "$out/$name.txt"
    echo "$name: $((SECONDS - start)) s"
  else
    echo "$name: failed, see $out/$name.part and $out/$name.err"
  fi
}

all="--precision fp32 bf16 int8"
table tiny-1 model t3d_tiny $all --threads 1 --seconds 10
table t3d121-small-1 model t3d121 $all --threads 1 --seconds 10 --layers
table t3d121-small-2 model t3d121 $all --threads 2 --seconds 10
table t3d121-large-1 model t3d121 $all --num-frames 32 --size 224 --threads 1 --seconds 1 --no-memory
table t3d121-large-2 model t3d121 $all --num-frames 32 --size 224 --threads 2 --seconds 1 --no-memory
table layers-bf16 model t3d121 --precision bf16 --runtimes openvino --threads 1 --seconds 1 --no-memory --layers
table batch model t3d_tiny --batch-size auto --threads 1 --seconds 5
table peers model t3d121 --precision bf16 --runtimes compile --threads 2 --peers --seconds 5 --no-memory
table train train t3d_tiny --batch-size 8 --threads 2 --seconds 10
table decode decode "$videos" --seconds 15
[ -n "$run" ] && table predict predict "$run" "$videos"
table growth growth t3d121 --threads 2 --seconds 5 --out "$out/growth.svg"
