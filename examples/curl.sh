#!/bin/sh
# Every dialect with nothing but curl. OPENAI_BASE_URL is the server, OPENAI_API_KEY its key, if it wants one.
set -eu

base=${OPENAI_BASE_URL:-http://127.0.0.1:8080/v1}
root=${base%/v1}

post() {
  curl --silent --show-error --fail-with-body --max-time 100 "$1" \
    -H "Authorization: Bearer ${OPENAI_API_KEY:-none}" -H 'Content-Type: application/json' -d "$2"
}

printf '\n== chat\n'
post "$base/chat/completions" '{
  "messages": [{"role": "user", "content": "What is a PEP?"}],
  "max_tokens": 100
}'

printf '\n== a stream\n'
post "$base/chat/completions" '{
  "messages": [{"role": "user", "content": "What is a PEP?"}],
  "max_tokens": 100,
  "stream": true
}'

printf '\n== a schema\n'
post "$base/chat/completions" '{
  "messages": [{"role": "user", "content": "How hard is it to write a parser?"}],
  "response_format": {"type": "json_schema", "json_schema": {"name": "opinion", "schema": {
    "type": "object",
    "properties": {"level": {"enum": ["low", "high"]}},
    "required": ["level"],
    "additionalProperties": false
  }}}
}'

printf "\n== Anthropic's messages\n"
post "$root/v1/messages" '{
  "messages": [{"role": "user", "content": "What is a PEP?"}],
  "model": "default",
  "max_tokens": 100
}'

printf "\n== Ollama's chat\n"
post "$root/api/chat" '{
  "messages": [{"role": "user", "content": "What is a PEP?"}],
  "options": {"num_predict": 100},
  "stream": false
}'

printf "\n== SGLang's generate\n"
post "$root/generate" '{
  "text": "PEP 484 is titled",
  "sampling_params": {"max_new_tokens": 12, "temperature": 0}
}'
printf '\n'
