//! The rate between its bounds, whatever happens; and what it does in a few plain cases.

use super::*;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const LIMITS: Limits = Limits { most: 64 * MIB, least: 4 * MIB };

fn window(writes: u32, micros: u64, disturbed: bool) -> Window {
    Window { length: WINDOW, writes, latency: Duration::from_micros(micros), disturbed }
}

/// One that has seen clients whose writes take 2 ms.
fn calm() -> Pace {
    let mut pace = Pace::new(LIMITS);
    for _ in 0..20 {
        pace.step(&window(100, 2_000, false));
    }
    assert_eq!(pace.rate(), LIMITS.most);
    pace
}

/// Windows until the rate is `wanted`, at most 1000.
fn windows_until(pace: &mut Pace, wanted: u64, window: &Window) -> usize {
    (0..1000)
        .find(|_| {
            pace.step(window);
            pace.rate() == wanted
        })
        .expect("the rate gets there")
}

#[test]
fn slow_clients_make_room_and_fast_ones_give_it_back() {
    let mut pace = calm();
    pace.begin();
    assert_eq!(pace.rate(), LIMITS.most / 4, "it begins gently");
    assert!(windows_until(&mut pace, LIMITS.least, &window(100, 9_000, true)) < 10);
    assert!(windows_until(&mut pace, LIMITS.most, &window(100, 2_200, true)) < 20);
    // Neither slow nor fast: nothing changes.
    pace.step(&window(100, 9_000, true));
    let rate = pace.rate();
    pace.step(&window(100, 3_500, true));
    assert_eq!(pace.rate(), rate);
}

#[test]
fn without_clients_the_limit_is_used() {
    let mut pace = Pace::new(LIMITS);
    pace.begin();
    assert_eq!(pace.rate(), LIMITS.most);
    let mut pace = calm();
    windows_until(&mut pace, LIMITS.least, &window(100, 9_000, true));
    assert!(windows_until(&mut pace, LIMITS.most, &window(0, 0, true)) < 4);
    // While nothing flows it is as careful as while something does.
    windows_until(&mut pace, LIMITS.least, &window(100, 9_000, true));
    assert!(windows_until(&mut pace, LIMITS.most, &window(100, 2_000, false)) > 10);
    // Who wrote long ago does not count.
    let mut pace = calm();
    pace.step(&Window { length: 5 * WINDOW_MAX, ..window(20, 2_000, false) });
    pace.begin();
    assert_eq!(pace.rate(), LIMITS.most);
    // A moment without a write is no sign that they are gone.
    let mut pace = calm();
    pace.step(&Window { length: WINDOW / 10, ..window(0, 0, false) });
    pace.begin();
    assert_eq!(pace.rate(), LIMITS.most / 4);
    windows_until(&mut pace, LIMITS.most, &window(0, 0, true));
    // One long window is as good as many short ones.
    windows_until(&mut pace, LIMITS.least, &window(100, 9_000, true));
    pace.step(&Window { length: WINDOW_MAX, ..window(0, 0, true) });
    assert_eq!(pace.rate(), LIMITS.most);
}

#[test]
fn less_than_a_millisecond_is_nothing() {
    let mut pace = Pace::new(LIMITS);
    pace.step(&window(100, 100, false));
    for _ in 0..10 {
        pace.step(&window(100, 1_000, true));
    }
    assert_eq!(pace.rate(), LIMITS.most);
}

#[test]
fn clients_that_are_slow_in_any_case_do_not_hold_it_at_the_floor() {
    let mut pace = calm();
    // Their load has changed: 20 ms, whatever snapshots do.
    let slow = window(100, 20_000, true);
    windows_until(&mut pace, LIMITS.least, &slow);
    assert!(windows_until(&mut pace, LIMITS.most, &slow) < 60);
}

#[test]
fn who_never_was_calm_takes_the_best_that_was_seen() {
    let mut pace = Pace::new(LIMITS);
    pace.step(&window(100, 8_000, true));
    assert_eq!(pace.rate(), LIMITS.most, "the first is the best so far");
    pace.step(&window(100, 2_000, true));
    for _ in 0..3 {
        pace.step(&window(100, 8_000, true));
    }
    assert!(pace.rate() < LIMITS.most / 2);
    // The first calm one counts more.
    pace.step(&window(100, 8_000, false));
    let rate = pace.rate();
    pace.step(&window(100, 8_000, true));
    assert!(pace.rate() >= rate);
}

#[test]
fn equal_bounds_are_a_fixed_rate() {
    let mut pace = Pace::new(Limits::fixed(MIB));
    for latency in [1, 1_000_000] {
        for disturbed in [false, true] {
            pace.step(&window(100, latency, disturbed));
            pace.begin();
            assert_eq!(pace.rate(), MIB);
        }
    }
}

#[test]
fn a_percentile_is_within_a_fifth() {
    let mut latencies = Latencies::default();
    assert_eq!(latencies.p95(), Duration::ZERO);
    for number in 1..=100 {
        latencies.add(Duration::from_micros(100 * number));
    }
    let p95 = latencies.p95().as_secs_f64() * 1e3;
    assert!((7.6..=11.4).contains(&p95), "{p95} ms");
    latencies.add(Duration::ZERO);
    latencies.add(Duration::from_secs(1000));
    assert_eq!(latencies.count(), 102);
}

/// What a log that suffers in proportion to the rate shows: `alone` undisturbed, `more` on top of
/// it at the limit.
fn suffering(rate: u64, alone: f64, more: f64) -> u64 {
    (alone + more * rate as f64 / LIMITS.most as f64) as u64
}

fn any_window() -> impl Strategy<Value = Window> {
    (0_u32..200, 1_u64..10_000_000, any::<bool>(), 0_u64..100).prop_map(
        |(writes, micros, disturbed, windows)| Window {
            length: WINDOW * windows as u32,
            ..window(writes, micros, disturbed)
        },
    )
}

proptest! {
    #[test]
    fn the_rate_stays_between_its_bounds_and_recovers(
        most in 1_u64..1 << 40,
        least in 0_u64..1 << 41,
        windows in proptest::collection::vec((any_window(), any::<bool>()), 0..200),
    ) {
        let mut pace = Pace::new(Limits { most, least });
        let floor = least.clamp(1, most);
        for (window, begins) in &windows {
            if *begins {
                pace.begin();
            }
            pace.step(window);
            prop_assert!((floor..=most).contains(&pace.rate()));
        }
        // Whatever it went through: without clients it is at the limit soon.
        for _ in 0..2 * ALONE_PART {
            pace.step(&window(0, 0, true));
        }
        prop_assert_eq!(pace.rate(), most);
    }

    #[test]
    fn clients_are_within_bounds_and_snapshots_get_on(
        alone in 2_000_f64..20_000.0,
        harm in 0_f64..20.0,
    ) {
        let mut pace = Pace::new(LIMITS);
        for _ in 0..20 {
            pace.step(&window(100, alone as u64, false));
        }
        pace.begin();
        let (mut flowed, mut slow) = (0, 0);
        for number in 0..400 {
            let latency = suffering(pace.rate(), alone, alone * harm);
            // One step up, of a sixteenth, is what it may go too far by.
            let bound = alone * (SLOW + harm / 8.0);
            if number >= 20 && latency as f64 > bound {
                slow += 1;
            }
            pace.step(&window(100, latency, true));
            flowed += pace.rate() / 400;
        }
        // The rate that is just not too slow, and what it keeps of it on average.
        let fair = (LIMITS.most as f64 / harm.max(1e-9)).min(LIMITS.most as f64);
        prop_assert!(flowed as f64 >= 0.35 * fair, "{flowed} of {fair}");
        prop_assert_eq!(slow, 0);
    }
}
