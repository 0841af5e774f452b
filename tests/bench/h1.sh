#!/usr/bin/env bash
# CPU time per proxied 1 KiB request over HTTP/1.1 keep-alive: wardgate beside Debian's nginx, in
# turns, each pinned to one core; load (wrk) and backend (nginx) on another. Access logs to files.
# usage: h1.sh [WARDGATE] [SECONDS] [ROUNDS]      needs nginx and wrk, and a release build
set -euo pipefail
wardgate=$(realpath "${1:-target/release/wardgate}") seconds=${2:-5} rounds=${3:-3}
work=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT
mkdir "$work/www"
head -c 1024 /dev/zero | tr '\0' x > "$work/www/k"

# A free port from the kernel.
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
backend=$(port) by_nginx=$(port) by_wardgate=$(port)

nginx_main() { # name
  printf 'daemon off; worker_processes 1; pid %s/%s.pid; error_log %s/%s.err;\n' "$work" "$1" "$work" "$1"
  [ "$(id -u)" != 0 ] || echo 'user root;'   # the workers read the folder made above
  printf 'events { worker_connections 4096; }\n'
}
{ nginx_main backend
  echo "http { access_log off; keepalive_requests 1000000000; server { listen 127.0.0.1:$backend; root $work/www; } }"
} > "$work/backend.conf"
{ nginx_main proxy
  echo "http { access_log $work/nginx.log; keepalive_requests 1000000000;
    upstream app { server 127.0.0.1:$backend; keepalive 128; keepalive_requests 1000000000; }
    server { listen 127.0.0.1:$by_nginx; location / { proxy_pass http://app; proxy_http_version 1.1;
      proxy_set_header Connection \"\"; proxy_set_header X-Forwarded-For \$proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto \$scheme; proxy_set_header X-Forwarded-Host \$host;
      proxy_set_header X-Request-Id \$request_id; proxy_set_header Host \$host; } } }"
} > "$work/proxy.conf"
cat > "$work/gateway.yaml" <<YAML
listeners: { web: { bind: "127.0.0.1:$by_wardgate", protocol: http } }
sites: { localhost: { upstream: "http://127.0.0.1:$backend" }, "*": { upstream: "http://127.0.0.1:$backend", certificate: internal } }
log: { level: warn, access: { file: access.log } }
admin: off
runtime: { threads: 1 }
YAML

taskset -c 1 nginx -c "$work/backend.conf" & pids+=($!)
taskset -c 0 nginx -c "$work/proxy.conf" & pids+=($!); nginx_pid=$!
taskset -c 0 "$wardgate" run "$work/gateway.yaml" 2> "$work/wardgate.err" & pids+=($!); wardgate_pid=$!
for one in $backend $by_nginx $by_wardgate; do
  until curl -sf -o /dev/null "http://127.0.0.1:$one/k"; do
    kill -0 "${pids[@]}" || { cat "$work"/*.err >&2; exit 1; }
    sleep 0.1
  done
done

ticks() { # pid of the parent: user and system ticks of it and its children
  local total=0 pid
  for pid in $1 $(pgrep -P "$1" || true); do
    total=$((total + $(awk '{ print $14 + $15 }' "/proc/$pid/stat")))
  done
  echo $total
}
measure() { # name pid port
  local before after requests
  before=$(ticks "$2")
  requests=$(taskset -c 1 wrk -t1 -c32 -d"${seconds}s" "http://127.0.0.1:$3/k" | awk '/requests in/ { print $1 } /Non-2xx/ { print "bad" > "/dev/stderr" }')
  after=$(ticks "$2")
  awk -v name="$1" -v t=$((after - before)) -v n="$requests" -v hz="$(getconf CLK_TCK)" \
    'BEGIN { printf "%-10s %8d requests  %6.2f CPU us/request\n", name, n, t / hz * 1e6 / n }'
}
for ((round = 1; round <= rounds; round++)); do
  measure nginx "$nginx_pid" "$by_nginx"
  measure wardgate "$wardgate_pid" "$by_wardgate"
done
