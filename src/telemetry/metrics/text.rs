//! Prometheus' text format, version 0.0.4.
//!
//! # Why
//! Written here because it is three kinds of lines. `prometheus-client` (0.26) writes OpenMetrics
//! only, where a counter's head lacks `_total`, which `promtool check metrics` takes for a metric
//! without help. `prometheus` (0.14) keeps a series until somebody removes it by its labels, where
//! ours goes with its last holder.

use std::fmt::{Display, Write as _};

use super::family::Family;
use super::histogram::{BOUNDS, Histogram};

/// The media type of what a scrape is answered with.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Metrics as text. The samples of one family must come one after the other.
#[derive(Debug, Default)]
pub(super) struct Text {
    out: String,
    family: &'static str,
}

impl Text {
    /// One sample; `values` are those of the family's labels.
    pub(super) fn sample(&mut self, family: &'static Family, values: &[&str], value: impl Display) {
        self.head(family);
        self.line(family, "", values, None, value);
    }

    /// The samples of one series of a histogram.
    pub(super) fn histogram(
        &mut self,
        family: &'static Family,
        values: &[&str],
        histogram: &Histogram,
    ) {
        self.head(family);
        let (buckets, sum) = histogram.read();
        for (bound, below) in BOUNDS.iter().chain(&["+Inf"]).zip(buckets) {
            self.line(family, "_bucket", values, Some(bound), below);
        }
        self.line(family, "_sum", values, None, sum);
        self.line(family, "_count", values, None, buckets[BOUNDS.len()]);
    }

    /// The whole.
    pub(super) fn finish(self) -> String {
        self.out
    }

    fn head(&mut self, family: &'static Family) {
        if std::mem::replace(&mut self.family, family.name) != family.name {
            let Family { name, help, kind, .. } = family;
            self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.as_str()));
        }
    }

    fn line(
        &mut self,
        family: &Family,
        suffix: &str,
        values: &[&str],
        bound: Option<&str>,
        value: impl Display,
    ) {
        self.out.push_str(family.name);
        self.out.push_str(suffix);
        let named = family.labels.iter().copied().zip(values.iter().copied());
        let mut before = '{';
        for (label, value) in named.chain(bound.map(|bound| ("le", bound))) {
            self.out.push(before);
            self.out.push_str(label);
            self.out.push_str("=\"");
            self.escape(value);
            self.out.push('"');
            before = ',';
        }
        if before == ',' {
            self.out.push('}');
        }
        self.write(format_args!(" {value}\n"));
    }

    fn escape(&mut self, value: &str) {
        for character in value.chars() {
            match character {
                '\\' => self.out.push_str("\\\\"),
                '"' => self.out.push_str("\\\""),
                '\n' => self.out.push_str("\\n"),
                other => self.out.push(other),
            }
        }
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.out.write_fmt(text);
    }
}

#[cfg(test)]
mod tests {
    use super::super::family::{CONNECT, REQUESTS};
    use super::*;

    #[test]
    fn values_of_labels_are_escaped_and_a_family_has_one_head() {
        let mut text = Text::default();
        text.sample(&REQUESTS, &["a\\b", "c\"d\ne", "2xx"], 1);
        text.sample(&REQUESTS, &["", "", "none"], 2);
        let expected = "# HELP wardgate_requests_total Requests that ended, by the class of their \
             status; none where there was no answer\n# TYPE wardgate_requests_total counter\n\
             wardgate_requests_total{site=\"a\\\\b\",route=\"c\\\"d\\ne\",code=\"2xx\"} 1\n\
             wardgate_requests_total{site=\"\",route=\"\",code=\"none\"} 2\n";
        assert_eq!(text.finish(), expected);
    }

    #[test]
    fn a_histogram_ends_with_all_its_sum_and_its_count() {
        let (histogram, mut text) = (Histogram::default(), Text::default());
        histogram.observe(std::time::Duration::from_millis(1500));
        text.histogram(&CONNECT, &["app"], &histogram);
        let text = text.finish();
        let name = CONNECT.name;
        for line in [
            format!("{name}_bucket{{pool=\"app\",le=\"1\"}} 0\n"),
            format!("{name}_bucket{{pool=\"app\",le=\"2.5\"}} 1\n"),
            format!("{name}_bucket{{pool=\"app\",le=\"+Inf\"}} 1\n"),
            format!("{name}_sum{{pool=\"app\"}} 1.5\n{name}_count{{pool=\"app\"}} 1\n"),
        ] {
            assert!(text.contains(&line), "{line}{text}");
        }
    }
}
