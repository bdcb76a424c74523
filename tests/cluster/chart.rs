//! The chart: linted, rendered with every profile, validated by the API's published schemas, and judged by what
//! it makes. Helm and the schemas are Python packages that `cargo xtask test` installs.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::manifests::{self, objects_of};

/// The oldest version of Kubernetes that Lark supports, and the newest of which there are schemas.
const VERSIONS: [&str; 2] = ["1.32", "1.37"];

#[derive(Debug, Deserialize)]
struct Rendered {
    sets: BTreeMap<String, Set>,
    plain: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Set {
    Files(BTreeMap<String, String>),
    Refused(String),
}

impl Set {
    fn objects(&self, name: &str) -> Vec<Value> {
        match self {
            Self::Files(files) => files.values().flat_map(|text| objects_of(text)).collect(),
            Self::Refused(why) => panic!("{name}: {why}"),
        }
    }
}

fn packages() -> PathBuf {
    if let Some(path) = std::env::var_os("LARK_PYTHON") {
        return path.into();
    }
    let own = std::env::current_exe().unwrap();
    own.ancestors()
        .map(|directory| directory.join("tools/python"))
        .find(|path| path.join("helm_python").is_dir())
        .unwrap_or_else(|| {
            panic!("Helm is missing: `cargo xtask manifests` installs it, `cargo xtask test` too")
        })
}

/// Renders the chart with its defaults, its profiles and these values.
fn render(values: &Value, versions: &[&str]) -> Rendered {
    render_into("lark-system", values, versions)
}

fn render_into(namespace: &str, values: &Value, versions: &[&str]) -> Rendered {
    let helm = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm");
    let mut python = Command::new("python3")
        .arg(helm.join("render.py"))
        .arg(helm.join("lark"))
        .args(versions)
        .env("PYTHONPATH", packages())
        .env("RELEASE_NAMESPACE", namespace)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("python3 cannot be run ({error}): `cargo xtask test` installs it"));
    python.stdin.take().unwrap().write_all(values.to_string().as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "render.py failed: {}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Every value other than its default, as far as that is possible.
fn everything() -> Value {
    let digest = "0".repeat(64);
    let places = json!({
        "log": "info,lark_tunnel=debug",
        "env": { "LARK_LOG_FORMAT": "text" },
        "priorityClassName": "system-cluster-critical",
        "tolerations": [{ "key": "dedicated", "operator": "Exists" }],
        "nodeSelector": { "pool": "a" },
        "resources": { "requests": { "cpu": 1, "memory": "128Mi" }, "limits": { "memory": "2Gi" } }
    });
    let mut values = json!({
        "image": {
            "repository": "registry.example:5000/mesh/lark", "tag": "1", "digest": format!("sha256:{digest}"),
            "pullPolicy": "Always"
        },
        "imagePullSecrets": [{ "name": "registry" }],
        "mesh": {
            "trustDomain": "example.org", "agentDown": "refuse", "sameNode": "mtls", "policyChange": "keep",
            "mtls": "strict", "clusterRanges": ["10.0.0.0/8", "fd00::/8"]
        },
        "agent": places,
        "controller": places,
        "ca": { "secret": "mesh-ca", "rootConfigMap": "mesh-root" },
        "crds": { "install": false },
        "networkPolicy": { "enabled": false },
        "podMonitor": { "enabled": true, "interval": "1m", "labels": { "release": "prometheus" } },
        "dashboards": { "enabled": true, "labels": { "grafana": "yes", "grafana_dashboard": null } },
        "prometheusRule": { "enabled": true, "labels": { "release": "prometheus" } },
        "resourceQuota": { "enabled": true, "pods": 500 },
        "tenants": { "groups": ["system:authenticated", "shop:developers"] }
    });
    values["agent"]["drain"] = json!(60);
    values["agent"]["kubeletCgroup"] = json!("/kubelet");
    values["agent"]["maxUnavailable"] = json!("10%");
    values["agent"]["env"] = json!({ "LARK_WORKERS": "2" });
    values["controller"]["listenAddress"] = json!("::");
    values
}

#[test]
fn every_profile_makes_objects_that_the_api_takes_and_that_may_do_no_more_than_is_written_down() {
    let rendered = render(&json!({ "everything": everything() }), &VERSIONS);
    let names: Vec<&str> = rendered.sets.keys().map(String::as_str).collect();
    assert_eq!(names, ["compliance", "default", "everything", "gke", "monitored"]);
    for (name, set) in &rendered.sets {
        let objects = set.objects(name);
        let has = |kind: &str| objects.iter().any(|o| o["kind"] == kind);
        manifests::check(&objects);
        let all = name == "everything";
        let monitored = all || name == "monitored";
        assert_eq!(has("PodMonitor"), monitored, "{name}");
        assert_eq!(has("PrometheusRule"), monitored, "{name}");
        let label = if all { ("grafana", "yes") } else { ("grafana_dashboard", "1") };
        assert_eq!(dashboards(&objects, label), if monitored { 4 } else { 0 }, "{name}");
        assert_eq!(has("ResourceQuota"), all || name == "gke", "{name}");
        assert_eq!(has("NetworkPolicy"), !all, "{name}");
        assert_eq!(has("CustomResourceDefinition"), !all, "{name}");
    }
    let objects = rendered.sets["everything"].objects("everything");
    let text = Value::from(objects).to_string();
    for (value, expected) in [
        ("registry.example:5000/mesh/lark@sha256:", 2),
        // What it is called with, and its rule.
        ("mesh-ca", 2),
        ("mesh-root", 3),
        ("\"name\":\"registry\"", 2),
        ("10.0.0.0/8,fd00::/8", 1),
        ("--kubelet-cgroup=/kubelet", 1),
        ("--log=info,lark_tunnel=debug", 2),
        ("shop:developers", 1),
        ("--listen=[::]:15012", 1),
        ("--status-listen=[::]:15013", 1),
    ] {
        assert_eq!(text.matches(value).count(), expected, "{value} in {text}");
    }
}

/// How many ConfigMaps have a dashboard and this label, by which Grafana's sidecar finds it.
fn dashboards(objects: &[Value], (label, value): (&str, &str)) -> usize {
    let labelled = objects.iter().filter(|o| o["metadata"]["labels"][label] == value);
    labelled
        .flat_map(|o| o["data"].as_object().unwrap())
        .map(|(file, text)| {
            let dashboard: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
            assert_eq!(format!("{}.json", dashboard["uid"].as_str().unwrap()), *file);
            assert!(!dashboard["panels"].as_array().unwrap().is_empty(), "{file}");
        })
        .count()
}

#[test]
fn the_alert_rules_are_those_that_are_tested() {
    let rendered = render(&json!({}), &[]);
    let objects = rendered.sets["monitored"].objects("monitored");
    let rule = objects.iter().find(|o| o["kind"] == "PrometheusRule").unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm/lark/monitoring/alerts.yaml");
    let tested: Value = serde_saphyr::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(rule["spec"], tested);
}

#[test]
fn the_plain_manifests_are_those_of_the_chart() {
    let kubernetes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes");
    let plain = render(&json!({}), &[]).plain;
    assert!(!plain.is_empty());
    for (name, text) in plain {
        let there = std::fs::read_to_string(kubernetes.join(&name)).unwrap_or_default();
        assert_eq!(there, text, "{name} is not what the chart makes: run `cargo xtask manifests`");
    }
}

#[test]
fn into_another_namespace_than_its_own_it_does_not_install() {
    let rendered = render_into("mesh", &json!({}), &[]);
    for (name, set) in &rendered.sets {
        match set {
            Set::Refused(why) => assert!(why.contains("lark-system and in no other"), "{name}: {why}"),
            Set::Files(_) => panic!("{name} was taken"),
        }
    }
}

#[test]
fn values_that_make_no_sense_are_refused_by_name() {
    let refused = [
        (json!({ "controller": { "replicas": 0 } }), "/controller/replicas"),
        (json!({ "agent": { "maxSurge": 1 } }), "maxSurge"),
        (json!({ "agent": { "maxUnavailable": 0 } }), "/agent/maxUnavailable"),
        (json!({ "agent": { "drain": -1 } }), "/agent/drain"),
        (json!({ "agent": { "env": { "PATH": "/" } } }), "PATH"),
        (json!({ "mesh": { "trustDomain": "Example.org" } }), "/mesh/trustDomain"),
        (json!({ "mesh": { "agentDown": "ignore" } }), "/mesh/agentDown"),
        (json!({ "mesh": { "clusterRanges": ["10.0.0.0"] } }), "/mesh/clusterRanges/0"),
        (json!({ "mtls": "strict" }), "mtls"),
        (json!({ "mesh": { "sameNode": "plain" } }), "/mesh/sameNode"),
        (json!({ "controller": { "listenAddress": "localhost" } }), "/controller/listenAddress"),
        (json!({ "tenants": { "groups": [""] } }), "/tenants/groups/0"),
        (json!({ "image": { "digest": "sha256:0" } }), "/image/digest"),
    ];
    let named = refused.iter().enumerate().map(|(i, (values, _))| (i.to_string(), values.clone()));
    let rendered = render(&Value::Object(named.collect()), &[]);
    for (i, (values, expected)) in refused.iter().enumerate() {
        match &rendered.sets[&i.to_string()] {
            Set::Refused(why) => assert!(why.contains(expected), "{values}: {why}"),
            Set::Files(_) => panic!("{values} was taken"),
        }
    }
}
