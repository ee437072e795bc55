#!/usr/bin/env bash
# One stretch of training on the GPUs of this machine: run.sh OUT_DIR MINUTES [RESUME_DIR]
# Checks the data, trains, exports, measures, and packs what a later machine needs into OUT_DIR/tiny.tar.gz.* (pieces of
# 15 MiB): exported weights, log, tables, contact sheets. The whole state, 16 bytes a parameter, stays in STATE_DIR
# (OUT_DIR/state unless set), from which the next stretch on the same machine goes on.
# RESUME_DIR holds state.pt and log.csv; or tiny.safetensors and log.csv of a finished run, or their pieces, for a
# further round. UNTIL=0.3 ends the stretch at that share of the whole schedule (1: the end); TRAIN_ARGS are more
# arguments of train.py, EVAL_PAIRS the held-out pairs (500; 0: none). Whatever fails, what there is by then is packed.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$1 minutes=$2 resume=${3:-}
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=${STATE_DIR:-$out/state}
mkdir -p "$work"
export PYTHONUNBUFFERED=1 PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=4
began=$SECONDS failed=0

phase() { # NAME COMMAND...: runs it into the log and says how long it took
    local name=$1 start=$SECONDS code=0
    shift
    echo "== $name (at $((SECONDS - began)) s)"
    "$@" 2>&1 | tee "$work/$name.txt" || code=${PIPESTATUS[0]}
    echo "== $name: exit code $code after $((SECONDS - start)) s"
    return "$code"
}

from=()
if [ -f "$resume/state.pt" ]; then
    from=(--resume "$resume/state.pt")
elif [ -f "$resume/tiny.safetensors" ]; then
    from=(--resume "$resume/tiny.safetensors")
elif [ -n "$resume" ]; then
    mkdir -p "$work/resumed"
    if cat "$resume"/tiny.tar.gz.* | tar -xz -C "$work/resumed" tiny.safetensors log.csv; then
        from=(--resume "$work/resumed/tiny.safetensors")
    else
        echo "nothing to resume in $resume" && exit 1
    fi
fi
nvidia-smi --query-gpu=name,memory.used --format=csv,noheader
read -ra more <<<"${TRAIN_ARGS:-}"

# A stretch that goes on has its data checked already.
[ -f "$resume/state.pt" ] || phase verify python3 "$here/verify.py" "$work" || failed=1
if [ "$failed" = 0 ]; then
    # Should it hang, the state of a minute before is still there.
    limit=$(awk "BEGIN { print $minutes * 60 + 90 }")
    phase train timeout "$limit" python3 "$here/train.py" "$work" --minutes "$minutes" --until "${UNTIL:-1}" \
        "${from[@]}" "${more[@]}" || failed=1
fi
if [ -f "$work/state.pt" ]; then
    phase export python3 "$here/export.py" "$work/state.pt" "$work/tiny.safetensors" || failed=1
    [ "${EVAL_PAIRS:-500}" = 0 ] ||
        phase eval python3 "$here/eval.py" "$work/tiny.safetensors" "$work" --pairs "${EVAL_PAIRS:-500}" || failed=1
    phase plot python3 "$here/plot.py" "$work/log.csv" "$work/log.png" || failed=1
fi

rm -rf "$work/resumed"
(cd "$work" && tar -c --exclude state.pt --exclude state.part -- *) | gzip -1 | split -b 15M - "$out/tiny.tar.gz."
# What to look at first, outside the archive too.
cat "$work"/{verify,train,export,eval,plot}.txt >"$out/run.txt" 2>/dev/null
ls -l "$out"
echo "== all: $((SECONDS - began)) s, failed: $failed"
exit "$failed"
