//! Loads of many shapes: whether they are high, and where they are divided.

use super::*;

const LIMIT: u64 = 100;
const REST: Millis = 60_000;

fn key(number: usize) -> Vec<Span> {
    vec![Span::key(&Bytes::from(format!("{number:06}")))]
}

/// So many requests a second, for so long, each with the keys that `keys` gives for its number.
fn serve(
    load: &mut Load,
    now: &mut Millis,
    (each_second, millis): (u64, Millis),
    keys: impl Fn(usize) -> Vec<Span>,
) {
    let end = *now + millis;
    let mut number = 0;
    while *now < end {
        for _ in 0..each_second / 10 {
            load.note(|| keys(number));
            number += 1;
        }
        *now += 100;
        load.roll(*now, LIMIT, LIMIT / 8);
    }
}

fn divided(keys: impl Fn(usize) -> Vec<Span>) -> Division {
    let (mut load, mut now) = (Load::default(), 0);
    serve(&mut load, &mut now, (10 * LIMIT, 20_000), &keys);
    assert!(load.is_hot(now, 10_000));
    let first = load.divide(now, REST);
    if first != Division::Unknown {
        return first;
    }
    // What was found has to hold for what comes next.
    for number in 20_000..20_500 {
        load.note(|| keys(number));
    }
    load.divide(now, REST)
}

#[test]
fn a_load_is_high_only_when_it_lasts() {
    let (mut load, mut now) = (Load::default(), 0);
    serve(&mut load, &mut now, (2 * LIMIT, 10_000), key);
    assert!((150..=200).contains(&load.rate()), "{}", load.rate());
    assert!(!load.is_hot(now, 10_000), "it began only when the average was above the limit");
    serve(&mut load, &mut now, (2 * LIMIT, 10_000), key);
    assert!(load.is_hot(now, 10_000));
    serve(&mut load, &mut now, (LIMIT / 2, 10_000), key);
    assert!(!load.is_hot(now, 10_000), "a pause begins it anew");
    // Bursts of a second in ten.
    for _ in 0..20 {
        serve(&mut load, &mut now, (3 * LIMIT, 1_000), key);
        serve(&mut load, &mut now, (0, 9_000), key);
        assert!(!load.is_hot(now, 5_000));
    }
}

#[test]
fn what_is_quiet_takes_no_memory_and_is_known_to_be_quiet() {
    let (mut load, mut now) = (Load::default(), 1_000_000);
    serve(&mut load, &mut now, (10, 60_000), key);
    assert!(load.sample.is_none());
    assert_eq!(load.quiet_ms(now), 60_000 - 100, "it has always been");
    serve(&mut load, &mut now, (LIMIT, 20_000), key);
    assert!(load.sample.is_some());
    assert!(load.quiet_ms(now) < ROLL_MS);
    // Nobody brings the average of a range that sleeps up to date, until somebody asks.
    now += 600_000;
    load.roll(now, LIMIT, LIMIT / 8);
    assert!(load.sample.is_none());
    assert_eq!(load.rate(), 0);
    assert!((600_000..605_000).contains(&load.quiet_ms(now)), "since the last request");
}

#[test]
fn the_cut_has_half_of_the_load_on_each_side() {
    let even = divided(|number| key(number * 7_919 % 1_000));
    let Division::At(middle) = even else { panic!("{even:?}") };
    let middle: usize = std::str::from_utf8(&middle).expect("text").parse().expect("digits");
    assert!((350..650).contains(&middle), "{middle}");
    // Nine of ten requests go to the last hundred keys.
    let skewed = divided(|number| {
        key(if number % 10 == 0 { number % 900 } else { 900 + number * 31 % 100 })
    });
    let Division::At(middle) = skewed else { panic!("{skewed:?}") };
    let middle: usize = std::str::from_utf8(&middle).expect("text").parse().expect("digits");
    assert!((920..980).contains(&middle), "{middle}");
}

#[test]
fn keys_written_in_order_are_no_reason_to_cut() {
    assert_eq!(divided(key), Division::Nowhere);
}

#[test]
fn what_comes_in_a_fixed_order_is_sampled_all_the_same() {
    let Division::At(middle) = divided(|number| key(number % 2)) else { panic!("two keys") };
    assert_eq!(middle, "000001");
}

#[test]
fn a_load_on_one_key_is_not_divided_and_not_looked_at_at_once() {
    let (mut load, mut now) = (Load::default(), 0);
    let one = |number: usize| key(if number.is_multiple_of(10) { number } else { 77 });
    serve(&mut load, &mut now, (10 * LIMIT, 20_000), one);
    assert_eq!(load.divide(now, REST), Division::Nowhere);
    serve(&mut load, &mut now, (10 * LIMIT, 30_000), one);
    assert!(!load.is_hot(now, 10_000) && load.sample.is_none(), "it rests");
    serve(&mut load, &mut now, (10 * LIMIT, 40_000), |number| key(number % 500));
    assert!(load.is_hot(now, 10_000), "the load has changed");
    assert_ne!(load.divide(now, REST), Division::Nowhere);
}

#[test]
fn requests_that_touch_all_of_the_range_are_no_reason_to_cut_it() {
    let all = |_| vec![Span::all()];
    assert_eq!(divided(all), Division::Nowhere);
    // Lists of one of two prefixes.
    let list = |number: usize| {
        let prefix = if number.is_multiple_of(2) { ("a/", "a0") } else { ("b/", "b0") };
        vec![Span::from_etcd(&Bytes::from(prefix.0), &Bytes::from(prefix.1))]
    };
    assert_eq!(divided(list), Division::At(Bytes::from("b/")));
    // A transaction counts with all of its keys.
    let both = |_| [key(1), key(900)].concat();
    assert_eq!(divided(both), Division::Nowhere);
}

#[test]
fn little_says_nothing() {
    let mut load = Load::default();
    assert_eq!(load.divide(0, REST), Division::Unknown);
    load.sample = Some(Box::default());
    load.note(|| key(1));
    assert_eq!(load.divide(0, REST), Division::Unknown);
}

#[test]
fn the_sample_is_bounded() {
    let mut load = Load { sample: Some(Box::default()), ..Load::default() };
    let long = Bytes::from(vec![b'x'; 10_000]);
    for _ in 0..100_000 {
        load.note(|| vec![Span::key(&long)]);
    }
    let sample = load.sample.expect("nobody took it");
    assert_eq!(sample.taken.len(), SAMPLE_MAX);
    assert!(sample.taken.iter().all(|taken| taken.start.len() == KEY_MAX));
}
