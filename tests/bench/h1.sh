#!/usr/bin/env bash
# CPU time per proxied 1 KiB request over HTTP/1.1 keep-alive: wardgate beside Debian's nginx, both
# with an access log in a file.
# usage: h1.sh [WARDGATE] [SECONDS] [ROUNDS]      needs nginx and wrk, and a release build
source "$(dirname "$(realpath "$0")")/cpu.sh"
wardgate=$(realpath -e "${1:-target/release/wardgate}")
start_backend
compete_nginx nginx
compete_wardgate wardgate "{ file: $work/access.log }"
take_turns "${2:-5}" "${3:-3}"
table
