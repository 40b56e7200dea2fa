//! Many durations in little room: counts by size, eight steps to a doubling, so that a percentile is right to 9 %.

use std::time::Duration;

const STEPS: u32 = 8;
const BUCKETS: usize = (STEPS * 40) as usize;

#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u32>,
    total: u64,
    most: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, most: Duration::ZERO }
    }
}

impl Histogram {
    pub fn add(&mut self, took: Duration) {
        self.counts[bucket(took)] += 1;
        self.total += 1;
        self.most = self.most.max(took);
    }

    pub fn len(&self) -> u64 {
        self.total
    }

    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    pub fn most(&self) -> Duration {
        self.most
    }

    /// The duration that so many of a hundred do not exceed; zero when nothing was added.
    pub fn percentile(&self, of_hundred: f64) -> Duration {
        let wanted = (self.total as f64 * of_hundred / 100.0).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted {
                return upper(at).min(self.most);
            }
        }
        self.most
    }
}

fn bucket(took: Duration) -> usize {
    let micros = took.as_micros().max(1) as f64;
    ((micros.log2() * f64::from(STEPS)).ceil().max(0.0) as usize).min(BUCKETS - 1)
}

fn upper(bucket: usize) -> Duration {
    Duration::from_micros(2f64.powf(bucket as f64 / f64::from(STEPS)).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_right_to_a_tenth() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(99.0), Duration::ZERO);
        (1..=10_000).for_each(|micros| histogram.add(Duration::from_micros(micros)));
        for (of_hundred, exact) in [(50.0, 5_000.0), (99.0, 9_900.0), (100.0, 10_000.0)] {
            let found = histogram.percentile(of_hundred).as_micros() as f64;
            assert!((found / exact - 1.0).abs() < 0.1, "{of_hundred} %: {found}");
        }
        assert_eq!(histogram.most(), Duration::from_millis(10));
    }
}
