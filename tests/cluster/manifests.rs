//! What deploy/ makes of a cluster, against the program that it starts, the page of capabilities and itself. The
//! plain manifests here; `chart` has the same asked of every profile.

use std::collections::BTreeSet;
use std::path::Path;

use clap::{CommandFactory, Parser};
use lark::cli::Cli;
use serde_json::{Value, json};

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// All objects of a text.
pub(crate) fn objects_of(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap()
}

/// All objects that kustomization.yaml lists.
fn objects() -> Vec<Value> {
    let kustomization: Value = serde_saphyr::from_str(&file("kubernetes/kustomization.yaml")).unwrap();
    texts(&kustomization["resources"])
        .iter()
        .flat_map(|name| objects_of(&file(&format!("kubernetes/{name}"))))
        .collect()
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let is_it = |o: &&Value| o["kind"] == kind && o["metadata"]["name"] == name;
    objects.iter().find(is_it).unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn of_kind<'a>(objects: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |o| o["kind"] == kind)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn texts(value: &Value) -> Vec<String> {
    list(value).filter_map(Value::as_str).map(str::to_owned).collect()
}

fn names(value: &Value) -> BTreeSet<String> {
    list(value).filter_map(|v| v["name"].as_str()).map(str::to_owned).collect()
}

/// What runs: its name, the object, its pod and its one container.
struct Runs<'a> {
    name: &'a str,
    object: &'a Value,
    pod: &'a Value,
    container: &'a Value,
}

fn runs(objects: &[Value]) -> [Runs<'_>; 2] {
    [("DaemonSet", "lark-agent"), ("Deployment", "lark-controller")].map(|(kind, name)| {
        let object = find(objects, kind, name);
        let pod = &object["spec"]["template"]["spec"];
        assert_eq!(list(&pod["containers"]).count(), 1, "{name}");
        assert_eq!(pod.get("initContainers"), None, "{name}");
        Runs { name, object, pod, container: &pod["containers"][0] }
    })
}

/// All that is asked of what is installed, however it was made.
pub(crate) fn check(objects: &[Value]) {
    for run in runs(objects) {
        knows_its_flags(&run, find(objects, "ConfigMap", "lark"));
        is_confined(&run);
        is_complete(&run);
        is_probed_and_bounded(&run);
    }
    let images: BTreeSet<&str> =
        runs(objects).iter().map(|r| r.container["image"].as_str().unwrap()).collect();
    assert_eq!(images.len(), 1, "{images:?}");
    touches_the_node_where_it_must(&runs(objects)[0]);
    selects(objects);
    grants(objects);
    for object in objects {
        assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/name"], "lark", "{object}");
    }
}

/// The program takes the flags and variables that it is started with.
fn knows_its_flags(run: &Runs<'_>, settings: &Value) {
    let mut line = vec!["lark".to_owned()];
    line.extend(texts(&run.container["args"]));
    let verb = line[1].clone();
    if verb == "agent" {
        // By the variable LARK_NODE.
        line.push("--node=one".to_owned());
    }
    if verb == "controller" {
        // By the variable LARK_REPLICA.
        line.push("--replica=one".to_owned());
    }
    let name = run.name;
    Cli::try_parse_from(&line).unwrap_or_else(|error| panic!("{name}: {error}"));
    let command = Cli::command();
    let command = command.find_subcommand(&verb).unwrap();
    let known: BTreeSet<String> =
        command.get_arguments().filter_map(|a| Some(a.get_env()?.to_str()?.to_owned())).collect();
    let mut given = names(&run.container["env"]);
    given.extend(settings["data"].as_object().unwrap().keys().cloned());
    assert!(given.is_subset(&known), "{name} does not know {:?}", given.difference(&known));
}

/// It may do what deploy/capabilities.md says, and no more.
fn is_confined(run: &Runs<'_>) {
    let documented = file("capabilities.md");
    let documented: BTreeSet<&str> = documented
        .lines()
        .filter_map(|line| line.strip_prefix("| `CAP_")?.split_once('`').map(|(name, _)| name))
        .collect();
    let is_agent = run.name == "lark-agent";
    let context = &run.container["securityContext"];
    let added = texts(&context["capabilities"]["add"]);
    let added: BTreeSet<&str> = added.iter().map(String::as_str).collect();
    assert_eq!(added, if is_agent { documented } else { BTreeSet::new() }, "{}", run.name);
    assert_eq!(texts(&context["capabilities"]["drop"]), ["ALL"], "{}", run.name);
    for (field, value) in
        [("privileged", false), ("allowPrivilegeEscalation", false), ("readOnlyRootFilesystem", true)]
    {
        assert_eq!(context[field], value, "{} {field}", run.name);
    }
    assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault", "{}", run.name);
    for field in ["hostNetwork", "hostPID"] {
        assert_eq!(run.pod.get(field), is_agent.then_some(&json!(true)), "{} {field}", run.name);
    }
    assert_eq!(run.pod.get("hostIPC"), None, "{}", run.name);
    assert!(is_agent || run.pod["securityContext"]["runAsNonRoot"] == true, "{}", run.name);
}

/// What it mounts is there, and no Secret is: the CA's is read by the API, by the controller alone.
fn is_complete(run: &Runs<'_>) {
    assert_eq!(names(&run.pod["volumes"]), names(&run.container["volumeMounts"]), "{}", run.name);
    let secrets = list(&run.pod["volumes"]).filter(|v| v.get("secret").is_some()).count();
    assert_eq!(secrets, 0, "{}", run.name);
    let text = run.container.to_string();
    assert!(!text.contains("secretKeyRef") && !text.contains("secretRef"), "{text}");
}

fn is_probed_and_bounded(run: &Runs<'_>) {
    let ports = names(&run.container["ports"]);
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        let port = run.container[probe]["httpGet"]["port"].as_str().unwrap();
        assert!(ports.contains(port), "{} {probe}", run.name);
    }
    // Who is alive and waits for certificates must not be started again for it.
    for probe in ["startupProbe", "livenessProbe"] {
        if let Some(probe) = run.container.get(probe) {
            assert_eq!(probe["httpGet"]["path"], "/healthz", "{}", run.name);
        }
    }
    for (bound, of) in [("requests", "cpu"), ("requests", "memory"), ("limits", "memory")] {
        assert!(run.container["resources"][bound].get(of).is_some(), "{} {bound} {of}", run.name);
    }
    // A node's share of CPU is not taken from it while it carries traffic.
    assert_eq!(run.container["resources"]["limits"].get("cpu"), None, "{}", run.name);
    assert!(run.pod["priorityClassName"].as_str().unwrap().starts_with("system-"), "{}", run.name);
    assert_eq!(run.pod["nodeSelector"]["kubernetes.io/os"], "linux", "{}", run.name);
}

/// Exactly these paths of the node, written to where that is what they are for.
fn touches_the_node_where_it_must(agent: &Runs<'_>) {
    let mut paths: Vec<(&str, &str, bool)> = list(&agent.pod["volumes"])
        .filter_map(|volume| {
            let path = volume["hostPath"]["path"].as_str()?;
            let mount =
                list(&agent.container["volumeMounts"]).find(|mount| mount["name"] == volume["name"])?;
            Some((path, mount["mountPath"].as_str()?, mount["readOnly"] == true))
        })
        .collect();
    paths.sort_unstable();
    let expected = [
        ("/run/lark", false),
        ("/sys/fs/bpf", false),
        ("/sys/fs/cgroup", true),
        ("/var/lib/lark-agent", false),
    ];
    assert_eq!(paths, expected.map(|(path, read_only)| (path, path, read_only)));
    let drain: u64 = texts(&agent.container["args"])
        .iter()
        .find_map(|arg| arg.strip_prefix("--drain=")?.parse().ok())
        .unwrap();
    assert!(agent.pod["terminationGracePeriodSeconds"].as_u64().unwrap() > drain);
    assert_eq!(agent.object["spec"]["updateStrategy"]["rollingUpdate"].get("maxSurge"), None);
}

/// Selectors select what they are for, and nothing of Lark's is captured.
fn selects(objects: &[Value]) {
    let [agent, controller] = runs(objects);
    let labels = |run: &Runs<'_>| run.object["spec"]["template"]["metadata"]["labels"].clone();
    let matches = |selector: &Value, run: &Runs<'_>| {
        let labels = labels(run);
        selector.as_object().unwrap().iter().all(|(key, value)| labels[key] == *value)
    };
    for run in [&agent, &controller] {
        assert_eq!(labels(run)["lark.mesh/capture"], "disabled", "{}", run.name);
        let selector = &run.object["spec"]["selector"]["matchLabels"];
        assert_eq!(
            [matches(selector, &agent), matches(selector, &controller)],
            [run.name == agent.name, run.name == controller.name]
        );
    }
    let budgets = of_kind(objects, "PodDisruptionBudget").map(|o| &o["spec"]["selector"]["matchLabels"]);
    let services = of_kind(objects, "Service").map(|o| &o["spec"]["selector"]);
    let policies = of_kind(objects, "NetworkPolicy").map(|o| &o["spec"]["podSelector"]["matchLabels"]);
    for selector in budgets.chain(services).chain(policies) {
        assert_eq!([matches(selector, &agent), matches(selector, &controller)], [false, true], "{selector}");
    }
    let near = &controller.pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
        [0]["podAffinityTerm"]["labelSelector"]["matchLabels"];
    assert!(matches(near, &controller), "{near}");
    for monitor in of_kind(objects, "PodMonitor") {
        let selector = &monitor["spec"]["selector"]["matchLabels"];
        assert!(matches(selector, &agent) && matches(selector, &controller), "{monitor}");
        let port = monitor["spec"]["podMetricsEndpoints"][0]["port"].as_str().unwrap();
        for run in [&agent, &controller] {
            assert!(names(&run.container["ports"]).contains(port), "{} has no port {port}", run.name);
        }
    }
    // By the name that is in its certificate, at the port of its Service; and without that they leave.
    let service = find(objects, "Service", "lark-controller");
    let namespace = service["metadata"]["namespace"].as_str().unwrap();
    let at = format!("lark-controller.{namespace}.svc");
    let leave = format!("--leave-without={namespace}/lark-controller");
    assert!(texts(&agent.container["args"]).contains(&leave));
    assert!(texts(&agent.container["args"]).contains(&format!("--ca-url=https://{at}:15012")));
    assert!(texts(&controller.container["args"]).contains(&format!("--san={at}")));
    assert_eq!(service["spec"]["ports"][0]["port"], 15012);
}

/// In the whole cluster nothing is written and no Secret is read; in Lark's own namespace that is the controller's, by
/// name. Every account and role that is named is there.
fn grants(objects: &[Value]) {
    for role in of_kind(objects, "Role") {
        for rule in list(&role["rules"]) {
            let (named, verbs) = (texts(&rule["resourceNames"]), texts(&rule["verbs"]));
            assert!(verbs == ["create"] || !named.is_empty(), "{role}");
            assert!(verbs.iter().all(|verb| ["create", "get", "update"].contains(&verb.as_str())), "{role}");
        }
    }
    let is_of_people = |binding: &&Value| binding["roleRef"]["name"] == "lark-tenant";
    for binding in of_kind(objects, "RoleBinding").filter(|binding| !is_of_people(binding)) {
        assert_eq!(names(&binding["subjects"]), BTreeSet::from(["lark-controller".to_owned()]), "{binding}");
    }
    for role in of_kind(objects, "ClusterRole") {
        for rule in list(&role["rules"]) {
            let (resources, verbs) = (texts(&rule["resources"]), texts(&rule["verbs"]));
            assert!(!resources.contains(&"secrets".to_owned()), "{role}");
            assert!([&resources, &verbs].iter().all(|l| !l.iter().any(|word| word == "*")), "{role}");
            let is_question = resources == ["tokenreviews"] || resources == ["subjectaccessreviews"];
            let asks_only = is_question && verbs == ["create"];
            let tells_only = resources == ["events"] && verbs == ["create", "patch"];
            assert!(
                asks_only
                    || tells_only
                    || verbs.iter().all(|verb| ["list", "watch"].contains(&verb.as_str())),
                "{role}"
            );
        }
    }
    for binding in of_kind(objects, "ClusterRoleBinding").chain(of_kind(objects, "RoleBinding")) {
        find(
            objects,
            binding["roleRef"]["kind"].as_str().unwrap(),
            binding["roleRef"]["name"].as_str().unwrap(),
        );
        for subject in list(&binding["subjects"]).filter(|subject| subject["kind"] != "Group") {
            let account = find(objects, "ServiceAccount", subject["name"].as_str().unwrap());
            assert_eq!(account["metadata"]["namespace"], subject["namespace"], "{binding}");
        }
    }
    for run in runs(objects) {
        find(objects, "ServiceAccount", run.pod["serviceAccountName"].as_str().unwrap());
    }
}

#[test]
fn the_plain_manifests_may_do_no_more_than_is_written_down_and_fit_the_program_and_each_other() {
    check(&objects());
}

#[test]
fn the_plain_manifests_bring_the_namespace_that_their_pods_are_allowed_in() {
    let objects = objects();
    let namespace = find(&objects, "Namespace", "lark-system");
    assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "privileged");
    let elsewhere = objects.iter().filter_map(|o| o["metadata"]["namespace"].as_str());
    assert_eq!(elsewhere.collect::<BTreeSet<_>>(), BTreeSet::from(["lark-system"]));
}

#[test]
fn the_guides_type_what_the_program_takes() {
    let mut typed = 0;
    for page in ["kubernetes", "ingress-to-pod"] {
        let text = file(&format!("../docs/{page}.md"));
        for prefix in ["-- lark ", "on_every_node "] {
            // What the function of that page itself types comes from whoever calls it.
            for rest in text.split(prefix).skip(1).filter(|rest| !rest.starts_with('"')) {
                let words = rest.split(['`', '\n']).next().unwrap_or_default().split_whitespace();
                Cli::try_parse_from(["lark"].into_iter().chain(words))
                    .unwrap_or_else(|error| panic!("{page}: {error}"));
                typed += 1;
            }
        }
    }
    assert!(typed > 5, "{typed}");
}
