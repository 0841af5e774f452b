# Sourced by cross.sh: drives wardgate.exe under Wine from outside, as a program of the console and
# as a service. Ports are the system's choice and are read from the logs. Waits on what the programs
# say, never for a time.

# The longest wait for anything.
WINDOWS_PATIENCE=60

windows_gateway() {
  windows_wine
  # What came before must not lend its service control manager: this one's errors are read below.
  windows_end_wine
  say "driving the gateway under Wine"
  exe=$WINDOWS_CACHE/target/$WINDOWS_TARGET/debug/wardgate.exe
  work=$(mktemp -d)
  data=$WINEPREFIX/drive_c/ProgramData/Wardgate
  started=()
  local status=0
  # A shell of its own: the first step that fails ends it. `||` would switch that off inside.
  set +e
  (
    set -e
    trap windows_end_started EXIT
    windows_console
    windows_service
  )
  status=$?
  set -e
  [ "$status" -eq 0 ] || windows_show_logs
  windows_end_wine
  [ -n "${KEEP:-}" ] || rm -rf "$work" "$data"
  return "$status"
}

# --- on the console ---------------------------------------------------------------------------------

windows_console() {
  windows_backend
  windows_configuration certs >"$work/gateway.yaml"
  (cd "$work" && exec "$wine" "$exe" run gateway.yaml >"$work/access.log" 2>"$work/gateway.log") &
  local gateway=$!
  started+=("$gateway")
  wait_for "the gateway to serve" told "$work/gateway.log" '"message":"ready"'
  serves_both "$work/gateway.log" "$work/certs"
  windows_reload
  windows_file_change

  step_in_flight "$work/gateway.log"
  kill -INT "$gateway"
  wait_for "the stop" told "$work/gateway.log" '"reason":"Ctrl-C"'
  ends_well "$gateway" "the gateway"
  finished_in_flight
  told "$work/gateway.log" '"message":"drained"' || failed "it did not drain"
  passed "console: http, https, Ctrl-C finishes what is in flight"
}

# By `wardgate reload` with the token: a configuration that is taken, one that is not, and none.
windows_reload() {
  local log=$work/gateway.log
  add_site "$work/gateway.yaml" two.test
  # What watches the file may have been quicker; either way it is in force then.
  said_by 0 "reload gateway.yaml" '^(applied|unchanged): generation 2 '
  [ "$(ask_site "$log" two.test)" = two.test ] || failed "the new site is not served"
  told "$log" '"message":"reloaded"' || failed "the log does not say that it reloaded"
  said_by 0 "reload gateway.yaml" '^unchanged: generation 2 '

  cp "$work/gateway.yaml" "$work/good"
  echo 'sitse: {}' >>"$work/gateway.yaml"
  said_by 2 "reload gateway.yaml" 'gateway.yaml:[0-9]+:1: .*sitse' '^rejected: generation 2 stays'
  [ "$(ask_site "$log" two.test)" = two.test ] || failed "a rejected configuration broke what was served"
  said_by 0 "status gateway.yaml" 'generation 2' 'last reload rejected'
  cat "$work/good" >"$work/gateway.yaml"
  said_by 0 "reload gateway.yaml" '^unchanged: generation 2 '
  passed "console: wardgate reload and status, applied, unchanged and rejected"
}

# A change of the file alone is noticed: Wine, too, tells of changes in directories.
windows_file_change() {
  local log=$work/gateway.log
  add_site "$work/gateway.yaml" three.test
  wait_for "the file's change" told "$log" '"reason":"file","generation":3'
  [ "$(ask_site "$log" three.test)" = three.test ] || failed "the new site is not served"
  passed "console: a changed file is put in force"
}

# add_site FILE HOST - answered by the gateway itself.
add_site() { sed -i "s!^sites:!&\n  $2: { https: both, routes: [{ respond: $2 }] }!" "$1"; }

# ask_site LOG HOST
ask_site() {
  local web
  web=$(port_of "$1" web)
  ask "http://$2:$web/" --resolve "$2:$web:127.0.0.1"
}

windows_backend() {
  rm -f "$work/backend.out" # of the one before
  "$wine" "$exe" demo-backend --bind 127.0.0.1:0 >"$work/backend.out" 2>"$work/backend.log" &
  started+=("$!")
  wait_for "the demo backend" told "$work/backend.out" 'http://'
  backend=$(sed -n 's!.*http://\([0-9.:]*\)/.*!\1!p' "$work/backend.out")
}

# windows_configuration [STORAGE]
windows_configuration() {
  cat <<YAML
listeners:
  web: { bind: "127.0.0.1:0", protocol: http }
  secure: { bind: "127.0.0.1:0", protocol: https }
sites:
  app.test: { https: both, upstream: "http://$backend" }
admin: { bind: "127.0.0.1:0" }
${1:+storage: $1}
YAML
}

# serves_both LOG STORAGE
serves_both() {
  local web secure answer
  web=$(port_of "$1" web)
  secure=$(port_of "$1" secure)
  answer=$(ask "http://app.test:$web/health" --resolve "app.test:$web:127.0.0.1")
  [ "$answer" = ok ] || failed "http: $answer"
  answer=$(ask "https://app.test:$secure/health" --resolve "app.test:$secure:127.0.0.1" \
    --cacert "$2/local-ca/ca.pem")
  [ "$answer" = ok ] || failed "https: $answer"
}

# step_in_flight LOG - begins an answer that takes two seconds, and waits for its first line.
step_in_flight() {
  local web
  web=$(port_of "$1" web)
  curl -sS --no-buffer --max-time "$WINDOWS_PATIENCE" --resolve "app.test:$web:127.0.0.1" \
    "http://app.test:$web/stream?count=5&every=500" >"$work/stream" 2>"$work/stream.log" &
  in_flight=$!
  started+=("$in_flight")
  wait_for "the first line of the answer" test -s "$work/stream"
  [ "$(wc -l <"$work/stream")" -lt 5 ] || failed "the answer ended before the stop"
}

finished_in_flight() {
  wait "$in_flight" || failed "the request in flight was cut: $(cat "$work/stream.log")"
  [ "$(wc -l <"$work/stream")" -eq 5 ] || failed "the answer in flight is not whole"
}

# --- as a service -----------------------------------------------------------------------------------

windows_service() {
  local log=$data/logs/wardgate.log events=$work/events.log
  rm -rf "$data"
  # A service ends soon after the last program of the prefix, so one stays. It is also what starts
  # the service control manager, which hands its standard error, where Wine writes the event log,
  # down to the services.
  windows_end_wine
  windows_stay "$events"
  windows_backend
  mkdir -p "$data"
  windows_configuration >"$data/gateway.yaml" # its state goes beside it

  service uninstall >/dev/null || true # left by a run that was ended
  said 0 install 'installed;'
  said 1 status 'state +stopped' 'start +automatic' 'account +LocalSystem' \
    'command +.*wardgate.exe"? service run --logs .*Wardgate\\logs .*Wardgate\\gateway.yaml'
  windows_recovery "$events"
  "$wine" reg query 'HKLM\SYSTEM\CurrentControlSet\Services\EventLog\Application\Wardgate' \
    2>/dev/null | grep -q EventMessageFile || failed "the event log does not know the service"
  said 1 install 'installed already'

  said 0 start running
  said 0 status 'state +running'
  serves_both "$log" "$data"
  windows_service_reload "$log" "$events"

  step_in_flight "$log"
  said 0 stop stopped
  finished_in_flight
  told "$log" '"reason":"service stop"' || failed "the log does not say why it stopped"
  told "$log" '"message":"drained"' || failed "it did not drain"
  said 1 status 'state +stopped$'
  passed "service: install, start, http, https, stop finishes what is in flight"

  echo 'sites: 5' >"$data/gateway.yaml"
  said 1 start 'did not start: it is stopped, with exit status 2'
  told "$log" 'gateway.yaml:1' || failed "the log does not say what is wrong with the configuration"
  wait_for "the event log" told "$events" 'gateway.yaml:1'
  said 0 uninstall removed
  said 1 status 'not installed'
  [ -e "$data/gateway.yaml" ] || failed "uninstalling took the configuration along"
  passed "service: a start that fails is told, uninstall"
}

# windows_recovery EVENTS - Wine 8 does not keep recovery actions; what it says then is the only proof
# that it was given them.
windows_recovery() {
  local actions='restart after 5 s, restart after 30 s, restart after 60 s; reset after 86400 s'
  service status | grep -q "$actions" || told "$1" 'FAILURE_ACTIONS not implemented: period 86400' ||
    failed "there are no recovery actions: $(service status)"
}

# windows_service_reload LOG - by the control code: a configuration that is taken, and one that is not.
windows_service_reload() {
  add_site "$data/gateway.yaml" two.test
  said 0 reload 'asked for a reload'
  wait_for "the new generation" told "$1" '"message":"reloaded".*"generation":2'
  [ "$(ask_site "$1" two.test)" = two.test ] || failed "the new site is not served"
  # Now that nothing has changed, only the control code can be the reason.
  said 0 reload 'asked for a reload'
  wait_for "the control code" told "$1" '"reason":"service","generation":2'

  cp "$data/gateway.yaml" "$work/good"
  echo 'sitse: {}' >>"$data/gateway.yaml"
  said 0 reload 'asked for a reload'
  wait_for "the rejection" told "$1" '"message":"rejected a configuration".*sitse'
  wait_for "its event" told "$2" 'rejected a configuration.*sitse'
  [ "$(ask_site "$1" two.test)" = two.test ] || failed "a rejected configuration broke what was served"
  cat "$work/good" >"$data/gateway.yaml"

  # The service's file, token and address are found without being named.
  add_site "$data/gateway.yaml" three.test
  rm "$work/gateway.yaml"
  said_by 0 reload '^(applied|unchanged): generation 3 '
  said_by 0 status 'generation 3' 'three.test'
  passed "service: reload by the control code, applied and rejected, the error in the event log"
}

# windows_stay EVENTS - a program that stays until this shell ends.
windows_stay() {
  mkfifo "$work/stay"
  WINEDEBUG=-all,err+eventlog,fixme+service "$wine" cmd.exe <"$work/stay" >"$work/stay.out" 2>"$1" &
  started+=("$!")
  exec 9>"$work/stay"
  printf 'ver\r\n' >&9
  wait_for "Wine" told "$work/stay.out" 'Microsoft Windows [0-9]'
}

service() { timeout "$WINDOWS_PATIENCE" "$wine" "$exe" service "$@" 2>&1 </dev/null | tr -d '\r'; }

# said STATUS COMMAND PATTERN... - runs a command of `wardgate service`.
said() {
  local wanted=$1 command=$2
  shift 2
  said_by "$wanted" "service $command" "$@"
}

# said_by STATUS "COMMAND ARGUMENT..." PATTERN... - runs a command of wardgate in the work directory.
said_by() {
  local wanted=$1 command=$2 status=0 output pattern
  shift 2
  # shellcheck disable=SC2086 # words without spaces, split on purpose
  output=$(cd "$work" && timeout "$WINDOWS_PATIENCE" "$wine" "$exe" $command 2>&1 </dev/null | tr -d '\r') ||
    status=$?
  [ "$status" -eq "$wanted" ] || failed "$command ended with $status: $output"
  for pattern in "$@"; do
    grep -Eq -- "$pattern" <<<"$output" || failed "$command does not say \"$pattern\": $output"
  done
}

# --- tools ------------------------------------------------------------------------------------------

told() { grep -q -- "$2" "$1" 2>/dev/null; }

# port_of LOG LISTENER - where it listens since the last start.
port_of() {
  grep '"message":"listening"' "$1" | grep "\"listener\":\"$2\"" | tail -n 1 |
    sed 's/.*"server.address":"[0-9.]*:\([0-9]*\)".*/\1/'
}

ask() { curl -sS --max-time "$WINDOWS_PATIENCE" "$@" 2>&1 || true; }

# wait_for WHAT COMMAND... - looks again until the command succeeds.
wait_for() {
  local what=$1 end=$((SECONDS + WINDOWS_PATIENCE))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || failed "waited $WINDOWS_PATIENCE s for $what"
    sleep 0.1
  done
}

ends_well() {
  local status=0
  wait "$1" || status=$?
  [ "$status" -eq 0 ] || failed "$2 ended with $status"
}

windows_end_started() {
  local process
  for process in "${started[@]}"; do
    kill -KILL "$process" 2>/dev/null || true
  done
}

# This prefix's server, and with it every program in the prefix; a fresh one starts by itself.
windows_end_wine() {
  "$(dirname "$wine")/wineserver64" -k 2>/dev/null || true
  "$(dirname "$wine")/wineserver64" -w 2>/dev/null || true
}

windows_show_logs() {
  local log
  for log in "$work"/*.log "$data"/logs/*.log; do
    [ -s "$log" ] || continue
    printf -- '--- %s\n' "${log##*/}" >&2
    tail -n 40 "$log" >&2
  done
}

passed() { printf 'ok - %s\n' "$1"; }

failed() {
  printf 'not ok - %s\n' "$1" >&2
  exit 1
}
