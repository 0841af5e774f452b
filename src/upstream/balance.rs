//! Which of several servers gets the next request.
//!
//! Answers "which index?", from facts the caller brings: weights, requests in flight, a turn and a
//! source of chance. Called by [`super::pool`]. Holds no state and reads no clock.

use crate::config::upstream::Balance;

/// What the choice may depend on: one server's weight and how busy it is.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// 1–1000.
    pub weight: u32,
    /// Requests it is answering now.
    pub in_flight: usize,
}

/// Longest schedule of a weighted round robin, in turns. Weights whose reduced sum is larger are
/// scaled down, which keeps the schedule of a pool under 8 KiB.
const MAX_TURNS: u32 = 4096;

/// The index below `count` that `balance` prefers; `None` when `count` is 0.
///
/// `facts` tells of each index, `turn` counts the pool's picks, and `chance` yields a uniform
/// number below its argument.
pub fn choose(
    balance: Balance,
    count: usize,
    facts: impl Fn(usize) -> Candidate,
    turn: usize,
    mut chance: impl FnMut(u64) -> u64,
) -> Option<usize> {
    let total = |skip: Option<usize>| -> u64 {
        let counted = (0..count).filter(|index| Some(*index) != skip);
        counted.map(|index| u64::from(facts(index).weight)).sum::<u64>().max(1)
    };
    match count {
        0 => None,
        1 => Some(0),
        _ => Some(match balance {
            Balance::RoundRobin => at_offset(count, &facts, None, turn as u64 % total(None)),
            Balance::Random => at_offset(count, &facts, None, chance(total(None))),
            Balance::LeastRequests => {
                let first = at_offset(count, &facts, None, chance(total(None)));
                let second = at_offset(count, &facts, Some(first), chance(total(Some(first))));
                less_busy(&facts, first, second)
            }
        }),
    }
}

/// The order in which servers of these weights take their turns, spread out rather than in runs
/// (smooth weighted round robin: `5, 1, 1` gives `a a b a c a a`).
pub fn schedule(weights: &[u32]) -> Vec<u16> {
    let weights = reduced(weights);
    let total: i64 = weights.iter().map(|weight| i64::from(*weight)).sum();
    let mut current = vec![0i64; weights.len()];
    let mut turns = Vec::with_capacity(usize::try_from(total).unwrap_or(0));
    for _ in 0..total {
        for (value, weight) in current.iter_mut().zip(&weights) {
            *value += i64::from(*weight);
        }
        let best = (0..current.len()).rev().max_by_key(|index| current[*index]).unwrap_or(0);
        current[best] -= total;
        turns.push(u16::try_from(best).unwrap_or(0));
    }
    turns
}

/// Weights divided by their greatest common divisor, and scaled to at most [`MAX_TURNS`] in all.
fn reduced(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let mut reduced: Vec<u32> = weights.iter().map(|weight| (weight / divisor).max(1)).collect();
    let total: u64 = reduced.iter().map(|weight| u64::from(*weight)).sum();
    if total > u64::from(MAX_TURNS) {
        for weight in &mut reduced {
            let scaled = u64::from(*weight) * u64::from(MAX_TURNS) / total;
            *weight = u32::try_from(scaled).unwrap_or(1).max(1);
        }
    }
    reduced
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The index under `offset` when the weights of all but `skip` are laid end to end.
fn at_offset(
    count: usize,
    facts: &impl Fn(usize) -> Candidate,
    skip: Option<usize>,
    mut offset: u64,
) -> usize {
    for index in (0..count).filter(|index| Some(*index) != skip) {
        match offset.checked_sub(u64::from(facts(index).weight)) {
            Some(rest) => offset = rest,
            None => return index,
        }
    }
    0
}

/// The one with fewer requests per unit of weight; the first on a tie.
fn less_busy(facts: &impl Fn(usize) -> Candidate, first: usize, second: usize) -> usize {
    let load =
        |one: Candidate, other: Candidate| (one.in_flight as u64 + 1) * u64::from(other.weight);
    let (a, b) = (facts(first), facts(second));
    if load(b, a) < load(a, b) { second } else { first }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle(weights: &[u32]) -> impl Fn(usize) -> Candidate {
        |index| Candidate { weight: weights[index], in_flight: 0 }
    }

    #[test]
    fn a_schedule_gives_every_server_its_weight_and_spreads_the_turns() {
        assert_eq!(schedule(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(schedule(&[100, 100]), [0, 1], "reduced by the common divisor");
        assert_eq!(schedule(&[7]), [0]);
        assert!(schedule(&[]).is_empty());
    }

    #[test]
    fn a_schedule_stays_bounded_and_forgets_nobody() {
        let turns = schedule(&[1000, 999, 997, 991, 1]);
        assert!(turns.len() <= MAX_TURNS as usize + 5);
        assert!(turns.contains(&4));
    }

    #[test]
    fn the_less_busy_of_two_is_chosen_by_weight() {
        let candidates =
            [Candidate { weight: 1, in_flight: 3 }, Candidate { weight: 4, in_flight: 5 }];
        let pick = choose(Balance::LeastRequests, 2, |index| candidates[index], 0, |_| 0);
        assert_eq!(pick, Some(1), "6/4 is less than 4/1");
    }

    #[test]
    fn two_choices_never_compare_a_server_with_itself() {
        let candidates =
            [Candidate { weight: 1, in_flight: 9 }, Candidate { weight: 1, in_flight: 0 }];
        for _ in 0..100 {
            let pick = choose(
                Balance::LeastRequests,
                2,
                |index| candidates[index],
                0,
                |below| fastrand::u64(..below),
            );
            assert_eq!(pick, Some(1));
        }
    }

    #[test]
    fn random_follows_the_weights() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut hits = [0; 2];
        for turn in 0..10_000 {
            let pick = choose(Balance::Random, 2, idle(&[1, 3]), turn, |below| random.u64(..below));
            hits[pick.unwrap()] += 1;
        }
        assert!((2_300..2_700).contains(&hits[0]), "{hits:?}");
    }

    #[test]
    fn nobody_is_chosen_among_none() {
        for balance in [Balance::RoundRobin, Balance::Random, Balance::LeastRequests] {
            assert_eq!(choose(balance, 0, idle(&[]), 0, |_| 0), None);
            assert_eq!(choose(balance, 1, idle(&[3]), 5, |_| 0), Some(0));
        }
    }
}
