//! Constructors of objects, as the API server would give them, with what Lark and a little more reads.

use serde_json::{Value, json};

use super::registry::Resource;

/// The kinds that are served: kind, group, plural.
const KINDS: [(&str, &str, &str); 14] = [
    ("Namespace", "", "namespaces"),
    ("Node", "", "nodes"),
    ("Pod", "", "pods"),
    ("Service", "", "services"),
    ("Secret", "", "secrets"),
    ("ConfigMap", "", "configmaps"),
    ("Event", "", "events"),
    ("EndpointSlice", "discovery.k8s.io", "endpointslices"),
    ("NetworkPolicy", "networking.k8s.io", "networkpolicies"),
    ("AuthorizationPolicy", "lark.mesh", "authorizationpolicies"),
    ("Lease", "coordination.k8s.io", "leases"),
    ("TokenReview", "authentication.k8s.io", "tokenreviews"),
    ("SubjectAccessReview", "authorization.k8s.io", "subjectaccessreviews"),
    ("Event", "events.k8s.io", "events"),
];

/// Where an object belongs, by its `kind` and `apiVersion`.
///
/// # Panics
/// When its kind is not served: the scenario is wrong.
pub fn resource(object: &Value) -> Resource {
    let kind = object["kind"].as_str().unwrap_or_default();
    let version = object["apiVersion"].as_str().unwrap_or_default();
    let group = version.rsplit_once('/').map_or("", |(group, _)| group);
    match KINDS.iter().find(|(k, g, _)| *k == kind && *g == group) {
        Some((_, group, plural)) => ((*group).to_owned(), (*plural).to_owned()),
        None => panic!("{version} {kind} is not served"),
    }
}

/// The kind of a resource, if it is served.
pub(crate) fn kind(group: &str, plural: &str) -> Option<&'static str> {
    KINDS.iter().find(|(_, g, p)| *g == group && *p == plural).map(|(kind, _, _)| *kind)
}

/// A namespace with its label for capture: `enabled`, `disabled`, or none.
pub fn namespace(name: &str, capture: Option<&str>) -> Value {
    let mut labels = json!({ "kubernetes.io/metadata.name": name });
    if let Some(value) = capture {
        labels["lark.mesh/capture"] = json!(value);
    }
    json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels },
        "spec": { "finalizers": ["kubernetes"] }, "status": { "phase": "Active" }
    })
}

/// A node in zone `a`.
pub fn node(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": name, "labels": {
            "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": "a"
        } },
        "spec": {},
        "status": { "addresses": [
            { "type": "InternalIP", "address": address }, { "type": "Hostname", "address": name }
        ] }
    })
}

/// A running pod of a Deployment of its account's name.
pub fn pod(namespace: &str, name: &str, account: &str, node: &str, addresses: &[&str]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace,
            "labels": { "app": account, "pod-template-hash": "6d4cf56db6" },
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{account}-6d4cf56db6"),
                "uid": "rs", "controller": true, "blockOwnerDeletion": true
            }],
            "managedFields": [{ "manager": "kubelet", "operation": "Update", "fieldsType": "FieldsV1",
                "fieldsV1": { "f:status": { "f:podIP": {}, "f:phase": {} } } }]
        },
        "spec": {
            "nodeName": node, "serviceAccountName": account, "serviceAccount": account,
            "containers": [{ "name": "main", "image": "registry.example/main:1", "resources": {} }],
            "restartPolicy": "Always"
        },
        "status": {
            "phase": "Running", "podIP": addresses.first(),
            "podIPs": addresses.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>(),
            "conditions": [{ "type": "Ready", "status": "True" }]
        }
    })
}

/// A Service with one cluster IP and one port that leads to 8080.
pub fn service(namespace: &str, name: &str, cluster: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "type": "ClusterIP", "clusterIP": cluster, "clusterIPs": [cluster], "ipFamilies": ["IPv4"],
            "ports": [{ "name": "main", "protocol": "TCP", "port": port, "targetPort": 8080 }],
            "selector": { "app": name }, "sessionAffinity": "None", "internalTrafficPolicy": "Cluster"
        },
        "status": { "loadBalancer": {} }
    })
}

/// What TokenReview says of a token bound to `pod`: its user, for whom it is, and, from Kubernetes 1.32 on,
/// the pod's node.
pub fn review(user: &str, audiences: &[&str], node: Option<&str>, pod: &Value) -> Value {
    let mut extra = json!({
        "authentication.kubernetes.io/credential-id": ["JTI=1"],
        "authentication.kubernetes.io/pod-name": [pod["metadata"]["name"]],
        "authentication.kubernetes.io/pod-uid": [pod["metadata"]["uid"]]
    });
    if let Some(node) = node {
        extra["authentication.kubernetes.io/node-name"] = json!([node]);
    }
    json!({
        "authenticated": true, "audiences": audiences,
        "user": { "username": user, "uid": "1", "groups": ["system:serviceaccounts"], "extra": extra }
    })
}

/// The EndpointSlice of a Service with these pods, as they were put, all ready.
pub fn slice(service: &Value, pods: &[&Value]) -> Value {
    let meta = &service["metadata"];
    let name = meta["name"].as_str().unwrap_or_default();
    let endpoints = pods.iter().map(|pod| {
        json!({
            "addresses": [pod["status"]["podIP"]], "nodeName": pod["spec"]["nodeName"], "zone": "a",
            "conditions": { "ready": true, "serving": true, "terminating": false },
            "targetRef": {
                "kind": "Pod", "namespace": meta["namespace"], "name": pod["metadata"]["name"],
                "uid": pod["metadata"]["uid"]
            }
        })
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{name}-1"), "namespace": meta["namespace"],
            "labels": { "kubernetes.io/service-name": name }
        },
        "addressType": "IPv4",
        "endpoints": endpoints.collect::<Vec<_>>(),
        "ports": [{ "name": "main", "protocol": "TCP", "port": 8080 }]
    })
}
