//! The guards for room and for zones, row by row.

use super::super::fixture::{Fixture, host};
use super::{DELAY, blocked, one, overdue};
use crate::api::spec::ZoneLoss;
use crate::plan::Action;

const MIB: u64 = 1 << 20;

/// `demo-2` of five is lost with six copies; the others have six each, of 1 MiB.
fn with_room(room: [Option<u64>; 5]) -> Fixture {
    let mut fixture = overdue(5);
    for (ordinal, room) in (0..).zip(room) {
        fixture.member(ordinal).room_bytes = room;
        fixture.member(ordinal).data_bytes = (ordinal != 2).then_some(6 * MIB);
    }
    fixture
}

fn starts(fixture: &mut Fixture) -> bool {
    matches!(fixture.step().action, Some(Action::Reprotect { node: 3, .. }))
}

#[test]
fn a_node_without_room_for_its_share_holds_reprotection() {
    // Six copies over four nodes: two at most, with a fifth more 2.4 MiB.
    let plenty = Some(3 * MIB);
    let rows = [
        ([plenty, plenty, None, plenty, plenty], true),
        ([plenty, Some(MIB), None, plenty, plenty], false),
        ([Some(MIB), plenty, None, plenty, plenty], false),
        // A node of before does not tell.
        ([None, None, None, None, None], true),
        ([plenty, None, None, plenty, plenty], true),
    ];
    for (room, acts) in rows {
        let mut fixture = with_room(room);
        assert_eq!(starts(&mut fixture), acts, "{room:?}");
        if !acts {
            assert_eq!(blocked(&fixture), one("Reprotect/demo-2", "NoRoom"));
        }
    }
    // An empty node takes all of them, and the full ones none.
    let mut fixture = with_room([Some(0), Some(0), None, Some(0), Some(8 * MIB)]);
    fixture.member(4).ranges = 0;
    fixture.member(4).data_bytes = Some(0);
    assert!(starts(&mut fixture));
    // Nothing was on it.
    let mut fixture = with_room([Some(0); 5]);
    fixture.member(2).ranges = 0;
    assert!(starts(&mut fixture));
    // Sizes that nobody tells.
    let mut fixture = with_room([Some(0); 5]);
    for ordinal in 0..5 {
        fixture.member(ordinal).data_bytes = None;
    }
    assert!(starts(&mut fixture));
}

/// Six nodes in three zones: two in each.
fn zoned() -> Fixture {
    let mut fixture = Fixture::new(6);
    for ordinal in 0..6 {
        let hosts = fixture.observed.hosts.as_mut().unwrap();
        hosts.get_mut(&host(ordinal)).unwrap().zone = Some(format!("zone-{}", ordinal % 3));
    }
    fixture.settle();
    assert_eq!(fixture.store(5).zone.as_deref(), Some("zone-2"));
    fixture
}

#[test]
fn a_zone_that_goes_away_as_a_whole_is_waited_for() {
    type Change = fn(&mut Fixture);
    let rows: [(&str, Change, bool); 8] = [
        ("all of it", |_| {}, false),
        (
            "that is as good as lost",
            |it| {
                it.cluster.spec.reprotection.zone_loss = ZoneLoss::Act;
            },
            true,
        ),
        (
            "its machines are gone for good",
            |it| {
                let hosts = it.observed.hosts.as_mut().unwrap();
                hosts.remove("host-2");
                hosts.get_mut("host-5").unwrap().out_of_service = true;
            },
            true,
        ),
        (
            "only one of them is",
            |it| {
                it.observed.hosts.as_mut().unwrap().remove("host-2");
            },
            false,
        ),
        (
            "half of it is back",
            |it| {
                let now = it.now;
                it.pod(5).ready = true;
                it.pod(5).ready_changed = Some(now);
                it.member(5).state = "Up".to_owned();
            },
            true,
        ),
        ("half of it is there for the others", |it| it.member(5).state = "Up".to_owned(), true),
        (
            "half of it is given up already",
            |it| {
                it.report().nodes.retain(|member| member.id != 6);
            },
            true,
        ),
        (
            "nobody else says where it is",
            |it| {
                for store in &mut it.cluster.status.as_mut().unwrap().stores {
                    store.zone = Some("zone-2".to_owned());
                }
                for host in it.observed.hosts.as_mut().unwrap().values_mut() {
                    host.zone = Some("zone-2".to_owned());
                }
            },
            true,
        ),
    ];
    for (what, change, acts) in rows {
        let mut fixture = zoned();
        fixture.kill(2);
        fixture.kill(5);
        fixture.step();
        fixture.pass(DELAY + 1);
        change(&mut fixture);
        let plan = fixture.step();
        assert_eq!(plan.action.is_some(), acts, "{what}: {:?}", blocked(&fixture));
        if !acts {
            let guards = blocked(&fixture);
            assert!(guards.iter().all(|(_, guard)| guard == "ZoneAway"), "{what}: {guards:?}");
            assert_eq!(plan.held.unwrap().0, "ZoneAway");
        }
    }
}

#[test]
fn nodes_of_a_zone_that_fail_one_after_the_other_are_no_zone() {
    let mut fixture = zoned();
    fixture.cluster.spec.reprotection.mode = crate::api::spec::ReprotectionMode::Observe;
    fixture.kill(2);
    fixture.step();
    fixture.pass(DELAY + 1);
    fixture.step();
    fixture.kill(5);
    fixture.step();
    fixture.pass(DELAY + 1);
    fixture.cluster.spec.reprotection.mode = crate::api::spec::ReprotectionMode::Auto;
    assert!(starts(&mut fixture), "{:?}", blocked(&fixture));
}

#[test]
fn what_was_written_down_waits_too_when_its_zone_follows() {
    let mut fixture = zoned();
    fixture.kill(2);
    fixture.step();
    fixture.pass(DELAY - 2);
    fixture.kill(5);
    fixture.step();
    fixture.pass(3);
    // The second is not overdue yet, but it is away: the first waits.
    assert_eq!(fixture.step().action, None);
    assert_eq!(blocked(&fixture), one("Reprotect/demo-2", "ZoneAway"));
}
