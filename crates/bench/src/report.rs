//! What a bench found: a JSON line for programs, a table for people.

use anyhow::Context as _;
use serde_json::{Map, Value};
use std::{io::Write as _, path::Path, time::Duration};

/// Figures of one run, in the order in which they are shown.
#[derive(Clone, Debug)]
pub struct Record {
    bench: &'static str,
    figures: Vec<(String, Value)>,
}

impl Record {
    pub fn new(bench: &'static str) -> Self {
        Self { bench, figures: Vec::new() }
    }

    #[must_use]
    pub fn with(mut self, name: &str, figure: impl Into<Value>) -> Self {
        self.figures.push((name.to_owned(), figure.into()));
        self
    }

    /// A number, rounded to four digits that count.
    #[must_use]
    pub fn number(self, name: &str, figure: f64) -> Self {
        self.with(name, round(figure))
    }

    #[must_use]
    pub fn ms(self, name: &str, figure: Duration) -> Self {
        self.number(name, figure.as_secs_f64() * 1e3)
    }

    pub fn bench(&self) -> &str {
        self.bench
    }

    pub fn get(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|(known, _)| known == name).and_then(|(_, figure)| figure.as_f64())
    }

    fn json(&self) -> String {
        let mut all = Map::new();
        all.insert("bench".into(), self.bench.into());
        all.extend(self.figures.iter().cloned());
        Value::from(all).to_string()
    }

    fn table(&self) -> String {
        let width = self.figures.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut table = format!("{}\n", self.bench);
        for (name, figure) in &self.figures {
            let shown = figure.as_str().map_or_else(|| figure.to_string(), str::to_owned);
            table.push_str(&format!("  {name:width$}  {shown}\n"));
        }
        table
    }

    /// Shows the table, and adds the line to the file.
    pub fn publish(&self, json: Option<&Path>) -> anyhow::Result<()> {
        print!("{}", self.table());
        let Some(path) = json else { return Ok(()) };
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("opening {}", path.display()))?;
        writeln!(file, "{}", self.json()).with_context(|| format!("writing {}", path.display()))
    }
}

/// Four digits that count, whole above a thousand.
pub fn round(figure: f64) -> f64 {
    if figure == 0.0 || !figure.is_finite() {
        return 0.0;
    }
    let scale = 10f64.powf((3.0 - figure.abs().log10().floor()).max(0.0));
    (figure * scale).round() / scale
}

/// The middle one; of an even number the mean of the two in the middle. 0 for none.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => 0.0,
        (len, middle) if len % 2 == 1 => sorted[middle],
        (_, middle) => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// That so many of a hundred do not exceed.
pub fn percentile(figures: &[Duration], of_hundred: f64) -> Duration {
    let mut sorted = figures.to_vec();
    sorted.sort();
    let at = ((sorted.len() as f64 * of_hundred / 100.0).ceil() as usize).clamp(1, sorted.len().max(1));
    sorted.get(at - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_shown_with_four_digits() {
        assert_eq!([round(0.123_456), round(12.3456), round(1_234.56), round(0.0)], [0.1235, 12.35, 1_235.0, 0.0]);
    }

    #[test]
    fn the_middle_is_in_the_middle() {
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0]), median(&[])), (2.0, 2.5, 0.0));
        let ms = |ms| Duration::from_millis(ms);
        let hundred: Vec<Duration> = (1..=100).map(ms).collect();
        assert_eq!((percentile(&hundred, 50.0), percentile(&hundred, 99.0)), (ms(50), ms(99)));
        assert_eq!(percentile(&[], 50.0), Duration::ZERO);
    }
}
