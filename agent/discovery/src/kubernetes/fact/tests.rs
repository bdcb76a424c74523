use kube::Resource;
use serde_json::{Value, json};

use super::*;
use crate::kubernetes::object::Reduced;

fn read<F: Fact>(object: Value) -> F {
    serde_json::from_value::<Reduced<F>>(object).unwrap().fact
}

/// As the API server gives it, with much that nobody here needs.
fn pod() -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {
            "name": "web-6d4cf56db6-x2x9p", "generateName": "web-6d4cf56db6-", "namespace": "shop",
            "uid": "0c2f9a9e-52cf-4ad0-9d0b-0d2d4e2c7a11", "resourceVersion": "4711",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": { "app": "web", "pod-template-hash": "6d4cf56db6" },
            "annotations": { "example.com/note": "x", "lark.mesh/mtls-ports": "9090=permissive" },
            "ownerReferences": [
                { "apiVersion": "example.com/v1", "kind": "Note", "name": "n", "uid": "1" },
                { "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-6d4cf56db6", "uid": "2",
                  "controller": true, "blockOwnerDeletion": true }
            ],
            "managedFields": [{ "manager": "kubelet", "fieldsV1": { "f:status": {} } }]
        },
        "spec": {
            "nodeName": "one", "serviceAccountName": "web", "serviceAccount": "web",
            "containers": [{ "name": "web", "image": "nginx", "resources": {}, "ports": [
                { "name": "web", "containerPort": 8080, "protocol": "TCP" }, { "containerPort": 9090 },
                { "name": "dns", "containerPort": 53, "protocol": "UDP" }
            ] }]
        },
        "status": {
            "phase": "Running", "hostIP": "192.168.0.1", "podIP": "10.0.1.1",
            "podIPs": [{ "ip": "10.0.1.1" }, { "ip": "fd01::1" }]
        }
    })
}

#[test]
fn a_pod_is_reduced_to_what_the_snapshot_needs() {
    let read: Reduced<Pod> = serde_json::from_value(pod()).unwrap();
    assert_eq!(read.meta().resource_version.as_deref(), Some("4711"));
    assert_eq!(read.meta().managed_fields, None);
    assert_eq!(
        read.fact,
        Pod {
            uid: "0c2f9a9e-52cf-4ad0-9d0b-0d2d4e2c7a11".into(),
            namespace: "shop".into(),
            name: "web-6d4cf56db6-x2x9p".into(),
            account: Some("web".into()),
            labels: BTreeMap::from([
                ("app".into(), "web".into()),
                ("pod-template-hash".into(), "6d4cf56db6".into())
            ])
            .into(),
            annotations: [("lark.mesh/mtls-ports".into(), "9090=permissive".into())].into(),
            addresses: vec!["10.0.1.1".parse().unwrap(), "fd01::1".parse().unwrap()],
            node: Some("one".into()),
            owner: Some("Deployment/web".into()),
            host_network: false,
            ports: vec![NamedPort { name: "web".into(), port: 8080 }],
            life: Life::Alive,
        }
    );
}

#[test]
fn an_object_with_nothing_in_it_is_read_too() {
    let bare = json!({ "metadata": { "name": "bare", "namespace": "shop", "uid": "u" } });
    let pod: Pod = read(bare.clone());
    assert_eq!((pod.account, pod.node, pod.owner, pod.addresses), (None, None, None, Vec::new()));
    assert_eq!(read::<Service>(bare.clone()).cluster, Vec::<IpAddr>::new());
    assert_eq!(read::<Node>(bare.clone()).zone, None);
    assert_eq!(read::<Namespace>(bare).labels, BTreeMap::new());
    let slice = json!({
        "metadata": { "name": "s", "namespace": "shop" }, "addressType": "IPv4",
        "endpoints": null, "ports": null
    });
    assert_eq!(read::<Slice>(slice).endpoints, Vec::new());
}

#[test]
fn owners_are_what_people_call_them() {
    let owner = |kind: &str, name: &str, labels: Value| {
        let owners =
            json!([{ "apiVersion": "v1", "kind": kind, "name": name, "uid": "1", "controller": true }]);
        let object = json!({ "metadata": { "name": "p", "labels": labels, "ownerReferences": owners } });
        read::<Pod>(object).owner.map(|o| o.to_string())
    };
    let hash = json!({ "pod-template-hash": "abc" });
    for (kind, name, labels, expected) in [
        ("ReplicaSet", "web-abc", hash.clone(), "Deployment/web"),
        ("ReplicaSet", "by-hand", json!({}), "ReplicaSet/by-hand"),
        ("ReplicaSet", "other-abd", hash.clone(), "ReplicaSet/other-abd"),
        ("ReplicaSet", "-abc", hash, "ReplicaSet/-abc"),
        ("Job", "report-29461234", json!({}), "CronJob/report"),
        ("Job", "report-1", json!({}), "Job/report-1"),
        ("StatefulSet", "db", json!({}), "StatefulSet/db"),
        ("DaemonSet", "log", json!({}), "DaemonSet/log"),
    ] {
        assert_eq!(owner(kind, name, labels).as_deref(), Some(expected));
    }
}

#[test]
fn completed_host_network_and_mirror_pods_are_told_apart() {
    let with = |pointer: &str, key: &str, value: Value| {
        let mut pod = pod();
        pod.pointer_mut(pointer).unwrap().as_object_mut().unwrap().insert(key.to_owned(), value);
        read::<Pod>(pod)
    };
    assert_eq!(with("/status", "phase", json!("Succeeded")).life, Life::Over);
    assert_eq!(with("/status", "phase", json!("Failed")).life, Life::Over);
    // Until it is gone from the API it may have processes.
    assert_eq!(with("/metadata", "deletionTimestamp", json!("2026-01-01T00:00:00Z")).life, Life::Alive);
    assert!(with("/spec", "hostNetwork", json!(true)).host_network);
    let mirror = json!({ "kubernetes.io/config.mirror": "6a1b", "kubernetes.io/config.hash": "6a1b" });
    assert_eq!(with("/metadata", "annotations", mirror).account, None);
}

#[test]
fn what_is_no_address_of_a_pod_is_left_out() {
    let addresses = |ips: Value| {
        read::<Pod>(json!({ "metadata": { "name": "p" }, "status": { "podIPs": ips } })).addresses
    };
    let odd = ["", "x", "127.0.0.1", "::1", "0.0.0.0", "224.0.0.1", "169.254.1.1", "fe80::1", "10.0.0.1/24"];
    assert_eq!(addresses(json!(odd.map(|ip| json!({ "ip": ip })))), Vec::<IpAddr>::new());
    let twice = json!([{ "ip": "10.0.0.1" }, { "ip": "::ffff:10.0.0.1" }, {}]);
    assert_eq!(addresses(twice), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
}

#[test]
fn a_node_has_its_internal_addresses_and_its_zone() {
    let node: Node = read(json!({
        "metadata": { "name": "one", "labels": { "topology.kubernetes.io/zone": "a" } },
        "status": { "addresses": [
            { "type": "Hostname", "address": "one" },
            { "type": "ExternalIP", "address": "203.0.113.1" },
            { "type": "InternalIP", "address": "192.168.0.1" },
            { "type": "InternalIP", "address": "fd00::1" }
        ] }
    }));
    let addresses = vec!["192.168.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    assert_eq!(node, Node { name: "one".into(), addresses, zone: Some("a".into()) });
}

fn service(spec: Value, status: Value) -> Service {
    read(json!({ "metadata": { "name": "db", "namespace": "shop" }, "spec": spec, "status": status }))
}

#[test]
fn a_service_is_read_with_its_traffic_rules() {
    let read = service(
        json!({
            "type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd96::1"],
            "externalIPs": ["198.51.100.1"],
            "ports": [
                { "name": "sql", "protocol": "TCP", "port": 5432, "targetPort": "sql", "nodePort": 30001 },
                { "name": "dns", "protocol": "UDP", "port": 53 }
            ],
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 60 } },
            "internalTrafficPolicy": "Local", "trafficDistribution": "PreferClose"
        }),
        json!({ "loadBalancer": { "ingress": [
            { "ip": "203.0.113.7", "ipMode": "VIP" }, { "ip": "203.0.113.8", "ipMode": "Proxy" }, { "hostname": "x" }
        ] } }),
    );
    assert_eq!(
        read,
        Service {
            namespace: "shop".into(),
            name: "db".into(),
            cluster: vec!["10.96.0.1".parse().unwrap(), "fd96::1".parse().unwrap()],
            outer: vec!["198.51.100.1".parse().unwrap(), "203.0.113.7".parse().unwrap()],
            ports: vec![Port { name: "sql".into(), number: 5432 }],
            affinity: Some(Duration::from_secs(60)),
            local: true,
            near: Near::Zone,
        }
    );
    let default = service(json!({ "clusterIP": "10.96.0.2", "sessionAffinity": "ClientIP" }), json!({}));
    assert_eq!(default.affinity, Some(Duration::from_secs(10_800)));
}

#[test]
fn of_very_many_addresses_the_first_count() {
    let many: Vec<String> = (0..2000).map(|n| format!("198.51.{}.{}", n / 250, n % 250 + 1)).collect();
    let read = service(json!({ "clusterIP": "10.96.0.1", "externalIPs": many }), json!({}));
    assert_eq!((read.cluster.len(), read.outer.len()), (1, 64));
    assert_eq!(read.outer[63].to_string(), "198.51.0.64");
}

#[test]
fn services_that_are_no_mesh_destination_have_no_address() {
    let headless =
        service(json!({ "clusterIP": "None", "clusterIPs": ["None"] }), json!({ "loadBalancer": {} }));
    let name = service(
        json!({ "type": "ExternalName", "externalName": "example.com", "externalIPs": ["198.51.100.1"] }),
        json!({}),
    );
    // Whom the balancer keeps out must not come in through Lark.
    let filtered = service(
        json!({ "loadBalancerSourceRanges": ["198.51.100.0/24"] }),
        json!({ "loadBalancer": { "ingress": [{ "ip": "203.0.113.7" }] } }),
    );
    for service in [headless, name, filtered] {
        assert_eq!((service.cluster, service.outer), (Vec::new(), Vec::new()));
    }
}

#[test]
fn endpoints_are_read_with_conditions_and_hints() {
    let slice: Slice = read(json!({
        "metadata": { "name": "db-1", "namespace": "shop", "labels": { "kubernetes.io/service-name": "db" } },
        "addressType": "IPv4",
        "ports": [{ "name": "sql", "port": 15432, "protocol": "TCP" }, { "name": "dns", "port": 53, "protocol": "UDP" }],
        "endpoints": [
            { "addresses": ["10.0.2.1"], "conditions": { "ready": true, "serving": true, "terminating": false },
              "targetRef": { "kind": "Pod", "name": "db-0", "namespace": "shop", "uid": "u1" },
              "nodeName": "two", "zone": "a",
              "hints": { "forZones": [{ "name": "a" }], "forNodes": [{ "name": "two" }] } },
            { "addresses": ["10.0.2.2"], "conditions": { "ready": false, "serving": true, "terminating": true } },
            { "addresses": ["10.0.2.3"], "conditions": { "ready": false, "serving": false } },
            { "addresses": ["10.0.2.4"], "conditions": {} },
            { "addresses": ["nonsense"] }, { "addresses": [] }
        ]
    }));
    assert_eq!(slice.service, "db".into());
    assert_eq!(slice.ports, [Port { name: "sql".into(), number: 15432 }]);
    let told: Vec<_> = slice.endpoints.iter().map(|e| (e.address.to_string(), e.ready, e.draining)).collect();
    let expected = [
        ("10.0.2.1", true, false),
        ("10.0.2.2", false, true),
        ("10.0.2.3", false, false),
        ("10.0.2.4", true, false),
    ];
    assert_eq!(told, expected.map(|(a, ready, draining)| (a.to_owned(), ready, draining)));
    let first = &slice.endpoints[0];
    assert_eq!(
        (first.pod.as_deref(), first.node.as_deref(), first.zone.as_deref()),
        (Some("u1"), Some("two"), Some("a"))
    );
    assert_eq!((&*first.zones, &*first.nodes), (["a".into()].as_slice(), ["two".into()].as_slice()));

    let names: Slice = read(json!({
        "metadata": { "name": "n", "namespace": "shop" }, "addressType": "FQDN",
        "endpoints": [{ "addresses": ["10.0.0.1"] }]
    }));
    assert_eq!(names.endpoints, Vec::new());
}

#[test]
fn numbers_that_are_no_ports_are_left_out() {
    for none in [-1_i64, 0, 65_536, 70_000, i64::from(i32::MAX)] {
        let ports = json!([{ "name": "odd", "port": none }, { "name": "sql", "port": 15432 }]);
        let slice = json!({ "metadata": { "name": "db-1", "namespace": "shop" }, "ports": ports });
        assert_eq!(read::<Slice>(slice).ports, [Port { name: "sql".into(), number: 15432 }]);
        let service = service(json!({ "clusterIP": "10.96.0.1", "ports": ports }), json!({}));
        assert_eq!(service.ports, [Port { name: "sql".into(), number: 15432 }]);
        let containers = json!([{ "ports": [{ "name": "odd", "containerPort": none }] }]);
        let pod = json!({ "metadata": { "name": "p" }, "spec": { "containers": containers } });
        assert_eq!(read::<Pod>(pod).ports, []);
    }
}

/// A value in lists in lists.
fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

#[test]
fn a_policy_that_nests_too_deep_closes_its_namespace_and_spoils_no_list() {
    let item = |name: &str, spec: &str| {
        format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"shop"}},"spec":{spec},"status":{}}}"#,
            nested(500)
        )
    };
    let deep = format!(r#"{{"rules":{}}}"#, nested(500));
    let items = [item("deep", &deep), item("open", r#"{"rules":[{}]}"#)].join(",");
    let list: Vec<Reduced<AuthorizationPolicy>> = serde_json::from_str(&format!("[{items}]")).unwrap();
    let manifests = list.into_iter().map(|p| p.fact.0.manifest).collect();
    let domain = lark_core::identity::TrustDomain::new("cluster.local").unwrap();
    let policies = crate::policy::read(&domain, BTreeMap::new(), manifests, Vec::new());
    assert_eq!(policies.authorization.len(), 1);
    let [unreadable] = &*policies.unreadable else { panic!("{:?}", policies.unreadable) };
    assert_eq!((unreadable.within.as_deref(), &*unreadable.policy.name), (Some("shop"), "deep"));
    assert!(unreadable.why.contains("recursion limit"), "{}", unreadable.why);
    assert!(!unreadable.dry_run);
}

#[test]
fn policies_keep_their_manifests_and_nothing_else() {
    let spec = json!({ "podSelector": {}, "policyTypes": ["Ingress"] });
    let policy: NetworkPolicy = read(json!({
        "metadata": { "name": "closed", "namespace": "shop", "resourceVersion": "7", "managedFields": [{}] },
        "spec": spec, "status": {}
    }));
    let expected = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "namespace": "shop", "name": "closed" }, "spec": spec
    });
    let policy = policy.0;
    assert_eq!((&*policy.namespace, &*policy.name, policy.manifest), ("shop", "closed", expected));
    let policy: AuthorizationPolicy = read(json!({
        "metadata": { "name": "open", "namespace": "shop", "uid": "1" }, "spec": { "rules": [{}] }
    }));
    let expected = json!({
        "apiVersion": "lark.mesh/v1alpha1", "kind": "AuthorizationPolicy",
        "metadata": { "namespace": "shop", "name": "open" }, "spec": { "rules": [{}] }
    });
    assert_eq!(policy.0.manifest, expected);
}
