#!/usr/bin/env bash
# Records what a running vLLM answers, for the tests that compare the simulator with it by shape:
#   record.sh BASE_URL MODEL OUT_DIR        (for example: record.sh http://127.0.0.1:8000 tiny recordings)
# Start the server with --max-model-len 2048 and without --enable-prompt-tokens-details. A second server that has that
# option is recorded by: record.sh --details BASE_URL MODEL OUT_DIR. Needs curl.
set -euo pipefail

details=no
if [ "${1:-}" = --details ]; then
  details=yes
  shift
fi
base=${1:?usage: record.sh [--details] BASE_URL MODEL OUT_DIR}
model=${2:?usage: record.sh [--details] BASE_URL MODEL OUT_DIR}
out=${3:?usage: record.sh [--details] BASE_URL MODEL OUT_DIR}
mkdir -p "$out"

# record FILE METHOD PATH [BODY]: the body of the answer goes to FILE, its status to FILE.status unless it is 200.
record() {
  local file=$out/$1 status
  rm -f "$file.status"
  status=$(curl --silent --show-error --max-time 120 --output "$file" --write-out '%{http_code}' --request "$2" \
    --header 'content-type: application/json' ${4:+--data-binary "$4"} "$base$3")
  [ "$status" = 200 ] || echo "$status" > "$file.status"
  echo "$1: $status"
}

chat() { printf '{"model":"%s","messages":[{"role":"user","content":"%s"}]%s}' "$model" "$1" "${2:-}"; }
streamed='"stream":true'
usage='"stream_options":{"include_usage":true}'

# Longer than two blocks of the cache (128 tokens on a CPU), so that the second of two equal requests finds the first one's.
long=$(printf 'one two three four five six seven eight %.0s' {1..40})

if [ $details = yes ]; then
  record chat-details-cold.json POST /v1/chat/completions "$(chat "$long" ',"max_tokens":2')"
  record chat-details.json POST /v1/chat/completions "$(chat "$long" ',"max_tokens":2')"
  record chat-details.sse POST /v1/chat/completions "$(chat "$long" ",\"max_tokens\":2,$streamed,$usage")"
  record messages-details.json POST /v1/messages "$(chat "$long" ',"max_tokens":2')"
  record messages-details.sse POST /v1/messages "$(chat "$long" ",\"max_tokens\":2,$streamed")"
  record responses-details.json POST /v1/responses "{\"model\":\"$model\",\"input\":\"$long\",\"max_output_tokens\":2}"
  exit
fi

record models.json GET /v1/models
record chat.json POST /v1/chat/completions "$(chat hello ',"max_tokens":8')"
record chat.sse POST /v1/chat/completions "$(chat hello ",\"max_tokens\":4,$streamed,$usage")"
# Early: the page has series for every path and status that has been asked for, and the simulator shows this page.
record metrics.txt GET /metrics
record notfound.json POST /v1/chat/completions '{"model":"nope","messages":[{"role":"user","content":"hello"}]}'
record completions.json POST /v1/completions "{\"model\":\"$model\",\"prompt\":[\"a b\",\"c d\"],\"max_tokens\":4}"
record completions.sse POST /v1/completions "{\"model\":\"$model\",\"prompt\":\"a b\",\"max_tokens\":4,$streamed,$usage}"
record responses.json POST /v1/responses "{\"model\":\"$model\",\"input\":\"hello\",\"max_output_tokens\":16}"
record responses-cached.json POST /v1/responses "{\"model\":\"$model\",\"input\":\"$long\",\"max_output_tokens\":2}"
record responses-cached.json POST /v1/responses "{\"model\":\"$model\",\"input\":\"$long\",\"max_output_tokens\":2}"
record responses.sse POST /v1/responses "{\"model\":\"$model\",\"input\":\"hello\",\"max_output_tokens\":16,$streamed}"
record messages.json POST /v1/messages "$(chat hello ',"max_tokens":4')"
record messages-cached.json POST /v1/messages "$(chat "$long" ',"max_tokens":2')"
record messages-cached.json POST /v1/messages "$(chat "$long" ',"max_tokens":2')"
record messages.sse POST /v1/messages "$(chat hello ",\"max_tokens\":4,$streamed")"
record messages-notfound.json POST /v1/messages '{"model":"nope","max_tokens":4,"messages":[{"role":"user","content":"hello"}]}'
record messages-invalid.json POST /v1/messages "{\"model\":\"$model\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}"
record tokenize.json POST /tokenize "{\"model\":\"$model\",\"prompt\":\"hello\"}"
record version.json GET /version
record bad-json.json POST /v1/chat/completions '{"model":'
record bad-type.json POST /v1/chat/completions "{\"model\":\"$model\",\"messages\":5}"
record missing-field.json POST /v1/chat/completions "{\"model\":\"$model\"}"
record bad-limit.json POST /v1/completions "{\"model\":\"$model\",\"prompt\":\"a\",\"max_tokens\":-1}"
record too-long.json POST /v1/completions "{\"model\":\"$model\",\"prompt\":\"a\",\"max_tokens\":5000}"
record stream-options.json POST /v1/chat/completions "$(chat hello ",$usage")"
record no-path.json POST /v1/nothing '{}'
record no-method.json GET /v1/chat/completions
