#!/usr/bin/env bash
# What is measured where there is an accelerator: first that the numbers are right, then the speed.
#
#   pip install -e ".[jax,torch,train,predict,test]"   # and the backends' builds for the accelerator
#   bash benchmarks/accelerator.sh FOLDER              # an hour or two
#   CPU=1 bash benchmarks/accelerator.sh FOLDER        # the same commands, small, to try them
#
# FOLDER, which must exist, gets the rows of all tables as JSON, and a profile of a training step.
set -euo pipefail
folder=$(cd "${1:?a folder for the results}" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
read -ra backends <<<"${BACKENDS:-jax torch}"
if [ -n "${CPU:-}" ]; then
  variants=(micro) batches=(2 4) peer_modes=(eager) rounds=1 seconds=0 precision=float32
else
  variants=(tiny base) batches=(64 128 256) peer_modes=(channels_last compile) rounds=5 seconds=2
  precision=mixed_bfloat16
fi

echo "# Golden values, the training's parity with the official code, and a resume, in float32"
for backend in "${backends[@]}"; do
  # float32 without a shortcut through fewer bits, see docs/accelerators.md
  export KERAS_BACKEND=$backend JAX_DEFAULT_MATMUL_PRECISION=highest NVIDIA_TF32_OVERRIDE=0
  python -m pytest -q -m "" tests/test_parity.py
  python -m pytest -q -m "not deep and not once" tests/training/test_resume.py
  unset KERAS_BACKEND JAX_DEFAULT_MATMUL_PRECISION NVIDIA_TF32_OVERRIDE
done

echo "# Speed, against the official network under autocast, with its AdamW in one kernel"
failed=()
for mode in inference training; do
  fused=()
  [ $mode = training ] && fused=(--peer-optimizer fused)
  for variant in "${variants[@]}"; do
    for batch in "${batches[@]}"; do
      # where one contender runs out of memory the rest is still measured
      python -m benchmarks.network --variant "$variant" --batch "$batch" --mode $mode \
        --precision $precision --backends "${backends[@]}" --forms plain \
        --peer-modes "${peer_modes[@]}" "${fused[@]}" --rounds $rounds --seconds $seconds \
        --json "$folder/$mode-$variant-$batch.json" || failed+=("$mode-$variant-$batch")
    done
  done
done

echo "# A profile of three training steps of each backend"
for backend in "${backends[@]}"; do
  KERAS_BACKEND=$backend python -m benchmarks.profile --variant "${variants[0]}" \
    --batch "${batches[0]}" --precision $precision "$folder/profile-$backend"
done

if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}"
  exit 1
fi
