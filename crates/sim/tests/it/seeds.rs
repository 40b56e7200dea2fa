use sim::*;
#[test]
fn fresh() {
    let base: u64 = std::env::var("SIM_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let n: u64 = std::env::var("SIM_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(100);
    let t = std::time::Instant::now();
    let mut hits = Hits::default();
    let mut events = vec![];
    let mut fails: std::collections::BTreeMap<&str, (u32, u64, String)> = Default::default();
    for seed in base..base + n {
        let out = sim::run(seed);
        hits.merge(&out.hits);
        events.push(out.events);
        if let Some(v) = out.violation {
            let e = fails.entry(v.promise).or_insert((0, seed, format!("{} at {}", v.detail, v.at_ms)));
            e.0 += 1;
        }
    }
    events.sort();
    println!("{:?} median {} max {}", t.elapsed(), events[events.len() / 2], events.last().unwrap());
    for w in Sometimes::ALL { println!("{:>8} {}", hits.of(*w), w.words()); }
    for (p, (c, s, d)) in &fails { println!("FAIL {p}: {c} times, first seed {s}: {d:.600}"); }
}
#[test]
fn one() {
    let Some(seed) = std::env::var("SIM_ONE").ok().and_then(|s| s.parse::<u64>().ok()) else { return };
    let (plan, _) = sim::shrink::shrink(&Plan::of(seed));
    let out = World::new(plan.clone()).verbose().play();
    for l in &out.story { println!("{l}"); }
    println!("{:?}", plan);
    println!("{:?}", out.violation);
}
