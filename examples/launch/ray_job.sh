#!/bin/sh
# Predictions for a bucket on a Ray cluster: sh ray_job.sh s3://bucket/photos/ s3://bucket/found
#
# RAY_API_SERVER_ADDRESS, or --address, says where the cluster is; its machines have
# keras-metaformer[torch,ray] and the package of the bucket (s3fs, gcsfs). The same
# command again goes on where a job ended.
set -eu
exec ray job submit ${RAY_API_SERVER_ADDRESS:+--address "$RAY_API_SERVER_ADDRESS"} \
    --runtime-env-json '{"env_vars": {"KERAS_BACKEND": "torch"}}' \
    -- keras-metaformer predict "$1" --model CAFormerS18 --ray --output "$2" \
    --actors 16 --gpus 1 --cpus 8 --workers 7 --batch 256
