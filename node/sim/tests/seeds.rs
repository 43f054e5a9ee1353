//! The simulated cluster under seeds: fixed ones, each of which once found a bug or covers
//! something rare, and fresh ones.
//!
//! `HOLDFAST_SIM_SEEDS=n` runs n fresh seeds, `HOLDFAST_SIM_SEED=s` replays one. Each seed is
//! printed before it runs.

use holdfast_sim::run::{Plan, Report, run_caught};
use holdfast_sim::sabotage::Sabotage;
use std::time::{SystemTime, UNIX_EPOCH};

/// Fresh seeds, unless the environment says otherwise.
const FRESH: u64 = 40;

/// Seeds in which a sabotage must be noticed; the rarest needs 63.
const SABOTAGED: u64 = 120;

/// Seeds and what they found.
const FIXED: [(u64, &str); 32] = [
    (6, "requests blocked for ever behind a refused one"),
    (7, "first rows of a cut, and the order of members, that depended on chance"),
    (23, "a raft snapshot that told of later members than its data; a removed replica left over"),
    (8, "a cut whose revision depended on what was applied with it"),
    (500_153, "a watermark past commands that the leaseholder had forgotten with its old lease"),
    (500_436, "a request carried out twice around a change of members"),
    (800_093, "the same, while the old registration still stood"),
    (500_552, "an election between a raft snapshot and its log"),
    (500_204, "\"durable\" said too early, for a write that shared its number with a removal"),
    (520_035, "a removed replica that was made again, with an empty log, and voted"),
    (520_342, "the same, with two leaders of a term"),
    (500_300, "the same, told of commits that its log had lost"),
    (560_379, "removed before the second half of the change, and a range that nobody could lead"),
    (560_245, "a node that was given up, came back, was drained, and knew no range any more"),
    (700_167, "a compare planned with a revision of an answer whose turn had not come yet"),
    (500_403, "the same, when the leader of the meta range had not applied the removal"),
    (700_015, "a replica that was removed while it stood for election, and won"),
    (611_068, "a hand-over by one that led no more, forwarded to its successor"),
    (905_016, "a hint of a later revision, lost while the question after an earlier one was out"),
    (
        930_219,
        "a turn without end: a new sequencer that could log nothing, since it was handing over",
    ),
    (500_352, "entries written to a log after its replica was removed"),
    (730_138, "a transaction planned on what it had read under locks that stood no more"),
    (760_575, "raft snapshots from before and after a cut, installed one over the other"),
    (19, "a deletion carried out twice, as the range was cut while it was under way"),
    (2_500_033, "a raft snapshot with the keys of before a cut, over newer ones of the new range"),
    (2_900_013, "a replica made by a cut applied late, of a range that was merged away meanwhile"),
    (5_100_499, "a turn without end: a raft snapshot came instead of the merge that waited"),
    (5_000_279, "a false alarm: who leaves waits while only a drained node could take its copy"),
    (992_195, "a replica made again by a cut applied late, after its range was taken in here"),
    (50_000_019, "a serializable read of a replica that was taken away before it was read"),
    (30_000_148, "the only copy that may lead was the one to go"),
    (2_600_066, "a replica that had left a range, and that nobody was left to tell when it merged"),
];

/// The same, with placement policies.
const WITH_POLICIES: [(u64, &str); 9] = [
    (7_100_166, "a false alarm: two of three nodes are being drained, and copies are wanted there"),
    (811_257_507_545, "a raft snapshot kept for ever that came while another was being installed"),
    (
        811_257_507_769,
        "a false alarm: the second of two copies went, which one alone need not keep",
    ),
    (920_000_000_138, "keys of a range that is not known yet, taken for keys that are not there"),
    (920_000_000_229, "a false alarm: leaders on their way, of ranges that are still being cut"),
    (
        941_000_000_054,
        "a false alarm: a disk that was said to be full after all were said to be free",
    ),
    (
        941_000_000_642,
        "a range taken in while a raft snapshot of it was being installed, over what came",
    ),
    (
        981_000_000_665,
        "a range that could be cut no more: the leader of a cut that was lost led again",
    ),
    (
        1_100_000_000_550,
        "a cut asked for once more, after its child was taken in: keys without a range",
    ),
];

fn check(plan: Plan) -> Report {
    println!("seed {}", plan.options.seed);
    let report = run_caught(plan);
    if let Some(violation) = &report.violation {
        panic!("seed {}: {violation}", report.seed);
    }
    report
}

#[test]
fn seeds_that_once_failed_pass() {
    for (seed, found) in FIXED {
        println!("{found}:");
        // They were found before there were policies, whose dice would change what happens.
        check(Plan { policies_ms: 0, ..Plan::new(seed) });
    }
    for (seed, found) in WITH_POLICIES {
        println!("{found}:");
        check(Plan::new(seed));
    }
}

#[test]
fn fresh_seeds_pass() {
    if let Ok(seed) = std::env::var("HOLDFAST_SIM_SEED") {
        let seed = seed.parse().expect("HOLDFAST_SIM_SEED is a number");
        println!("{:?}", check(Plan::new(seed)));
        return;
    }
    let count = std::env::var("HOLDFAST_SIM_SEEDS")
        .map_or(FRESH, |count| count.parse().expect("HOLDFAST_SIM_SEEDS is a number"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    let first = now.as_nanos() as u64 % 1_000_000_000_000;
    for seed in first..first + count {
        check(Plan::new(seed));
    }
}

/// Nothing but the seed decides.
#[test]
fn a_seed_gives_one_run() {
    for seed in [3, 4] {
        let (one, other) = (check(Plan::new(seed)), check(Plan::new(seed)));
        assert_eq!(one.trace, other.trace);
        assert_eq!(one.coverage, other.coverage);
        assert_eq!(one.operations, other.operations);
    }
    assert_ne!(check(Plan::new(3)).trace, check(Plan::new(4)).trace);
}

/// The checks can fail: every breach of the world's contract with the core is noticed soon.
#[test]
fn every_sabotage_is_caught() {
    for sabotage in Sabotage::ALL {
        let caught = (1..=SABOTAGED).find_map(|seed| {
            let mut plan = Plan::new(seed);
            plan.options.sabotage = Some(sabotage);
            let violation = run_caught(plan).violation?;
            Some((seed, violation))
        });
        match caught {
            Some((seed, mut violation)) => {
                violation.truncate(200);
                println!("{sabotage:?}, seed {seed}: {violation}");
            }
            None => panic!("{sabotage:?} was not noticed"),
        }
    }
}
