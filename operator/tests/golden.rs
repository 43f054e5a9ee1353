//! Every object that is made, byte by byte, for three clusters. `HOLDFAST_WRITE=1` writes the files
//! anew.
//!
//! The pod templates in `testdata/*/pod-template-*.yaml` must never change: a running cluster's pods
//! would count as outdated after an upgrade of the operator. Something new is a new revision.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use holdfast_operator::api::HoldfastCluster;
use holdfast_operator::build::{self, Inputs, pod};
use serde_json::{Value, json};
use std::path::PathBuf;

fn inputs(spec: Value) -> Inputs {
    let cluster: HoldfastCluster = serde_json::from_value(json!({
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "HoldfastCluster",
        "metadata": {"name": "demo", "namespace": "ns", "uid": "00000000-0000-0000-0000-000000000001"},
        "spec": spec,
    }))
    .unwrap();
    let mut inputs = Inputs::new(&cluster);
    // The default names the version of this crate, which changes.
    if inputs.spec.image.ends_with(env!("CARGO_PKG_VERSION")) {
        "docker.io/holdfast/node:dev".clone_into(&mut inputs.spec.image);
    }
    inputs.pods = cluster.spec.nodes;
    inputs.fully_replicated = true;
    inputs
}

fn template_file(revision: i32) -> String {
    format!("pod-template-{revision}.yaml")
}

fn check(name: &str, inputs: &Inputs) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
    let write = std::env::var_os("HOLDFAST_WRITE").is_some();
    let objects = build::objects(inputs);
    let documents: Vec<String> = objects
        .iter()
        .map(|object| {
            let mut body = object.body.clone();
            if body["kind"] == "StatefulSet" {
                // In a file of its own.
                body["spec"]["template"] =
                    format!("see {}", template_file(pod::CURRENT_REVISION)).into();
            }
            serde_yaml::to_string(&body).unwrap()
        })
        .collect();
    let mut files = vec![("objects.yaml".to_owned(), documents.join("---\n"))];
    for template_revision in 1..=pod::CURRENT_REVISION {
        let inputs = Inputs { template_revision, ..inputs.clone() };
        let template = serde_yaml::to_string(&pod::template(&inputs)).unwrap();
        files.push((template_file(template_revision), template));
    }
    for (file, made) in files {
        let path = folder.join(file);
        if write {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &made).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(kept, made, "{} differs", path.display());
    }
}

#[test]
fn the_smallest_cluster() {
    check("smallest", &inputs(json!({})));
}

#[test]
fn a_production_cluster() {
    check(
        "production",
        &inputs(json!({
            "nodes": 5,
            "replicas": 5,
            "image": "registry.example/node:1",
            "imagePullPolicy": "IfNotPresent",
            "storage": {"size": "100Gi", "storageClassName": "fast"},
            "resources": {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "4Gi"}},
            "topologySpread": "Required",
            "gateway": {"service": {"type": "LoadBalancer", "annotations": {"example/internal": "true"}}},
            "splitKeys": ["/a", "0x2f62"],
            "podTemplate": {
                "metadata": {"annotations": {"example/scrape": "true"}},
                "spec": {"tolerations": [{"key": "store", "operator": "Exists"}], "priorityClassName": "high"}
            },
        })),
    );
}

#[test]
fn a_users_container_makes_the_node_its_sidecar() {
    let inputs = inputs(json!({
        "nodes": 1,
        "replicas": 1,
        "tls": {"client": false},
        "networkPolicy": {"enabled": false},
        "podTemplate": {"spec": {
            "containers": [
                {"name": "app", "image": "app:1"},
                {"name": "node", "env": [{"name": "HOLDFAST_LOG_LEVEL", "value": "debug"}]}
            ]
        }},
    }));
    let template = serde_json::to_value(pod::template(&inputs)).unwrap();
    let spec = &template["spec"];
    assert_eq!(spec["containers"].as_array().unwrap().len(), 1);
    assert_eq!(spec["containers"][0]["name"], "app");
    assert_eq!(spec["initContainers"][0]["name"], "node");
    assert_eq!(spec["initContainers"][0]["restartPolicy"], "Always");
    check("sidecar", &inputs);
}

#[test]
fn labels_that_select_pods_cannot_be_taken_away() {
    let inputs = inputs(json!({
        "podTemplate": {"metadata": {"labels": {"app.kubernetes.io/instance": "other", "mine": "1"}}}
    }));
    let labels = pod::template(&inputs).metadata.unwrap().labels.unwrap();
    assert_eq!(labels["app.kubernetes.io/instance"], "demo");
    assert_eq!(labels["mine"], "1");
}
