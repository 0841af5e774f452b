//! What was found in the engine (pingora 0.9.1 with rustls) that could have become the gateway's
//! own fault, and the test that shows for each that it did not.
//!
//! Found by reading its source and by running it bare. An entry that does not concern us says why:
//! mostly because that part of the engine is not used.

mod request;

use crate::support::{Shown, hold_against_sources, in_repository};

use Shown::{By, Not};

/// A trap, and what shows that nobody falls into it.
const TRAPS: &[(&str, Shown)] = &[
    // What works, and how.
    (
        "without its cleanup a drain hangs until its time is over",
        By(&["a_stop_finishes_what_is_in_flight_and_ends_as_soon_as_that_is_done"]),
    ),
    (
        "its TLS settings offer h2 and HTTP/1.1, or one other protocol, and never all",
        By(&[
            "tls_alpn_01_is_answered_by_the_https_listener_whoever_else_is_asked_for_a_certificate",
            "h2_is_agreed_on_by_alpn_and_known_beforehand_without_tls",
        ]),
    ),
    (
        "its TLS settings are fixed once they are made",
        By(&["a_new_certificate_is_served_as_soon_as_its_files_are_whole"]),
    ),
    (
        "no tickets, and 256 sessions",
        By(&[
            "sessions_resume_at_every_listener_but_under_no_other_name",
            "sessions_resume_after_a_reload",
        ]),
    ),
    (
        "its digest of a connection does not know the name that was asked for",
        By(&[
            "a_host_that_the_connection_was_not_made_for_is_misdirected",
            "a_host_that_is_no_site_of_the_connection_is_misdirected",
        ]),
    ),
    // What it does not do.
    ("no deadline for a head, only for each read", By(&["a_head_that_drips_in_is_cut"])),
    (
        "a kept connection may be idle for ever",
        By(&["an_idle_connection_is_closed_without_a_word"]),
    ),
    (
        "an idle h2 connection never closes, nor one on which no preface comes",
        By(&["silence_is_ended_by_its_deadline"]),
    ),
    (
        "no deadline towards a backend has a default",
        By(&[
            "the_effective_configuration_loads_again_to_the_same",
            "a_connection_that_does_not_come_about_is_given_up",
        ]),
    ),
    (
        "a time-out is 502 and never 504",
        By(&[
            "a_backend_that_does_not_begin_to_answer_is_given_up",
            "a_late_backend_is_answered_for_with_504",
        ]),
    ),
    (
        "64 KiB are read ahead for each connection",
        By(&["huge_bodies_pass_both_ways_in_little_memory", "a_head_without_end_costs_no_memory"]),
    ),
    ("no limit on connections", By(&["more_connections_than_allowed_are_closed_at_once"])),
    (
        "no limit on bodies",
        By(&[
            "a_body_that_says_it_is_too_long_reaches_nobody",
            "a_body_that_grows_too_long_is_cut_and_told",
        ]),
    ),
    (
        "256 fields and 1 MiB of head, always",
        By(&["heads_over_the_limits_are_refused", "limits_of_the_head_hold_on_h2"]),
    ),
    (
        "no PROXY protocol",
        By(&[
            "a_header_says_who_the_client_is_to_everybody_who_asks",
            "a_header_that_came_in_goes_out",
        ]),
    ),
    (
        "its pool shares connections that began with somebody's PROXY header",
        By(&[
            "a_connection_begins_with_the_clients_address_and_serves_only_this_client",
            "requests_of_several_clients_on_one_connection_do_not_share_either",
        ]),
    ),
    ("no HTTP/3", Not("the gateway offers none and announces none")),
    ("no 1xx on h2", By(&["a_client_of_h2_is_not_kept_waiting_by_100_continue"])),
    (
        "trailers to HTTP/1.1 are dropped while Trailer announces them",
        By(&[
            "hop_by_hop_fields_end_here",
            "a_response_s_hop_by_hop_fields_end_here_as_well",
            "large_bodies_pass_both_ways_and_trailers_to_the_client",
        ]),
    ),
    (
        "its compression does not look at q-values",
        By(&["the_client_gets_the_coding_it_likes_best"]),
    ),
    ("no choice of the less busy backend", By(&["least_requests_avoids_the_busy_server"])),
    ("no slow start", By(&["a_server_that_recovers_begins_with_few_requests"])),
    ("no tiers of backends", By(&["a_backup_takes_over_and_gives_back"])),
    ("no budget for retries", By(&["a_budget_keeps_retries_from_multiplying_a_failure"])),
    (
        "backends count as healthy before anybody asked them",
        By(&["requests_wait_for_the_first_check_or_do_not_as_initial_says"]),
    ),
    ("names of backends are looked up once", By(&["a_name_is_served_as_soon_as_it_resolves"])),
    (
        "kept connections to backends do not expire",
        By(&["a_connection_that_was_idle_for_too_long_is_closed"]),
    ),
    (
        "no limit on what goes to one pool of backends",
        By(&[
            "more_requests_than_allowed_are_told_to_come_back",
            "a_request_that_waits_for_a_place_gets_the_next_one",
        ]),
    ),
    (
        "one stream on each connection to an h2 backend",
        By(&[
            "requests_at_once_share_the_connection_to_an_h2_backend",
            "connections_to_h2_backends_are_used_again_for_all_clients",
        ]),
    ),
    // Accepted or forwarded as they come.
    (
        "HTTP/1.1 without Host, and a Host that is none",
        By(&["what_the_engine_would_forward_as_it_comes_is_refused_or_made_canonical"]),
    ),
    (
        "a bare LF, a method in lower case, a raw space in the target",
        By(&["what_the_engine_would_forward_as_it_comes_is_refused_or_made_canonical"]),
    ),
    (
        "Content-Length beside Transfer-Encoding, Content-Length twice, a coding it does not know",
        By(&[
            "what_the_engine_would_forward_as_it_comes_is_refused_or_made_canonical",
            "no_desync_payload_smuggles_a_request",
        ]),
    ),
    (
        "the absolute form goes upstream as it is",
        By(&[
            "what_the_engine_would_forward_as_it_comes_is_refused_or_made_canonical",
            "the_target_goes_on_in_origin_form",
        ]),
    ),
    (
        "a path with dot segments and empty ones is not touched",
        By(&[
            "what_the_engine_would_forward_as_it_comes_is_refused_or_made_canonical",
            "a_denied_path_cannot_be_dodged_by_its_spelling",
        ]),
    ),
    (
        "the client's X-Forwarded-For is not touched",
        By(&["the_backend_learns_who_asks_from_us_alone"]),
    ),
    (
        "hop-by-hop fields of responses reach the client",
        By(&["a_response_s_hop_by_hop_fields_end_here_as_well"]),
    ),
    // Traps.
    (
        "a certificate with a date that does not parse panics, verified or not",
        By(&["a_panic_in_a_request_is_contained_counted_and_named"]),
    ),
    ("a build that aborts on a panic", By(&["no_profile_ends_the_process_at_a_panic"])),
    (
        "TLS to a backend without a name fails",
        By(&["a_backend_that_has_no_name_is_spoken_to_over_tls_all_the_same"]),
    ),
    ("another name, curves and key shares are ignored", Not("none of them is configured")),
    (
        "a client's key that is not in DER panics",
        By(&["every_form_of_a_private_key_is_shown_or_refused_with_its_reason"]),
    ),
    (
        "a CA of the system that does not parse panics at the start",
        By(&["an_authority_of_the_system_that_cannot_be_read_stops_nothing"]),
    ),
    (
        "its pool tells connections apart by neither CA nor ALPN",
        By(&["a_connection_is_not_used_by_a_pool_that_trusts_somebody_else"]),
    ),
    (
        "its pool shares connections that carry an identity (NTLM, Negotiate)",
        By(&[
            "a_connection_that_carries_an_identity_is_nobody_elses",
            "an_http2_connection_that_carries_an_identity_is_nobody_elses",
            "auto_speaks_http1_where_a_login_is_the_connections",
        ]),
    ),
    (
        "it looks names up while everybody waits, and panics where there is none",
        By(&[
            "a_name_that_does_not_resolve_stops_nothing_but_its_own_requests",
            "a_name_that_does_not_resolve_stops_nobody",
        ]),
    ),
    (
        "no retry at all for some settings, 16 for others",
        By(&[
            "a_refused_connection_is_tried_once_more_elsewhere_whatever_the_method",
            "two_refusals_are_an_answer",
            "every_server_is_tried_before_any_is_tried_twice",
        ]),
    ),
    (
        "a body longer than 64 KiB cannot be sent again",
        By(&["a_body_that_is_not_kept_whole_is_not_sent_again"]),
    ),
    (
        "filters of a body run again when it is sent again",
        By(&["a_body_that_is_sent_again_is_counted_once"]),
    ),
    (
        "an error without a word on reuse panics",
        By(&[
            "a_request_lost_on_a_stale_connection_is_sent_again_only_if_it_may_be",
            "a_request_lost_on_a_fresh_connection_is_not_sent_again",
            "no_fault_of_a_backend_reaches_another_request",
        ]),
    ),
    (
        "weights that are all 0 panic",
        By(&["every_file_of_the_corpus_is_answered_as_its_golden_file_says"]),
    ),
    (
        "a socket that cannot be bound panics",
        By(&["a_start_without_all_of_its_sockets_serves_nothing"]),
    ),
    (
        "read time-outs and keep-alive do nothing on h2",
        By(&[
            "silence_is_ended_by_its_deadline",
            "a_client_that_takes_nothing_costs_little_and_is_cut",
        ]),
    ),
    (
        "h2c: a request of under 24 bytes gets no answer",
        By(&[
            "a_request_shorter_than_the_preface_of_h2_is_answered",
            "a_listener_for_both_protocols_is_not_confused_by_single_bytes",
        ]),
    ),
    (
        "`te: trailers` is stripped from what goes to gRPC backends",
        By(&["te_trailers_reaches_h2_backends_only", "every_kind_of_call_passes_in_the_clear"]),
    ),
    (
        "a backend that answers early and closes can lose its answer",
        By(&["no_fault_of_a_backend_reaches_another_request"]),
    ),
    (
        "upgrades that pass by the filters",
        By(&[
            "who_is_denied_never_reaches_the_origin_whatever_he_speaks",
            "upgrades_get_the_fields_of_any_request",
            "a_limiter_counts_every_kind_of_request_and_says_when_to_come_back",
        ]),
    ),
    (
        "what clients do wrong is logged as an error",
        By(&["what_clients_do_wrong_is_no_error_of_the_gateway"]),
    ),
    ("no Unix sockets, and stubs for most socket options, on Windows", Not("sockets are our own")),
    ("cmake and a C compiler", Not("./dev has them installed")),
    // More limits, read in the source.
    (
        "bad heads are answered without hook, id and access line",
        By(&[
            "a_refused_head_is_answered_and_logged_under_one_id",
            "half_a_head_and_then_the_end_is_answered_and_has_its_line",
            "a_malformed_stream_has_its_line_and_too_many_end_the_connection",
        ]),
    ),
    (
        "settings of h2 and the word to drain are one for the process and never reset",
        By(&[
            "drain_says_goaway_and_finishes_the_streams_in_flight",
            "a_removed_listener_finishes_what_it_has_and_takes_no_more",
        ]),
    ),
    (
        "the 60 seconds that a read may take hold in tunnels",
        By(&[
            "what_is_silent_for_a_minute_lives_as_long_as_it_may",
            "an_idle_websocket_outlives_the_timeouts_of_requests",
        ]),
    ),
    (
        "one deadline for the head of an answer and its body",
        By(&[
            "a_backend_whose_head_drips_in_is_given_up",
            "a_body_that_trickles_is_not_cut",
            "a_body_that_stops_coming_is_cut_for_the_client_to_see",
        ]),
    ),
    (
        "a client that leaves is noticed only while bytes go back and forth",
        By(&[
            "a_client_that_leaves_while_the_head_is_awaited_cancels_the_request",
            "a_client_that_leaves_while_it_waits_for_a_place_is_forgotten",
        ]),
    ),
    (
        "the end of a client's direction is taken for its leaving",
        By(&[
            "a_client_that_pipelines_and_half_closes_gets_every_answer",
            "a_client_that_half_closes_behind_its_only_request_is_taken_for_gone",
        ]),
    ),
    (
        "an h2 backend is told of a client that left",
        By(&["a_client_that_leaves_cancels_the_backends_request_and_has_its_line"]),
    ),
    (
        "a byte of the next request fails the running one",
        By(&[
            "pipelined_requests_are_answered_in_order",
            "hundreds_of_pipelined_requests_are_all_answered",
        ]),
    ),
    (
        "100-continue is the backend's on h1 and nobody's on h2",
        By(&[
            "a_waiting_client_is_told_to_go_on_after_routing",
            "a_refused_client_is_not_told_to_go_on",
            "a_client_of_h2_is_not_kept_waiting_by_100_continue",
        ]),
    ),
    (
        "bodies are screened after the head has gone",
        By(&["a_body_that_says_it_is_too_long_reaches_nobody"]),
    ),
    (
        "the lowest rate of sending is for h1 only",
        By(&[
            "a_client_that_does_not_read_is_cut",
            "a_client_that_takes_nothing_costs_little_and_is_cut",
        ]),
    ),
    (
        "no limit on PING, SETTINGS and WINDOW_UPDATE",
        By(&["floods_are_closed_while_others_are_served"]),
    ),
    (
        "stalled streams hold what was read for them",
        By(&[
            "a_client_that_takes_nothing_costs_little_and_is_cut",
            "a_reader_that_stops_holds_the_backend_back_and_not_in_memory",
        ]),
    ),
    (
        "one number of retries for the whole process",
        By(&[
            "every_server_is_tried_before_any_is_tried_twice",
            "a_status_is_asked_about_elsewhere_and_the_last_answer_passes",
        ]),
    ),
    (
        "a panic beyond the hooks costs the answer",
        By(&["a_panic_in_a_request_is_contained_counted_and_named"]),
    ),
    ("no WebSocket over h2", By(&["a_websocket_over_h2_is_declined_and_the_connection_goes_on"])),
    // Cost.
    (
        "TLS settings made anew for each connection to a peer with its own CA, and no resumption",
        By(&["a_second_connection_to_a_backend_of_our_own_ca_resumes"]),
    ),
];

#[test]
fn every_trap_has_a_test() {
    hold_against_sources(TRAPS.iter().map(|(trap, shown)| (*trap, shown)));
}

#[test]
fn no_profile_ends_the_process_at_a_panic() {
    let text = std::fs::read_to_string(in_repository("Cargo.toml")).unwrap();
    let strategy = text.lines().find(|line| line.trim_start().starts_with("panic"));
    assert!(strategy.is_none_or(|line| !line.contains("abort")), "{strategy:?}");
}
