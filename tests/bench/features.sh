#!/usr/bin/env bash
# What metrics, the access log and a chain of filters cost: CPU time per proxied 1 KiB request over
# HTTP/1.1 keep-alive of wardgate with none of them and with all, beside Debian's nginx with its log.
# usage: features.sh [WARDGATE] [SECONDS] [ROUNDS]      needs nginx and wrk, and a release build
#
# Six rounds of five seconds for each of five servers: under three minutes. The middle rows tell which
# of the two costs what.
#
# - Metrics cannot be turned off, so "bare" counts too. What counting a request costs is printed by
#   `cargo test --release --lib a_request_costs_little -- --nocapture`.
# - The chain is the handbook's `public` and the two filters that it lacks, with a rate that is never
#   reached. The response is of a type that `compress` encodes, and of its least size; wrk sends no
#   Accept-Encoding, so that `compress` decides, adds Vary, and encodes nothing.
source "$(dirname "$(realpath "$0")")/cpu.sh"
wardgate=$(realpath -e "${1:-target/release/wardgate}")
chain='[ { security_headers: {} }, { access: { deny: [192.0.2.0/24, "2001:db8::/32"] } },
  { rate_limit: { key: client_ip, rate: 1000000000/s } }, { body_limit: 10MiB },
  { request_headers: { set: { X-Env: prod } } },
  { response_headers: { remove: [Server, X-Powered-By] } }, { compress: [zstd, br, gzip] } ]'
start_backend
compete_nginx 'nginx, access log'
compete_wardgate 'wardgate, bare' off
compete_wardgate 'wardgate, access log' "{ file: $work/log.log }"
compete_wardgate 'wardgate, filters' off "$chain"
compete_wardgate 'wardgate, access log and filters' "{ file: $work/full.log }" "$chain"
take_turns "${2:-5}" "${3:-6}"
table
