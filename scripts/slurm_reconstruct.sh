#!/bin/sh
# Runs a plan on a Slurm cluster: two arrays of jobs, encode and then pairs, and an alignment after
# them.
#
#   mast3r plan photos/ --model mast3r --workers cuda --precision bf16 --work work/ --shards 64
#   SBATCH_EXTRA='--gres=gpu:1 --time=4:00:00' scripts/slurm_reconstruct.sh work/ --images photos/ -o cloud.ply
#
# Arguments after the work folder are those of `mast3r align`; without any, nothing is aligned.
# SBATCH_EXTRA has options of sbatch for every job, ALIGN_EXTRA further ones for the alignment,
# MAST3R the program, RUN_EXTRA options of `mast3r run`. The folder, the images, the weights and the
# program must have the same paths on all nodes. A job that dies with its node is queued again, and
# goes on from what is there.
set -eu

work=${1:?usage: slurm_reconstruct.sh WORK [ARGUMENTS OF mast3r align]}
shift
program=${MAST3R:-mast3r}
shards=$(sed -n 's/^  "shards": \([0-9]*\),$/\1/p' "$work/plan.json")

# Prints an argument so that a shell reads it back.
quoted() { printf "'%s' " "$(printf %s "$1" | sed "s/'/'\\\\''/g")"; }

# submit STAGE [OPTIONS OF sbatch]: prints the number of the array
submit() {
  stage=$1
  shift
  # shellcheck disable=SC2086
  sbatch --parsable --requeue --job-name="mast3r-$stage" --array="0-$((shards - 1))" ${SBATCH_EXTRA:-} "$@" \
    --wrap="$(quoted "$program")run --work $(quoted "$work")--shard \$SLURM_ARRAY_TASK_ID --stage $stage ${RUN_EXTRA:-}"
}

encode=$(submit encode | cut -d';' -f1)
pairs=$(submit pairs --dependency="afterok:$encode" | cut -d';' -f1)
echo "encode: $encode, pairs: $pairs"
if [ $# -gt 0 ]; then
  arguments=
  for argument in "$@"; do arguments="$arguments$(quoted "$argument")"; done
  # shellcheck disable=SC2086
  align=$(sbatch --parsable --requeue --job-name=mast3r-align ${SBATCH_EXTRA:-} ${ALIGN_EXTRA:-} \
    --dependency="afterok:$pairs" --wrap="$(quoted "$program")align $(quoted "$work")$arguments" | cut -d';' -f1)
  echo "align: $align"
fi
