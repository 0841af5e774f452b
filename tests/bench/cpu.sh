# CPU time per request of servers that take turns under the same load: sourced by the scripts beside
# it. The servers share core 0, load (wrk, 32 connections that are kept) and backend (nginx) core 1.
# Names: $work is a folder of its own, removed at the end; $last is the process started last.
# shellcheck shell=bash
set -euo pipefail
for program in nginx wrk curl taskset; do
  command -v "$program" > /dev/null || { echo "$program is missing" >&2; exit 1; }
done
work=$(mktemp -d)
pids=() names=() servers=() ports=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM HUP

# A free port from the kernel.
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# CORE COMMAND...: in the background, what it says in a file.
start() {
  taskset -c "$1" "${@:2}" 2> "$work/${#pids[@]}.err" &
  last=$!
  pids+=("$last")
}

# CORE NAME: an nginx whose `http` block is standard input.
start_nginx() {
  {
    printf 'daemon off; worker_processes 1; pid %s.pid; error_log %s.err;\n' "$work/$2" "$work/$2"
    [ "$(id -u)" != 0 ] || echo 'user root;' # the workers read the folder made above
    printf 'events { worker_connections 4096; }\nhttp {\nkeepalive_requests 1000000000;\n'
    cat
    echo '}'
  } > "$work/$2.conf"
  start "$1" nginx -c "$work/$2.conf"
}

# The backend of all, on $backend: /k is 1 KiB of text.
start_backend() {
  mkdir "$work/www"
  head -c 1024 /dev/zero | tr '\0' x > "$work/www/k"
  backend=$(port)
  start_nginx 1 backend <<< "access_log off; server { listen 127.0.0.1:$backend; root $work/www; }"
  wait_for "$backend"
}

# NAME: nginx as a proxy, with its access log in a file.
compete_nginx() {
  local port
  port=$(port)
  start_nginx 0 proxy << CONF
    access_log $work/nginx.log;
    upstream app { server 127.0.0.1:$backend; keepalive 128; keepalive_requests 1000000000; }
    server { listen 127.0.0.1:$port; location / { proxy_pass http://app; proxy_http_version 1.1;
      proxy_set_header Connection ""; proxy_set_header X-Forwarded-For \$proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto \$scheme; proxy_set_header X-Forwarded-Host \$host;
      proxy_set_header X-Request-Id \$request_id; proxy_set_header Host \$host; } }
CONF
  compete "$1" "$port"
}

# NAME ACCESS [FILTERS]: $wardgate with that access log and those filters, both as YAML.
compete_wardgate() {
  local port file=$work/gateway-${#pids[@]}.yaml
  port=$(port)
  cat > "$file" << YAML
listeners: { web: { bind: "127.0.0.1:$port", protocol: http } }
sites: { "*": { upstream: "http://127.0.0.1:$backend"${3:+, filters: $3} } }
log: { level: warn, access: $2 }
admin: off
runtime: { threads: 1 }
YAML
  start 0 "$wardgate" run "$file"
  compete "$1" "$port"
}

# NAME PORT: the process started last is one of those that take turns.
compete() {
  names+=("$1") servers+=("$last") ports+=("$2")
  wait_for "$2"
}

# PORT: until it answers.
wait_for() {
  local end=$((SECONDS + 15))
  until curl -sf -m 2 -o /dev/null "http://127.0.0.1:$1/k"; do
    if ! kill -0 "$last" 2> /dev/null || [ "$SECONDS" -gt "$end" ]; then
      cat "$work"/*.err >&2
      exit 1
    fi
    sleep 0.1
  done
}

# PID: ticks of user and system time of it and its children.
ticks() {
  local pid
  for pid in $1 $(pgrep -P "$1" || true); do
    cat "/proc/$pid/stat"
  done | sed 's/.*) //' | awk '{ total += $12 + $13 } END { print total + 0 }'
}

# INDEX SECONDS: one turn, noted and told.
measure() {
  local before after requests
  before=$(ticks "${servers[$1]}")
  taskset -c 1 wrk -t1 -c32 -d"$2s" "http://127.0.0.1:${ports[$1]}/k" > "$work/wrk"
  after=$(ticks "${servers[$1]}")
  if grep -E 'Non-2xx|Socket errors' "$work/wrk" >&2; then
    echo "${names[$1]} did not answer every request" >&2
    exit 1
  fi
  requests=$(awk '/requests in/ { print $1 }' "$work/wrk")
  awk -v name="${names[$1]}" -v t=$((after - before)) -v n="$requests" -v hz="$(getconf CLK_TCK)" \
    'BEGIN { printf "%.2f\t%d\t%s\n", t / hz * 1e6 / n, n, name }' | tee -a "$work/turns" >&2
}

# SECONDS ROUNDS: everybody's turns, each round begun by another, after one that does not count.
take_turns() {
  local round turn count=${#names[@]}
  for ((turn = 0; turn < count; turn++)); do measure $turn 1; done
  : > "$work/turns"
  for ((round = 0; round < $2; round++)); do
    for ((turn = 0; turn < count; turn++)); do measure $(((round + turn) % count)) "$1"; done
  done
}

# A table: CPU time per request, the median of the rounds and the quietest, beside the first's.
table() {
  local name reference=
  echo '| server | CPU µs/request, median | quietest round | median beside the first |'
  echo '|---|---|---|---|'
  for name in "${names[@]}"; do
    awk -F '\t' -v name="$name" '$3 == name { print $1 }' "$work/turns" | sort -n > "$work/sorted"
    reference=$(awk -v name="$name" -v reference="$reference" '
      { turn[NR] = $1 }
      END {
        median = NR % 2 ? turn[(NR + 1) / 2] : (turn[NR / 2] + turn[NR / 2 + 1]) / 2
        if (reference == "") reference = median
        printf "| %s | %.2f | %.2f | %.2f |\n", name, median, turn[1], median / reference > "/dev/stderr"
        print reference
      }' "$work/sorted" 2>> "$work/table")
  done
  cat "$work/table"
}
