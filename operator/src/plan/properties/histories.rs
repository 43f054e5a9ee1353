//! Histories that went wrong once, each as short as it could be made. They are written out, so that they
//! stay what they are when the ways of the world change.

use super::Happens::{
    self, Blind, Echo, FrontEnd, Heal, HostGone, Kill, Loop, Lost, Nodes, Pass, Progress, Sighted,
    Template,
};
use super::ends_well;
use crate::api::spec::ReplacementPolicy::{self, AfterReprotect, WhenNodeGone};

/// Two nodes lose their hosts one after the other; the request for the second is taken on, but the
/// operator ends before it hears of it. It waited for ever to be allowed to ask again.
#[test]
fn a_request_that_was_taken_on_unheard_is_over_when_its_node_is_gone() {
    let first = [Kill(1), Pass(600), Loop(3), HostGone(2), Blind, Progress, Heal(1), Pass(600)];
    let then = [Sighted, Loop(1), Loop(2), Progress];
    ends_well(4, WhenNodeGone, [first.as_slice(), &then].concat());
}

/// The same while the cluster shrinks and grows.
#[test]
fn a_request_that_was_taken_on_unheard_does_not_wait_for_a_drained_node() {
    let first = [Nodes(3), Loop(2), Kill(0), Kill(3), FrontEnd(3), Progress, Nodes(5), Progress];
    let then = [Pass(600), Heal(3), Loop(1), Loop(2), Progress];
    ends_well(5, WhenNodeGone, [first.as_slice(), &then].concat());
}

/// A node that is gone for good leaves two behind that need each other. Its pod looked ready, so one of
/// the two was made anew.
#[test]
fn no_pod_is_made_anew_whose_node_the_majority_needs() {
    let first = [Template, HostGone(0), Template, Pass(600), Template, Loop(3), Progress, Heal(0)];
    ends_well(3, WhenNodeGone, [first.as_slice(), &[Pass(30), Loop(1), Loop(0)]].concat());

    let first = [Template, Loop(1), Kill(1), Loop(1), Pass(600), Loop(2), Progress, Heal(1)];
    ends_well(
        3,
        AfterReprotect,
        [first.as_slice(), &[Pass(30), Loop(3), Loop(1), Loop(0)]].concat(),
    );
}

/// The same, when Kubernetes only says that the pod is ready.
#[test]
fn no_pod_is_made_anew_because_a_dead_one_looks_ready() {
    let first = [Template, Kill(1), Pass(600), Loop(3), Progress, Echo(1)];
    ends_well(4, WhenNodeGone, [first.as_slice(), &[Pass(30), Loop(3), Loop(3), Kill(2)]].concat());
}

/// A place is taken away, wanted again, filled by a new node and taken away once more before that node is
/// known. What was parked there first hid it, and all rollouts waited for it.
#[test]
fn a_node_that_joined_too_late_is_given_up_also_where_another_one_was_parked() {
    let first = [Nodes(3), Template, Loop(2), Progress, Progress, Sighted, Loop(1), Nodes(4)];
    let then = [Loop(2), Nodes(3), Loop(1), Loop(1), Loop(1)];
    ends_well(4, WhenNodeGone, [first.as_slice(), &then].concat());
}

/// A request that was refused often is made again only minutes later, when nothing else happens any more.
#[test]
fn a_request_that_was_refused_often_is_made_again() {
    let first = [Nodes(3), Loop(1), Kill(0), Kill(1), Loop(3), Pass(15), Loop(3), Pass(30)];
    let then = [Loop(3), Pass(60), Loop(3), Pass(120), Loop(3)];
    ends_well(5, WhenNodeGone, [first.as_slice(), &then].concat());
}

/// As many nodes as copies, and a disk that nobody will see again: asked for ever, refused for ever.
#[test]
fn a_lost_disk_of_three_is_made_good() {
    ends_well(3, WhenNodeGone, vec![Lost(0)]);
    ends_well(3, AfterReprotect, vec![Lost(2), Pass(600), Loop(1), Loop(2), Loop(0)]);
}

/// One node is on its way out when another is lost: only the one that leaves could take the copies.
#[test]
fn a_node_that_leaves_stays_when_it_is_needed() {
    ends_well(4, WhenNodeGone, vec![Nodes(3), Loop(2), Lost(0)]);
}

/// A lost node is back and away again before the operator looks: the cluster's own work was called off
/// when it was back.
#[test]
fn what_was_called_off_is_asked_anew() {
    let first = [Nodes(3), Loop(1), Kill(0), Pass(600), Loop(2), Progress, Progress, Loop(1)];
    ends_well(5, WhenNodeGone, [first.as_slice(), &[Loop(2), Kill(0), Heal(0), Lost(0)]].concat());
}

/// A volume is written down to go, and its guards do not hold any more.
#[test]
fn a_volume_that_was_kept_after_all_is_still_what_it_was() {
    ends_well(3, WhenNodeGone, vec![Lost(0), Pass(600), Loop(1), HostGone(1), Loop(1)]);
}

/// The place of a node that left is wanted again while another one is lost: its dead disk counted as a
/// second failure.
#[test]
fn a_disk_that_the_cluster_does_not_know_is_no_failure() {
    let first = [Nodes(3), Loop(2), Lost(0), Progress, Progress, Loop(1), Pass(247), Pass(353)];
    ends_well(5, WhenNodeGone, [first.as_slice(), &[Loop(1), Nodes(5), Loop(1)]].concat());
}

/// All older ones.
#[test]
fn histories_that_went_wrong_once_end_well() {
    let rows: [(i32, ReplacementPolicy, &[Happens]); 11] = [
        (4, WhenNodeGone, &[Template, Loop(2), Loop(0), Pass(600), Loop(2), Progress]),
        (3, WhenNodeGone, &[Nodes(4), Loop(1), Nodes(3), Template]),
        (3, WhenNodeGone, &[Template, Loop(1), Kill(0), Loop(0)]),
        (4, WhenNodeGone, &[Nodes(3), Loop(2), Kill(0), Nodes(4), Progress]),
        (3, WhenNodeGone, &[Nodes(6), Loop(1), Nodes(4)]),
        (4, WhenNodeGone, &[Kill(0), Pass(600), Template, Loop(3), Progress, Loop(1), Loop(1)]),
        (
            4,
            WhenNodeGone,
            &[Nodes(3), Loop(3), Progress, Loop(2), Blind, Nodes(5), Loop(1), Nodes(3)],
        ),
        (
            4,
            WhenNodeGone,
            &[Nodes(3), Loop(2), Progress, Nodes(4), Loop(1), Blind, Progress, Loop(3), Loop(1)],
        ),
        (
            5,
            WhenNodeGone,
            &[
                Template,
                Loop(2),
                Loop(1),
                Pass(600),
                Loop(2),
                Nodes(3),
                Progress,
                Loop(3),
                Loop(1),
                Loop(1),
                Nodes(5),
            ],
        ),
        (4, WhenNodeGone, &[Template, Nodes(3), Loop(3), Progress, Loop(2), Loop(0)]),
        (3, WhenNodeGone, &[Template, Nodes(4), Loop(1), Nodes(3)]),
    ];
    for (nodes, policy, history) in rows {
        ends_well(nodes, policy, history.to_vec());
    }
}
