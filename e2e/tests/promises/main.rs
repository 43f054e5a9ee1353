//! The promises on a real Kubernetes, one file each.
//!
//! The tests see a kubeconfig (`KUBECONFIG`) with the operator installed, and a program that makes
//! faults (`HOLDFAST_E2E_FAULT`, see `cluster/fault`). Each has an empty namespace and a cluster of its own;
//! they run one after the other, since a fault of a Kubernetes node hurts whatever is on it. Without a
//! kubeconfig, or without faults or helm (`HELM`) for those that need them, they are left out and counted as ignored.
//!
//! Invariant: they wait for events, never for a time, except where the time is what is promised.

mod faults;
mod recording;
mod view;
mod world;

mod back_cut;
mod certificates;
mod create;
mod disk_emptied;
mod five_nodes;
mod front_cut;
mod helm;
mod machine_lost;
mod majority_lost;
mod monitoring;
mod operator_killed;
mod operator_upgraded;
mod paused;
mod placement;
mod pod_killed;
mod ranges_lost;
mod refused;
mod reprotection;
mod scaling;
mod serve;
mod uninstall;

use faults::Faults;
use libtest_mimic::{Arguments, Failed, Trial};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::runtime::Runtime;
use world::World;

/// A test: it fails by panicking.
type Test = fn(&World) -> Pin<Box<dyn Future<Output = ()> + '_>>;

/// One test with its name, and what it needs besides a cluster.
struct Entry {
    name: &'static str,
    needs: &'static str,
    test: Test,
}

/// Lists tests: `tests![faults: module::function; ...]`.
macro_rules! tests {
    ($($needs:ident: $module:ident::$function:ident;)*) => {
        vec![$(Entry {
            name: concat!(stringify!($module), "::", stringify!($function)),
            needs: stringify!($needs),
            test: |world| Box::pin($module::$function(world)),
        }),*]
    };
}

fn main() -> ExitCode {
    let entries = tests![
        plain: create::three_pods_are_ready_and_serve_within_a_minute;
        plain: create::pods_are_spread_and_restricted;
        plain: serve::clients_in_pods_use_the_gateway;
        plain: refused::the_api_server_says_what_is_wrong;
        plain: refused::what_keeps_pods_from_starting_is_said;
        plain: refused::a_storage_class_that_is_missing_is_said;
        plain: pod_killed::a_deleted_pod_costs_no_request;
        faults: pod_killed::a_killed_process_costs_only_its_own_clients;
        faults: paused::a_pod_that_stands_still_leaves_the_gateway_and_returns;
        faults: front_cut::it_takes_part_without_clients;
        faults: back_cut::the_others_go_on_and_it_returns;
        faults: machine_lost::the_others_serve_and_it_returns;
        faults: reprotection::a_lost_machine_is_made_good;
        faults: reprotection::of_three_machines_one_is_lost_with_its_disk;
        faults: reprotection::a_volume_is_replaced_when_somebody_says_so;
        faults: five_nodes::reboots_move_nothing_and_a_deleted_machine_is_made_good;
        faults: majority_lost::what_is_left_goes_on_by_consent;
        faults: ranges_lost::their_last_copies_go_on_by_consent;
        faults: disk_emptied::it_joins_as_a_new_store;
        plain: operator_killed::a_cluster_comes_up_while_the_operator_dies;
        plain: operator_killed::two_operators_do_no_harm;
        plain: operator_upgraded::no_pod_restarts;
        plain: scaling::up_while_clients_go_on;
        plain: scaling::down_gives_the_copies_away_first;
        plain: scaling::below_the_copies_is_refused;
        plain: placement::copies_follow_the_resource;
        plain: certificates::ready_means_that_every_pod_shows_them;
        plain: monitoring::a_pod_monitor_is_made_once_its_kind_is_there;
        helm: helm::the_chart_makes_a_cluster_and_its_test_passes;
        plain: uninstall::volumes_stay;
    ];
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let runtime = Arc::new(Runtime::new().expect("threads and an event queue can be had at start"));
    let faults = Faults::from_environment();
    let no_cluster = std::env::var_os("KUBECONFIG").is_none();
    let trials = entries
        .into_iter()
        .map(|entry| {
            let lacks = match entry.needs {
                "faults" => faults.is_none(),
                "helm" => std::env::var_os("HELM").is_none(),
                _ => false,
            };
            let ignored = no_cluster || lacks;
            let (runtime, faults) = (Arc::clone(&runtime), faults.clone());
            Trial::test(entry.name, move || run(&runtime, &entry, faults))
                .with_ignored_flag(ignored)
        })
        .collect();
    if no_cluster {
        eprintln!("KUBECONFIG is not set: all tests are left out. e2e/run.sh brings a cluster.");
    } else if faults.is_none() {
        eprintln!("HOLDFAST_E2E_FAULT is not set: tests that need faults are left out.");
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if conclusion.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs one test in an empty namespace, which is emptied again afterwards.
fn run(runtime: &Runtime, entry: &Entry, faults: Option<Faults>) -> Result<(), Failed> {
    runtime.block_on(async {
        let began = std::time::Instant::now();
        let world = World::new(faults).await;
        let result = {
            use futures::FutureExt as _;
            AssertUnwindSafe((entry.test)(&world)).catch_unwind().await
        };
        if let Some(faults) = &world.faults {
            faults.heal();
        }
        let failed = result.err().map(|panic| {
            let message = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_else(|| "panicked".to_owned());
            Failed::from(message)
        });
        if failed.is_some() {
            world.print_what_is_there().await;
        }
        world.begin_to_clear().await;
        eprintln!("    {} took {:.1} s", entry.name, began.elapsed().as_secs_f64());
        failed.map_or(Ok(()), Err)
    })
}
