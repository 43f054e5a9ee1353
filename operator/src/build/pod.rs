//! The pod template.
//!
//! Invariant: what a revision up to [`CURRENT_REVISION`] builds never changes, not by a byte: a
//! difference would make pods outdated because the operator was upgraded. What is new has a revision
//! of its own, for new clusters: 2 counts only Kubernetes nodes that take pods when it spreads them.

use super::{Inputs, config_map, names};
use crate::api::spec::TopologySpread;
use k8s_openapi::DeepMerge as _;
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapProjection, Container, ContainerPort, EnvVar, EnvVarSource,
    HTTPGetAction, KeyToPath, Lifecycle, LifecycleHandler, ObjectFieldSelector, PodSecurityContext,
    PodSpec, PodTemplateSpec, Probe, ProjectedVolumeSource, SeccompProfile, SecretProjection,
    SecurityContext, SleepAction, TopologySpreadConstraint, Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The revision that new clusters get.
pub const CURRENT_REVISION: i32 = 2;

/// User and group of the nodes' processes.
const USER: i64 = 65532;
const CONFIG_DIR: &str = "/etc/holdfast";
/// Where the volume is.
pub const DATA_DIR: &str = "/var/lib/holdfast";

/// Builds it, with the user's overlay merged in.
pub fn template(inputs: &Inputs) -> PodTemplateSpec {
    let mut spec = PodSpec {
        service_account_name: Some(inputs.name.clone()),
        automount_service_account_token: Some(false),
        // A node hands its leaders over when it is told to stop; it needs seconds, not a minute.
        termination_grace_period_seconds: Some(60),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            // Changing the owner of every file of a large disk would delay each start.
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        topology_spread_constraints: spread(inputs),
        volumes: Some(vec![config_volume(inputs)]),
        containers: vec![],
        ..PodSpec::default()
    };
    let mut node = node(inputs);
    let mut metadata =
        ObjectMeta { labels: Some(names::labels(&inputs.name)), ..ObjectMeta::default() };
    let overlay = inputs
        .spec
        .pod_template
        .clone()
        .and_then(|overlay| serde_json::from_value::<PodTemplateSpec>(overlay).ok());
    if let Some(mut overlay) = overlay {
        if let Some(theirs) = &mut overlay.spec {
            let own = |container: &Container| container.name == names::CONTAINER;
            for containers in
                [&mut theirs.containers, theirs.init_containers.get_or_insert_default()]
            {
                while let Some(at) = containers.iter().position(own) {
                    node.merge_from(containers.remove(at));
                }
            }
        }
        if let Some(theirs) = overlay.spec {
            spec.merge_from(theirs);
        }
        metadata.merge_from(overlay.metadata.unwrap_or_default());
        // The selector of the StatefulSet cannot change, so neither can these.
        metadata.labels.get_or_insert_default().extend(names::labels(&inputs.name));
    }
    if spec.containers.is_empty() {
        spec.containers.push(node);
    } else {
        // Starts before the user's containers and stops after them.
        node.restart_policy = Some("Always".to_owned());
        spec.init_containers.get_or_insert_default().insert(0, node);
    }
    if spec.init_containers.as_ref().is_some_and(Vec::is_empty) {
        spec.init_containers = None;
    }
    PodTemplateSpec { metadata: Some(metadata), spec: Some(spec) }
}

/// What an overlay must not do, as sentences.
pub fn overlay_errors(overlay: &PodTemplateSpec) -> Vec<String> {
    let mut errors = Vec::new();
    let Some(spec) = &overlay.spec else { return errors };
    if spec.restart_policy.as_deref().is_some_and(|policy| policy != "Always") {
        errors.push("podTemplate.spec.restartPolicy must be Always".to_owned());
    }
    if spec.host_network == Some(true) {
        errors.push(
            "podTemplate.spec.hostNetwork is not supported: nodes are known by their pods' names"
                .to_owned(),
        );
    }
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    for node in containers.filter(|container| container.name == names::CONTAINER) {
        if node.command.is_some() || node.args.is_some() {
            errors.push(
                "podTemplate must not change command or args of the container node".to_owned(),
            );
        }
    }
    errors
}

fn node(inputs: &Inputs) -> Container {
    Container {
        name: names::CONTAINER.to_owned(),
        image: Some(inputs.spec.image.clone()),
        image_pull_policy: inputs.spec.image_pull_policy.map(|policy| policy.as_str().to_owned()),
        args: Some(vec![
            "serve".to_owned(),
            "--config".to_owned(),
            format!("{CONFIG_DIR}/{}", config_map::FILE),
        ]),
        env: Some(environment(inputs)),
        ports: Some(vec![
            port("client", names::CLIENT_PORT),
            port("peer", names::PEER_PORT),
            port("http", names::HTTP_PORT),
        ]),
        resources: inputs.spec.resources.clone(),
        volume_mounts: Some(vec![
            VolumeMount {
                name: names::VOLUME.to_owned(),
                mount_path: DATA_DIR.to_owned(),
                ..VolumeMount::default()
            },
            VolumeMount {
                name: "config".to_owned(),
                mount_path: CONFIG_DIR.to_owned(),
                read_only: Some(true),
                ..VolumeMount::default()
            },
        ]),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                ..Capabilities::default()
            }),
            ..SecurityContext::default()
        }),
        // Opening a large disk takes a while; until then liveness does not count.
        startup_probe: Some(probe("/livez", 1, 5, 600)),
        // Patient: a node whose front end is cut off still does its work for the others.
        liveness_probe: Some(probe("/livez", 10, 5, 30)),
        // Clients go elsewhere within these few seconds when the front end cannot serve.
        readiness_probe: Some(probe("/readyz", 2, 2, 2)),
        // The gateway forgets the pod before it stops to take clients.
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction { seconds: 2 }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        // Why a node refused to start is in the last lines of its log.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

fn environment(inputs: &Inputs) -> Vec<EnvVar> {
    let host = names::pod_host(&inputs.name, &inputs.namespace, "$(POD_NAME)");
    let tls = |file: &str| format!("{CONFIG_DIR}/tls/{file}");
    let mut env = vec![
        EnvVar {
            name: "POD_NAME".to_owned(),
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector {
                    api_version: Some("v1".to_owned()),
                    field_path: "metadata.name".to_owned(),
                }),
                ..EnvVarSource::default()
            }),
            ..EnvVar::default()
        },
        variable("HOLDFAST_NAME", "$(POD_NAME)"),
        variable("HOLDFAST_DATA", DATA_DIR),
        variable("HOLDFAST_CLIENT_LISTEN", format!("0.0.0.0:{}", names::CLIENT_PORT)),
        variable("HOLDFAST_PEER_LISTEN", format!("0.0.0.0:{}", names::PEER_PORT)),
        variable("HOLDFAST_HTTP_LISTEN", format!("0.0.0.0:{}", names::HTTP_PORT)),
        variable("HOLDFAST_ADVERTISE_CLIENT", format!("{host}:{}", names::CLIENT_PORT)),
        variable("HOLDFAST_ADVERTISE_PEER", format!("{host}:{}", names::PEER_PORT)),
        variable("HOLDFAST_ADVERTISE_HTTP", format!("{host}:{}", names::HTTP_PORT)),
        variable("HOLDFAST_LOG_FORMAT", "json"),
        variable("HOLDFAST_PEER_CERT_FILE", tls("tls.crt")),
        variable("HOLDFAST_PEER_KEY_FILE", tls("tls.key")),
        variable("HOLDFAST_PEER_TRUSTED_CA_FILE", tls("ca.crt")),
    ];
    if inputs.spec.tls.client {
        env.extend([
            variable("HOLDFAST_CERT_FILE", tls("tls.crt")),
            variable("HOLDFAST_KEY_FILE", tls("tls.key")),
            variable("HOLDFAST_TRUSTED_CA_FILE", tls("client-ca.crt")),
            variable("HOLDFAST_CLIENT_CERT_AUTH", "true"),
        ]);
    }
    env
}

/// One volume, so that the file and the certificates change together and nothing is mounted inside of
/// another mount.
fn config_volume(inputs: &Inputs) -> Volume {
    let files = ["tls.crt", "tls.key", "ca.crt", "client-ca.crt"];
    let config = VolumeProjection {
        config_map: Some(ConfigMapProjection {
            name: names::config_map(&inputs.name),
            items: Some(vec![item(config_map::FILE, config_map::FILE)]),
            ..ConfigMapProjection::default()
        }),
        ..VolumeProjection::default()
    };
    let tls = VolumeProjection {
        secret: Some(SecretProjection {
            name: names::node_tls_secret(&inputs.name),
            items: Some(files.map(|file| item(file, &format!("tls/{file}"))).into()),
            ..SecretProjection::default()
        }),
        ..VolumeProjection::default()
    };
    Volume {
        name: "config".to_owned(),
        projected: Some(ProjectedVolumeSource {
            // The group of the process may read it, nobody else.
            default_mode: Some(0o440),
            sources: Some(vec![config, tls]),
            ..ProjectedVolumeSource::default()
        }),
        ..Volume::default()
    }
}

fn spread(inputs: &Inputs) -> Option<Vec<TopologySpreadConstraint>> {
    let constraint = |key: &str, otherwise: &str| TopologySpreadConstraint {
        max_skew: 1,
        topology_key: key.to_owned(),
        when_unsatisfiable: otherwise.to_owned(),
        // A Kubernetes node that takes no pods, as of a control plane, is not a place that lacks one:
        // with `Required` the second pod on any other would wait for ever.
        node_taints_policy: (inputs.template_revision >= 2).then(|| "Honor".to_owned()),
        label_selector: Some(LabelSelector {
            match_labels: Some(names::selector(&inputs.name)),
            ..LabelSelector::default()
        }),
        ..TopologySpreadConstraint::default()
    };
    let host = match inputs.spec.topology_spread {
        TopologySpread::Off => return None,
        TopologySpread::Auto => "ScheduleAnyway",
        TopologySpread::Required => "DoNotSchedule",
    };
    Some(vec![
        constraint("kubernetes.io/hostname", host),
        // Not every Kubernetes cluster names its zones.
        constraint("topology.kubernetes.io/zone", "ScheduleAnyway"),
    ])
}

fn probe(path: &str, period: i32, timeout: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("http".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(timeout),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: number.into(),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn variable(name: &str, value: impl Into<String>) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.into()), ..EnvVar::default() }
}

fn item(key: &str, path: &str) -> KeyToPath {
    KeyToPath { key: key.to_owned(), path: path.to_owned(), ..KeyToPath::default() }
}
