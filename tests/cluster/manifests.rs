//! The plain manifests, against the program that they start and against each other.

use std::collections::BTreeSet;
use std::path::Path;

use clap::{CommandFactory, Parser};
use lark::cli::Cli;
use serde_json::Value;

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// All objects that kustomization.yaml lists.
fn objects() -> Vec<Value> {
    let kustomization: Value = serde_saphyr::from_str(&file("kubernetes/kustomization.yaml")).unwrap();
    let names = kustomization["resources"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
    let read =
        |name: &str| serde_saphyr::from_multiple::<Value>(&file(&format!("kubernetes/{name}"))).unwrap();
    names.flat_map(read).collect()
}

fn find(objects: &[Value], kind: &str, name: &str) -> Value {
    let is_it = |o: &&Value| o["kind"] == kind && o["metadata"]["name"] == name;
    objects.iter().find(is_it).unwrap_or_else(|| panic!("no {kind} {name}")).clone()
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn pod_of(objects: &[Value], kind: &str, name: &str) -> Value {
    find(objects, kind, name)["spec"]["template"]["spec"].clone()
}

#[test]
fn the_program_takes_the_flags_and_variables_that_it_is_started_with() {
    let objects = objects();
    for (kind, name) in [("DaemonSet", "lark-agent"), ("Deployment", "lark-controller")] {
        let container = &pod_of(&objects, kind, name)["containers"][0];
        let mut line = vec!["lark".to_owned()];
        line.extend(texts(&container["args"]));
        let verb = line[1].clone();
        if verb == "agent" {
            // By the variable LARK_NODE.
            line.push("--node=one".to_owned());
        }
        Cli::try_parse_from(&line).unwrap_or_else(|error| panic!("{name}: {error}"));
        let command = Cli::command();
        let command = command.find_subcommand(&verb).unwrap();
        let known: BTreeSet<String> =
            command.get_arguments().filter_map(|a| Some(a.get_env()?.to_str()?.to_owned())).collect();
        let settings = find(&objects, "ConfigMap", "lark");
        let own = container["env"].as_array().into_iter().flatten().filter_map(|e| e["name"].as_str());
        let given: BTreeSet<String> = settings["data"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .chain(own)
            .map(str::to_owned)
            .collect();
        assert!(given.is_subset(&known), "{name} does not know {:?}", given.difference(&known));
    }
}

#[test]
fn no_container_may_do_more_than_is_written_down() {
    let objects = objects();
    let documented: BTreeSet<String> = file("capabilities.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `CAP_")?.split_once('`').map(|(name, _)| name.to_owned()))
        .collect();
    for (kind, name, expected) in
        [("DaemonSet", "lark-agent", documented), ("Deployment", "lark-controller", BTreeSet::new())]
    {
        let context = &pod_of(&objects, kind, name)["containers"][0]["securityContext"];
        let added: BTreeSet<String> = texts(&context["capabilities"]["add"]).into_iter().collect();
        assert_eq!(added, expected, "{name}");
        assert_eq!(texts(&context["capabilities"]["drop"]), ["ALL"], "{name}");
        for (field, value) in
            [("privileged", false), ("allowPrivilegeEscalation", false), ("readOnlyRootFilesystem", true)]
        {
            assert_eq!(context[field], value, "{name} {field}");
        }
        assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault", "{name}");
    }
}

#[test]
fn whatever_is_mounted_or_named_is_there_and_secrets_are_the_controllers_alone() {
    let objects = objects();
    for (kind, name) in [("DaemonSet", "lark-agent"), ("Deployment", "lark-controller")] {
        let pod = pod_of(&objects, kind, name);
        find(&objects, "ServiceAccount", pod["serviceAccountName"].as_str().unwrap());
        let names = |list: &Value| -> BTreeSet<String> {
            list.as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names(&pod["volumes"]), names(&pod["containers"][0]["volumeMounts"]), "{name}");
        let secrets = pod["volumes"].as_array().unwrap().iter().filter(|v| v.get("secret").is_some()).count();
        assert_eq!(secrets, usize::from(kind == "Deployment"), "{name}");
        let labels = find(&objects, kind, name);
        assert_eq!(
            labels["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"],
            labels["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
        );
    }
    for role in objects.iter().filter(|o| o["kind"] == "ClusterRole") {
        for rule in role["rules"].as_array().unwrap() {
            assert!(!texts(&rule["resources"]).contains(&"secrets".to_owned()), "{role}");
        }
    }
}
