//! A cluster from its chart: `helm install`, and `helm test`, which puts and gets through the gateway.

use crate::world::{CLUSTER, World, image};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use std::process::Command;

/// Runs helm in the namespace of the test.
fn helm(world: &World, arguments: &[&str]) -> Result<String, String> {
    let program = std::env::var_os("HELM").expect("the test is left out without helm");
    let output = Command::new(program)
        .args(["--namespace", &world.namespace])
        .args(arguments)
        .output()
        .map_err(|error| error.to_string())?;
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(out)
    } else {
        Err(format!("{out}{}", String::from_utf8_lossy(&output.stderr)))
    }
}

pub(crate) async fn the_chart_makes_a_cluster_and_its_test_passes(world: &World) {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/holdfast-cluster");
    let test_image = format!("test.image={}", image("e2e"));
    let node_image = format!("spec.image={}", image("node"));
    let set = ["--set", &test_image, "--set", &node_image, "--set", "spec.storage.size=1Gi"];
    // A release of a run that was killed.
    let _left = helm(world, &["uninstall", CLUSTER, "--ignore-not-found"]);
    let mut install = vec!["install", CLUSTER, chart];
    install.extend(set);
    let notes = helm(world, &install).expect("the chart is valid");
    assert!(notes.contains("kubectl"), "no notes: {notes}");
    world.whole(3).await;
    let tested = helm(world, &["test", CLUSTER, "--logs", "--timeout", "120s"]);
    // The pod of the test stays for looking at it; the next test wants an empty namespace.
    let pod = format!("{CLUSTER}-test");
    let deleted = world.api::<Pod>().delete(&pod, &DeleteParams::default().grace_period(0)).await;
    let removed = helm(world, &["uninstall", CLUSTER]);
    let told = tested.expect("helm test passes");
    assert!(told.contains("Succeeded") && told.contains("works"), "{told}");
    deleted.expect("the pod of the test is there");
    removed.expect("the release can be removed");
}
