//! "Did you mean …?": the nearest of the words that would have been right.
//!
//! Called by the readers when a key, a value or a reference is unknown. Never guesses when nothing
//! is near: a wrong hint costs more than none.

/// The candidate nearest to `word`, if one is near enough to be a slip of the keyboard.
///
/// One edit is allowed per three characters, at least one; a difference in case alone is none.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if word.len() > LONGEST {
        return None;
    }
    let folded: Vec<char> = word.to_lowercase().chars().collect();
    let allowed = (folded.len() / 3).max(1);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= LONGEST)
        .filter_map(|candidate| {
            let other: Vec<char> = candidate.to_lowercase().chars().collect();
            let near = other.len().abs_diff(folded.len()) <= allowed;
            let distance = if near { distance(&folded, &other) } else { usize::MAX };
            (distance <= allowed && distance < other.len()).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Longer words are not typed but pasted, and comparing them would cost more than it helps.
const LONGEST: usize = 64;

/// Damerau-Levenshtein distance in its restricted form (optimal string alignment): insertions,
/// deletions, replacements and swaps of neighbours.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut previous: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut current = vec![i];
        for j in 1..=b.len() {
            let replaced = previous[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(previous[j] + 1).min(current[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            current.push(best);
        }
        before = std::mem::replace(&mut previous, current);
    }
    previous[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_and_far_ones_are_not() {
        let known = ["upstream", "redirect", "respond", "api", "app-v2"];
        for (word, wanted) in [
            ("upstraem", Some("upstream")),
            ("Upstream", Some("upstream")),
            ("redirct", Some("redirect")),
            ("apo", Some("api")),
            ("app-v", Some("app-v2")),
            ("repsond", Some("respond")),
            ("x", None),
            ("completely_else", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), wanted, "{word}");
        }
    }
}
