//! The discovery file of a bed.

use std::path::{Path, PathBuf};

use anyhow::Result;
use lark_core::constants::LABEL_CAPTURE;
use lark_discovery::file::MeshFile;
use serde_json::{Value, json};

use crate::bed::{Node, Pod, Testbed};

/// The document, and the file it is written to. JSON is YAML too.
#[derive(Debug)]
pub struct Mesh {
    document: Value,
    path: PathBuf,
    source: String,
}

/// The namespace of all pods of a bed.
pub(crate) const NAMESPACE: &str = "shop";

impl Mesh {
    /// A mesh of these nodes and pods, nothing captured yet. Each pod has its name as account.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn new(bed: &Testbed, nodes: &[&Node], pods: &[&Pod]) -> Result<Self> {
        let document = json!({
            "mesh": { "trustDomain": "cluster.local" },
            "namespaces": [{ "name": NAMESPACE, "labels": {} }],
            "nodes": nodes.iter().map(|n| json!({ "name": n.name, "addresses": [n.ip, n.ip6] })).collect::<Vec<_>>(),
            "workloads": pods.iter().map(|p| workload(p, &p.name)).collect::<Vec<_>>(),
            "services": [],
        });
        // Its directory is watched, and in the bed's logs are written all the time.
        let directory = bed.directory().join("discovery");
        std::fs::create_dir_all(&directory)?;
        let path = directory.join("mesh.yaml");
        let mesh = Self { document, source: format!("file:{}", path.display()), path };
        mesh.write()?;
        Ok(mesh)
    }

    /// A mesh that is told elsewhere, as `--discovery` takes it. It cannot be changed here.
    pub fn elsewhere(source: &str) -> Self {
        Self { document: Value::Null, path: PathBuf::new(), source: source.to_owned() }
    }

    /// The value of `--discovery`.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Changes the document and writes it.
    ///
    /// # Errors
    /// When it is no mesh any more, or cannot be written.
    pub fn change(&mut self, change: impl FnOnce(&mut Value)) -> Result<()> {
        change(&mut self.document);
        self.write()
    }

    /// Adds and takes away pods at once. Those that are added have one account.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn replace(&mut self, gone: &[Pod], new: &[Pod], account: &str) -> Result<()> {
        self.change(|document| {
            if let Some(workloads) = document.pointer_mut("/workloads").and_then(Value::as_array_mut) {
                workloads.retain(|w| !gone.iter().any(|p| w["name"] == p.name.as_str()));
                workloads.extend(new.iter().map(|p| workload(p, account)));
            }
        })
    }

    /// Labels the namespace for capture, or takes the label away.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn capture(&mut self, captured: bool) -> Result<()> {
        self.change(|document| {
            let labels = if captured { json!({ LABEL_CAPTURE: "enabled" }) } else { json!({}) };
            if let Some(namespace) = document.pointer_mut("/namespaces/0/labels") {
                *namespace = labels;
            }
        })
    }

    /// Adds a Service.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn service(
        &mut self,
        name: &str,
        addresses: &[&str],
        port: u16,
        target: u16,
        pods: &[&Pod],
    ) -> Result<()> {
        let service = json!({
            "namespace": NAMESPACE, "name": name, "addresses": addresses,
            "ports": [{ "port": port, "targetPort": target }],
            "endpoints": pods.iter().flat_map(|p| [json!({ "address": p.ip }), json!({ "address": p.ip6 })]).collect::<Vec<_>>(),
        });
        self.change(|document| {
            if let Some(services) = document.pointer_mut("/services").and_then(Value::as_array_mut) {
                services.push(service);
            }
        })
    }

    /// Sets one label of a workload.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn label(&mut self, pod: &Pod, label: &str, value: &str) -> Result<()> {
        self.change(|document| {
            let workloads = document.pointer_mut("/workloads").and_then(Value::as_array_mut);
            for workload in workloads.into_iter().flatten().filter(|w| w["name"] == pod.name.as_str()) {
                workload["labels"][label] = json!(value);
            }
        })
    }

    fn write(&self) -> Result<()> {
        // Checked by the types that the agent reads it with.
        let _: MeshFile = serde_json::from_value(self.document.clone())?;
        let draft = self.path.with_extension("new");
        std::fs::write(&draft, serde_json::to_string_pretty(&self.document)?)?;
        std::fs::rename(&draft, &self.path)?;
        Ok(())
    }
}

fn workload(pod: &Pod, account: &str) -> Value {
    json!({
        "namespace": NAMESPACE, "name": pod.name, "account": account, "node": pod.node,
        "addresses": [pod.ip, pod.ip6], "hostNetwork": pod.host_network,
        "cgroup": pod.place.cgroup, "networkNamespace": pod.place.netns,
        "owner": { "kind": "Deployment", "name": account },
    })
}
