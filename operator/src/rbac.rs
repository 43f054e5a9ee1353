//! The rights that the operator needs, exactly, for whoever writes its Roles.
//!
//! Invariant: with `--namespace` given, Secrets are read in those namespaces alone, by a Role in each,
//! never by a ClusterRole. Only who runs the operator without it has to bind [`NAMESPACED`] everywhere.

/// Resources of one API group, with verbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The API group; empty for the core.
    pub group: &'static str,
    /// The resources.
    pub resources: &'static [&'static str],
    /// What is done with them.
    pub verbs: &'static [&'static str],
}

/// For a Role in every watched namespace.
pub const NAMESPACED: &[Rule] = &[
    Rule { group: "holdfast.dev", resources: &["holdfastclusters"], verbs: &["list", "watch"] },
    Rule { group: "holdfast.dev", resources: &["holdfastclusters/status"], verbs: &["patch"] },
    // Owner references with blockOwnerDeletion, where that is checked.
    Rule { group: "holdfast.dev", resources: &["holdfastclusters/finalizers"], verbs: &["update"] },
    Rule {
        group: "",
        resources: &["configmaps", "serviceaccounts", "services"],
        verbs: &["list", "watch", "create", "patch"],
    },
    Rule { group: "", resources: &["secrets"], verbs: &["list", "watch", "create", "patch"] },
    // Created, and what it printed is read, only for a recovery that was asked for.
    Rule {
        group: "",
        resources: &["pods"],
        verbs: &["list", "watch", "create", "patch", "delete"],
    },
    Rule { group: "", resources: &["pods/log"], verbs: &["get"] },
    Rule { group: "", resources: &["persistentvolumeclaims"], verbs: &["list", "watch", "delete"] },
    Rule {
        group: "apps",
        resources: &["statefulsets"],
        verbs: &["list", "watch", "create", "patch"],
    },
    Rule {
        group: "policy",
        resources: &["poddisruptionbudgets"],
        verbs: &["list", "watch", "create", "patch", "delete"],
    },
    Rule {
        group: "networking.k8s.io",
        resources: &["networkpolicies"],
        verbs: &["list", "watch", "create", "patch", "delete"],
    },
    // Only where that kind exists.
    Rule {
        group: "monitoring.coreos.com",
        resources: &["podmonitors"],
        verbs: &["list", "watch", "create", "patch", "delete"],
    },
    Rule { group: "events.k8s.io", resources: &["events"], verbs: &["create", "patch"] },
];

/// For a Role in the operator's own namespace.
pub const OWN_NAMESPACE: &[Rule] = &[Rule {
    group: "coordination.k8s.io",
    resources: &["leases"],
    verbs: &["get", "create", "update"],
}];

/// For a ClusterRole that may be left out: without it the operator does not see that a Kubernetes node
/// is cordoned or gone.
pub const OPTIONAL_CLUSTER: &[Rule] =
    &[Rule { group: "", resources: &["nodes"], verbs: &["get", "list", "watch"] }];
