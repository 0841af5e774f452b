//! The properties that `./dev fuzz` searches for hours, tried in a second: on the seeds, and on what
//! a little chance makes of them.

#[path = "../fuzz/properties/body.rs"]
mod body;
#[path = "../fuzz/properties/client.rs"]
mod client;
#[path = "../fuzz/properties/config.rs"]
mod config;
#[path = "../fuzz/properties/frames.rs"]
mod frames;
#[path = "../fuzz/properties/head.rs"]
mod head;
#[path = "../fuzz/properties/host.rs"]
mod host;
#[path = "../fuzz/properties/path.rs"]
mod path;
#[path = "../fuzz/properties/proxy_protocol.rs"]
mod proxy_protocol;

use std::fs;

use fastrand::Rng;

use crate::support::in_repository;

/// Tries `property` on every seed in `directory`, and on `times` changes of each.
fn smoke(directory: &str, ends: &str, times: usize, property: fn(&[u8])) {
    let entries = fs::read_dir(in_repository(directory)).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.to_string_lossy().ends_with(ends));
    files.sort();
    let seeds: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(seeds.len() >= 4, "{} seeds in {directory}", seeds.len());
    let mut random = Rng::with_seed(8);
    for (file, seed) in files.iter().zip(&seeds) {
        let trial = Trial(file.display().to_string());
        property(seed);
        for _ in 0..times {
            let other = &seeds[random.usize(..seeds.len())];
            property(&changed(seed, other, &mut random));
        }
        std::mem::forget(trial);
    }
}

/// Says which seed was tried when a property does not hold.
struct Trial(String);

impl Drop for Trial {
    fn drop(&mut self) {
        eprintln!("while {} was tried", self.0);
    }
}

/// One to four changes: a byte, a stretch that goes or comes twice, a stretch of another seed.
fn changed(seed: &[u8], other: &[u8], random: &mut Rng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..random.usize(1..=4) {
        let at = random.usize(..=bytes.len());
        let end = (at + random.usize(..8)).min(bytes.len());
        match random.u8(..5) {
            0 if at < bytes.len() => bytes[at] = random.u8(..),
            1 if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let twice = bytes[at..end].to_vec();
                bytes.splice(at..at, twice);
            }
            _ => {
                let from = random.usize(..=other.len());
                let to = (from + random.usize(..16)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
        }
    }
    bytes
}

#[test]
fn bodies_end_where_they_end_however_they_are_cut() {
    smoke("fuzz/seeds/body", "", 2_000, body::check);
}

#[test]
fn nobody_hides_from_whom_a_request_came() {
    smoke("fuzz/seeds/client", "", 2_000, client::check);
}

#[test]
fn what_is_shown_of_a_configuration_loads_again() {
    smoke("tests/config", ".yaml", 3, config::check);
}

#[test]
fn a_frame_budget_is_spent_however_frames_are_cut() {
    smoke("fuzz/seeds/frames", "", 200, frames::check);
}

#[test]
fn heads_that_pass_are_read_alike_by_another_parser() {
    smoke("fuzz/seeds/head", "", 1_000, head::check);
}

#[test]
fn a_host_has_one_spelling() {
    smoke("fuzz/seeds/host", "", 2_000, host::check);
}

#[test]
fn a_canonical_path_is_its_own_canonical_form() {
    smoke("fuzz/seeds/path", "", 2_000, path::check);
}

#[test]
fn a_proxy_header_means_the_same_however_it_is_cut() {
    smoke("fuzz/seeds/proxy_protocol", "", 500, proxy_protocol::check);
}
