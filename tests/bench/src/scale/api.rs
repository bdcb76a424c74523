use std::collections::BTreeMap;
use std::io::BufRead;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lark_apiserver::{ApiServer, objects};
use serde_json::{Value, json};

/// Pods of one Deployment, and endpoints of its Service.
const REPLICAS: usize = 10;
/// Namespaces that they are in.
const TEAMS: usize = 200;
/// The account of agents.
const ACCOUNT: &str = "system:serviceaccount:lark-system:lark-agent";

/// How large it is.
pub(crate) struct Cluster {
    pub(crate) pods: usize,
    pub(crate) services: usize,
    pub(crate) nodes: usize,
}

/// Address of a number in a block of its own.
fn address(block: u8, number: usize) -> String {
    let [.., b, c, d] = number.to_be_bytes();
    format!("{block}.{b}.{c}.{d}")
}

/// Namespace and name of the Deployment that a pod is of.
fn place(pod: usize) -> (String, String) {
    let app = pod / REPLICAS;
    (format!("team-{}", app % TEAMS), format!("app-{app}"))
}

impl Cluster {
    /// Serves it.
    pub(crate) fn serve(
        &self,
        listen: SocketAddr,
        home: &Path,
        agents: &[String],
        say: impl Fn(&Value) -> Result<()>,
    ) -> Result<()> {
        ensure!(self.services * REPLICAS <= self.pods, "there are fewer pods than endpoints");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let server = runtime.block_on(ApiServer::start_on(TcpListener::bind(listen)?))?;
        server.put(objects::namespace("lark-system", None));
        for agent in agents {
            let (name, address) = agent.split_once('=').context("an agent is NAME=ADDR")?;
            introduce(&server, home, name, address)?;
        }
        let mut pods = Vec::new();
        say(&json!({ "kubeconfig": server.kubeconfig(home)? }))?;
        for line in std::io::stdin().lock().lines() {
            let line = line?;
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["fill"] => {
                    pods = self.fill(&server);
                    say(&json!({ "bytes_a_pod": self.pod(0, 0).to_string().len() }))?;
                }
                ["requests"] => say(&requests(&server))?,
                ["replace", count, seconds] => {
                    let seconds = Duration::from_secs(seconds.parse()?);
                    say(&self.replace(&server, &pods, count.parse()?, seconds))?;
                }
                _ => bail!("nothing is known of {line:?}"),
            }
        }
        Ok(())
    }

    fn pod(&self, number: usize, life: usize) -> Value {
        let (namespace, account) = place(number);
        let node = format!("node-{}", (number + life) % self.nodes);
        let hash = format!("{:010x}", number / REPLICAS * 7_919);
        let name = format!("{account}-{hash}-{number:x}{life}");
        let address = address(if life == 0 { 10 } else { 11 }, number);
        real(objects::pod(&namespace, &name, &account, &node, &[&address]))
    }

    fn fill(&self, server: &ApiServer) -> Vec<Value> {
        for number in 0..TEAMS {
            server.put(objects::namespace(&format!("team-{number}"), Some("enabled")));
        }
        for number in 0..self.nodes {
            server.put(objects::node(&format!("node-{number}"), &address(172, number)));
        }
        let pods: Vec<Value> = (0..self.pods).map(|number| named(&server.put(self.pod(number, 0)))).collect();
        for (number, behind) in pods.chunks(REPLICAS).take(self.services).enumerate() {
            let (namespace, account) = place(number * REPLICAS);
            let service = objects::service(&namespace, &account, &address(192, number), 80);
            let service = server.put(service);
            server.put(objects::slice(&service, &behind.iter().collect::<Vec<_>>()));
        }
        pods
    }

    /// Replaces pods, evenly over that time: each is deleted, another one comes, and its Service learns of it. Which
    /// makes three changes of pods and slices a pod, where a rollout makes about eight of each pod.
    fn replace(&self, server: &ApiServer, pods: &[Value], count: usize, within: Duration) -> Value {
        let began = Instant::now();
        let count = count.min(pods.len());
        for turn in 0..count {
            // A prime: no two turns have the same pod.
            let number = turn.wrapping_mul(7_919) % pods.len();
            let Some(old) = pods.get(number) else { break };
            server.delete(old);
            let new = server.put(self.pod(number, 1));
            if number / REPLICAS < self.services {
                let first = number / REPLICAS * REPLICAS;
                let behind: Vec<&Value> = (first..first + REPLICAS)
                    .filter_map(|other| if other == number { Some(&new) } else { pods.get(other) })
                    .collect();
                let (namespace, account) = place(number);
                let service = json!({ "metadata": { "name": account, "namespace": namespace } });
                server.put(objects::slice(&service, &behind));
            }
            #[expect(clippy::cast_precision_loss, reason = "thousands")]
            let due = within.mul_f64((turn + 1) as f64 / count as f64);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
        json!({ "replaced": count, "seconds": began.elapsed().as_secs_f64() })
    }
}

/// What of a pod others need: a hundred thousand whole ones are gigabytes.
fn named(pod: &Value) -> Value {
    let (meta, kind) = (&pod["metadata"], &pod["kind"]);
    json!({
        "apiVersion": pod["apiVersion"], "kind": kind,
        "metadata": { "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"] },
        "spec": { "nodeName": pod["spec"]["nodeName"] }, "status": { "podIP": pod["status"]["podIP"] }
    })
}

/// A node, the pod of its agent and that one's token.
fn introduce(server: &ApiServer, home: &Path, node: &str, address: &str) -> Result<()> {
    server.put(objects::node(node, address));
    let name = format!("agent-{node}");
    let mut pod = objects::pod("lark-system", &name, "lark-agent", node, &[address]);
    if let Some(spec) = pod.pointer_mut("/spec") {
        spec["hostNetwork"] = json!(true);
    }
    let pod = server.put(pod);
    server.know_token(&name, objects::review(ACCOUNT, &["lark-ca"], Some(node), &pod));
    std::fs::write(home.join(format!("token-of-{node}")), &name)?;
    Ok(())
}

/// Requests so far, by verb.
fn requests(server: &ApiServer) -> Value {
    let mut all = BTreeMap::new();
    for (request, count) in server.requests() {
        *all.entry(request.verb).or_insert(0) += count;
    }
    json!(all)
}

/// A pod with all that the API has beside what the tests need: as one of a Deployment with two containers, probes and
/// a mounted configuration is, field by field.
fn real(mut pod: Value) -> Value {
    let probe = |path: &str| {
        json!({
            "httpGet": { "path": path, "port": "http", "scheme": "HTTP" }, "initialDelaySeconds": 5,
            "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3
        })
    };
    let env =
        |n: usize| json!({ "name": format!("SETTING_{n}"), "value": format!("value-{n}.example.internal") });
    let mounts = json!([
        { "name": "config", "mountPath": "/etc/app", "readOnly": true },
        { "name": "kube-api-access-x7k2p", "readOnly": true,
          "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount" }
    ]);
    let container = |name: &str| {
        json!({
            "name": name, "image": format!("registry.example.internal/team/{name}:1.27.3"),
            "ports": [{ "name": "http", "containerPort": 8080, "protocol": "TCP" }],
            "env": (0..8).map(env).collect::<Vec<_>>(),
            "resources": { "limits": { "cpu": "1", "memory": "512Mi" }, "requests": { "cpu": "100m", "memory": "128Mi" } },
            "volumeMounts": mounts, "livenessProbe": probe("/healthz"), "readinessProbe": probe("/readyz"),
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "imagePullPolicy": "IfNotPresent",
            "securityContext": { "runAsNonRoot": true, "allowPrivilegeEscalation": false,
                "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" } }
        })
    };
    let status = |name: &str| {
        json!({
            "name": name, "state": { "running": { "startedAt": "2026-11-02T10:14:07Z" } }, "lastState": {},
            "ready": true, "restartCount": 0, "started": true,
            "image": format!("registry.example.internal/team/{name}:1.27.3"),
            "imageID": format!("registry.example.internal/team/{name}@sha256:{}", "9f86d081".repeat(8)),
            "containerID": format!("containerd://{}", "2c26b46b".repeat(8))
        })
    };
    let condition = |kind: &str| json!({ "type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": "2026-11-02T10:14:09Z" });
    let field = |names: &[&str]| names.iter().map(|n| (format!("f:{n}"), json!({}))).collect::<Value>();
    let of_container = field(&[
        "name",
        "image",
        "imagePullPolicy",
        "ports",
        "env",
        "resources",
        "volumeMounts",
        "livenessProbe",
        "readinessProbe",
        "securityContext",
        "terminationMessagePath",
        "terminationMessagePolicy",
    ]);
    let kinds = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
    let of_condition = field(&["lastProbeTime", "lastTransitionTime", "status", "type"]);
    let of_conditions: Value =
        kinds.iter().map(|kind| (format!("k:{{\"type\":\"{kind}\"}}"), of_condition.clone())).collect();
    let conditions = kinds.map(condition);
    let managed = json!([
        { "manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
          "time": "2026-11-02T10:14:01Z", "fieldsType": "FieldsV1", "fieldsV1": {
            "f:metadata": field(&["generateName", "labels", "ownerReferences", "annotations"]),
            "f:spec": { "f:containers": { "k:{\"name\":\"app\"}": of_container, "k:{\"name\":\"helper\"}": of_container },
                "f:dnsPolicy": {}, "f:enableServiceLinks": {}, "f:restartPolicy": {}, "f:schedulerName": {},
                "f:serviceAccount": {}, "f:serviceAccountName": {}, "f:terminationGracePeriodSeconds": {}, "f:volumes": {} }
          } },
        { "manager": "kubelet", "operation": "Update", "apiVersion": "v1", "subresource": "status",
          "time": "2026-11-02T10:14:09Z", "fieldsType": "FieldsV1", "fieldsV1": { "f:status": {
            "f:conditions": of_conditions,
            "f:containerStatuses": {}, "f:hostIP": {}, "f:hostIPs": {}, "f:phase": {}, "f:podIP": {}, "f:podIPs": {}, "f:startTime": {}
          } } }
    ]);
    let put = |pod: &mut Value, pointer: &str, more: Value| {
        if let (Some(Value::Object(fields)), Value::Object(more)) = (pod.pointer_mut(pointer), more) {
            fields.extend(more);
        }
    };
    put(
        &mut pod,
        "/metadata",
        json!({
            "creationTimestamp": "2026-11-02T10:14:01Z", "generateName": "app-", "managedFields": managed,
            "annotations": { "checksum/config": "9f86d081".repeat(8), "kubectl.kubernetes.io/restartedAt": "2026-11-02T10:13:55Z" }
        }),
    );
    put(
        &mut pod,
        "/metadata/labels",
        json!({
            "app.kubernetes.io/name": "app", "app.kubernetes.io/part-of": "shop", "app.kubernetes.io/version": "1.27.3",
            "app.kubernetes.io/managed-by": "Helm"
        }),
    );
    put(
        &mut pod,
        "/spec",
        json!({
            "containers": [container("app"), container("helper")],
            "volumes": [
                { "name": "config", "configMap": { "name": "app-config", "defaultMode": 420 } },
                { "name": "kube-api-access-x7k2p", "projected": { "defaultMode": 420, "sources": [
                    { "serviceAccountToken": { "expirationSeconds": 3607, "path": "token" } },
                    { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                    { "downwardAPI": { "items": [{ "path": "namespace", "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" } }] } }
                ] } }
            ],
            "tolerations": [
                { "key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 },
                { "key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 }
            ],
            "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler", "priority": 0, "enableServiceLinks": true,
            "preemptionPolicy": "PreemptLowerPriority", "terminationGracePeriodSeconds": 30, "securityContext": {}
        }),
    );
    put(
        &mut pod,
        "/status",
        json!({
            "conditions": conditions,
            "hostIP": "172.16.0.1", "hostIPs": [{ "ip": "172.16.0.1" }], "startTime": "2026-11-02T10:14:01Z",
            "containerStatuses": [status("app"), status("helper")], "qosClass": "Burstable"
        }),
    );
    pod
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_as_large_as_real_ones_and_keeps_what_it_says() {
        let cluster = Cluster { pods: 100, services: 10, nodes: 7 };
        let pod = cluster.pod(42, 0);
        let size = pod.to_string().len();
        assert!((4_000..12_000).contains(&size), "{size}");
        assert_eq!(pod["status"]["podIP"], "10.0.0.42");
        assert_eq!(pod["metadata"]["labels"]["app"], "app-4");
        assert_ne!(cluster.pod(42, 1)["metadata"]["name"], pod["metadata"]["name"]);
    }
}
