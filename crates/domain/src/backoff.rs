//! Exponential backoff with full jitter. The jitter is an argument: the shell draws it.

/// How long to wait before try `attempt` (1 is the first retry): a share `jitter_0_to_1` of base x 2^(attempt-1), capped.
/// Full jitter spreads a crowd that failed together over the whole window.
pub fn delay_ms(attempt: u32, base_ms: u64, cap_ms: u64, jitter_0_to_1: f64) -> u64 {
    let doublings = attempt.saturating_sub(1).min(32);
    let window = base_ms.saturating_mul(1 << doublings).min(cap_ms);
    (window as f64 * jitter_0_to_1.clamp(0.0, 1.0)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_doubles_up_to_its_cap() {
        let full = |attempt| delay_ms(attempt, 1_000, 30_000, 1.0);
        assert_eq!([full(1), full(2), full(3), full(6), full(u32::MAX)], [1_000, 2_000, 4_000, 30_000, 30_000]);
        assert_eq!(delay_ms(3, 1_000, 30_000, 0.5), 2_000);
    }
}
