//! What a certificate manager has to survive, and the test that shows each.

use std::fs;

use crate::support::in_repository;

/// A failure, and the functions that show what becomes of it.
const FAILURES: &[(&str, &[&str])] = &[
    (
        "the authority is down at a renewal",
        &[
            "an_authority_that_is_down_or_hangs_ends_in_time",
            "no_outage_shorter_than_what_is_left_at_renewal_ends_a_certificate",
        ],
    ),
    (
        "it is down at the start",
        &[
            "what_was_obtained_is_served_after_a_restart_without_the_authority",
            "an_authority_that_is_down_stops_nothing_but_what_it_would_issue",
        ],
    ),
    ("it hangs", &["an_authority_that_hangs_delays_nobody", "a_server_that_trickles_is_left"]),
    (
        "it limits",
        &[
            "a_limit_parks_what_it_concerns_and_nothing_else",
            "a_limit_says_whom_it_stops_and_until_when",
        ],
    ),
    (
        "a load balancer answers for it",
        &[
            "a_page_of_a_load_balancer_is_waited_out",
            "a_load_balancers_page_is_told_from_an_answer",
        ],
    ),
    ("it has paused the name", &["a_paused_account_waits_for_a_person_and_shows_where_to_go"]),
    ("it refuses nonces in storms", &["nonces_that_are_refused_in_storms_cost_no_order"]),
    (
        "its answer to a new order is lost",
        &["killed_with_the_order_on_its_way", "lost_answers_and_single_refusals_cost_no_order"],
    ),
    (
        "its answer to finalize is lost, or the process dies before the save",
        &[
            "killed_before_finalize",
            "killed_with_the_answer_to_finalize_on_its_way",
            "killed_with_the_certificate_on_its_way",
            "before_finalize",
            "after_finalize",
        ],
    ),
    (
        "it says that the certificate was replaced already",
        &[
            "a_certificate_is_replaced_once_and_its_window_is_told",
            "a_second_authority_issues_and_renews_by_http_01",
        ],
    ),
    ("the profile has vanished", &["a_profile_that_vanished_is_left_out_unless_it_is_required"]),
    (
        "it does not know the account any more",
        &[
            "an_authority_that_has_forgotten_everything_gets_the_account_again",
            "an_authority_that_forgot_the_account_gets_it_again_with_the_same_key",
        ],
    ),
    (
        "the account was deactivated",
        &["a_deactivated_account_orders_nothing_until_somebody_has_another_made"],
    ),
    (
        "one name of several is bad",
        &[
            "the_one_bad_name_of_three_is_named",
            "a_name_that_cannot_be_proven_is_tried_again_and_served_all_the_while",
        ],
    ),
    ("a name is forbidden", &["a_name_that_the_authority_forbids_waits_for_a_person"]),
    (
        "a port is closed, or somebody else is behind the name",
        &[
            "another_way_to_prove_the_name_is_tried_after_a_failure",
            "somebody_elses_server_is_told_by_what_it_says",
        ],
    ),
    (
        "the DNS is broken or slow",
        &[
            "records_that_nobody_sees_fail_before_the_authority_is_told",
            "a_server_that_is_down_fails_the_order_and_burns_nothing",
        ],
    ),
    (
        "one of its vantage points does not get through",
        &["what_authorities_complain_about_is_told_with_its_usual_cause"],
    ),
    (
        "a CAA record forbids",
        &[
            "a_record_of_the_caa_type_that_forbids_is_looked_at_daily",
            "caa_is_held_against_what_the_authority_calls_itself",
        ],
    ),
    ("a wildcard without DNS", &["a_wildcard_without_dns_is_refused_before_anybody_is_asked"]),
    ("names beyond ASCII", &["one_table_shows_every_certificate_and_another_all_about_one"]),
    (
        "an address on a profile that has none",
        &["addresses_are_proven_by_http_and_by_their_reverse_name"],
    ),
    (
        "our clock is wrong",
        &[
            "a_clock_that_is_wrong_is_told_and_renews_nothing",
            "a_clock_that_is_wrong_orders_nothing",
            "what_a_clock_that_was_ahead_has_written_waits_no_longer_for_it",
        ],
    ),
    (
        "the certificate has ended at the start",
        &["an_expired_certificate_is_served_until_there_is_another"],
    ),
    (
        "it was revoked",
        &[
            "a_window_in_the_past_means_a_new_key_and_garbage_means_nothing",
            "a_revoked_certificate_is_replaced_and_never_served_again",
        ],
    ),
    (
        "renewal information is garbage",
        &[
            "a_window_in_the_past_means_a_new_key_and_garbage_means_nothing",
            "garbage_costs_a_few_certificates_but_never_the_limit",
        ],
    ),
    (
        "the disk is full",
        &[
            "a_disk_that_fills_while_an_order_is_under_way_costs_no_certificate",
            "a_full_disk_leaves_the_old_pair_live_and_no_litter",
        ],
    ),
    (
        "a crash in the middle of writing",
        &["a_crash_at_any_step_leaves_a_whole_pair_and_no_litter_after_the_next_start"],
    ),
    (
        "files have rotted",
        &[
            "a_chain_that_has_rotted_is_put_aside_and_ordered_anew",
            "damage_falls_back_to_the_newest_good_generation_and_is_moved_aside",
        ],
    ),
    (
        "there is nowhere to write",
        &[
            "without_a_place_to_write_nothing_is_proven",
            "failures_add_up_where_nothing_can_be_written",
        ],
    ),
    (
        "two processes share a storage",
        &[
            "a_process_that_is_killed_frees_its_locks",
            "what_another_process_has_renewed_is_taken_over_and_not_ordered",
        ],
    ),
    (
        "thousands of names",
        &[
            "one_of_five_thousand_is_renewed_and_the_others_are_left_alone",
            "orders_start_four_at_once_and_one_per_36_seconds_after_a_burst",
        ],
    ),
    (
        "others may read what is private",
        &[
            "everything_is_private_and_what_was_opened_is_closed_again",
            "links_are_not_followed_to_secrets",
        ],
    ),
    ("an authority with a root of its own", &["an_authority_of_an_unknown_root_is_not_spoken_to"]),
    (
        "the external account is wrong",
        &[
            "an_external_account_is_bound_and_one_that_is_wrong_needs_a_person",
            "another_authority_issues_where_the_first_will_not",
        ],
    ),
    (
        "a change of the account's key stops half-way",
        &["an_account_gets_another_key_and_survives_half_of_it"],
    ),
    (
        "the chain is from another root, or is none",
        &["the_preferred_of_several_chains_is_taken", "what_was_not_ordered_is_refused"],
    ),
];

#[test]
fn every_failure_has_a_test() {
    let mut texts = String::new();
    for folder in ["tests/acme", "src/acme", "src/tls"] {
        collect(&in_repository(folder), &mut texts);
    }
    for (failure, tests) in FAILURES {
        for test in *tests {
            let is_there = texts.contains(&format!("fn {test}("));
            assert!(is_there, "{failure}: there is no test {test}");
        }
    }
}

fn collect(folder: &std::path::Path, texts: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, texts);
        } else if path.extension().is_some_and(|it| it == "rs") {
            texts.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}
