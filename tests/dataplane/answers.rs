//! What the binary answers: every verb in every form, and nothing that the wire contradicts.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::CommandFactory;
use lark::cli::Cli;
use lark_testbed::{Agent, Nginx, Wire, eventually};
use serde_json::Value;

use crate::house::House;

/// Names and kinds of all fields: answers are taken at different times, so values differ.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(name, v)| (name.clone(), shape(v))).collect(),
        Value::Array(items) => {
            let shapes: BTreeSet<String> = items.iter().map(|v| shape(v).to_string()).collect();
            shapes.into_iter().map(Value::from).collect()
        }
        Value::Number(_) => "number".into(),
        Value::String(_) => "text".into(),
        Value::Bool(_) => "flag".into(),
        Value::Null => "nothing".into(),
    }
}

#[test]
fn every_verb_that_answers_does_so_as_table_json_and_yaml() {
    let house = House::captured();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    house.curl(&format!("http://{}:8080/", house.server.ip));
    let archive = house.bed.directory().join("report.tar");
    let command = Cli::command();
    let mut asked = Vec::new();
    for verb in command.get_subcommands() {
        if !verb.get_arguments().any(|a| a.get_id() == "output") {
            continue;
        }
        let name = verb.get_name();
        // These go on until they are ended; tests of their own look at them.
        if ["dashboard", "tap"].contains(&name) {
            continue;
        }
        let to = format!("{}:8080", house.server.ip);
        let mut arguments = match name {
            "trace" => vec![name, "--from", "shop/client", "--to", &to],
            "top" => vec![name, "--looks", "1"],
            "bug-report" => vec![name, "--file", archive.to_str().unwrap()],
            _ => vec![name],
        };
        let from_agent = verb.get_arguments().any(|a| a.get_id() == "admin_socket");
        if from_agent {
            arguments.extend(["--admin-socket", house.one.socket().to_str().unwrap()]);
        }
        let answer = |form: &str| {
            let mut command = std::process::Command::new(lark_testbed::lark_binary().unwrap());
            let output = command.args(&arguments).args(["-o", form]).output().unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "lark {name} -o {form}: {said}{error}");
            said
        };
        let json: Value = serde_json::from_str(&answer("json")).unwrap_or_else(|e| panic!("{name}: {e}"));
        let yaml: Value = serde_saphyr::from_str(&answer("yaml")).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(shape(&json), shape(&yaml), "{name}");
        let table = answer("table");
        assert!(
            serde_json::from_str::<Value>(&table).is_err() && !table.trim().is_empty(),
            "{name}: {table}"
        );
        asked.push(name);
    }
    // Nothing of it opened a connection, `trace` least of all.
    let edges = house.one.json("edges").unwrap();
    let opened: Vec<u64> =
        edges.as_array().unwrap().iter().map(|edge| edge["connections"].as_u64().unwrap()).collect();
    assert_eq!(opened, [1], "{edges:#}");
    for verb in [
        "workloads",
        "services",
        "connections",
        "edges",
        "certs",
        "check",
        "status",
        "bpf",
        "trace",
        "version",
    ] {
        assert!(asked.contains(&verb), "{verb} has no -o");
    }
}

/// Holds a connection over which it has sent its own name.
const HELD: &str = r"
import http.client, sys, time
c = http.client.HTTPConnection(sys.argv[1], 8080, timeout=20)
c.request('GET', '/', headers={'X': sys.argv[2]})
c.getresponse().read()
print('open', flush=True)
time.sleep(600)
";

/// Which identities or names an agent says talk to the server, with what secures it.
fn edges(agent: &Agent) -> BTreeSet<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let edges = agent.json("edges").unwrap();
    edges.as_array().unwrap().iter().map(|e| (text(&e["source"]["name"]), text(&e["secured"]))).collect()
}

#[test]
fn edges_agree_with_the_wire() {
    let mut house = House::new();
    house.mesh.label(&house.neighbour, "lark.mesh/capture", "disabled").unwrap();
    house.mesh.capture(true).unwrap();
    house.one.wait_captured(1).unwrap();
    house.two.wait_captured(1).unwrap();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let wire = Wire::listen(&house.bed).unwrap();
    let mut held = Vec::new();
    for (pod, says) in [(&house.client, "canary-captured"), (&house.neighbour, "canary-uncaptured")] {
        let mut command = pod.place.command("python3");
        command.args(["-c", HELD, &house.server.ip.to_string(), says]);
        let running = pod.place.start(command, &house.bed.directory().join(format!("{says}.log"))).unwrap();
        eventually(Duration::from_secs(20), "it is open", || Ok(running.log().contains("open"))).unwrap();
        held.push(running);
    }
    // What the wire shows in plaintext is what the edges call so, at both ends, and nothing else.
    let bytes = wire.finish().unwrap();
    let shown = |text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
    assert_eq!((shown("canary-captured"), shown("canary-uncaptured")), (false, true));
    let pair = |name: &str, secured: &str| (name.to_owned(), secured.to_owned());
    assert_eq!(edges(&house.one), BTreeSet::from([pair("Deployment/client", "mtls")]));
    let two = edges(&house.two);
    assert!(two.contains(&pair("Deployment/client", "mtls")) && two.len() == 2, "{two:?}");
    let plain: Vec<_> = two.iter().filter(|(_, secured)| secured == "plaintext").collect();
    assert_eq!(plain.len(), 1, "{two:?}");
    let table = house.two.table(&["edges"]).unwrap();
    let line = table.lines().find(|line| line.contains("✗ plaintext")).unwrap();
    assert!(line.contains("neighbour"), "{table}");
}

#[test]
fn a_bad_file_is_in_the_metrics_until_it_is_mended() {
    let house = House::captured();
    let valid = || -> anyhow::Result<Option<String>> {
        let url = format!("http://{}:15020/metrics", house.nodes.0.ip);
        let text = house.nodes.0.place.run("curl", &["-sSf", &url])?;
        Ok(text.lines().find_map(|l| l.strip_prefix("lark_discovery_valid ")).map(str::to_owned))
    };
    let good = std::fs::read(house.mesh.path()).unwrap();
    for (contents, expected) in [(&b"mesh: [\n"[..], "0"), (&good, "1")] {
        std::fs::write(house.mesh.path(), contents).unwrap();
        eventually(Duration::from_secs(20), "the metric follows the file", || {
            Ok(valid()?.as_deref() == Some(expected))
        })
        .unwrap();
    }
}

#[test]
fn each_connection_is_one_line_of_the_access_log_with_both_identities() {
    let house = House::captured();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let url = format!("http://{}:8080/", house.server.ip);
    (0..3).for_each(|_| drop(house.curl(&url)));
    for agent in [&house.one, &house.two] {
        let lines = || -> Vec<String> {
            let log = agent.process.log();
            log.lines().filter(|line| line.contains(" access: ")).map(str::to_owned).collect()
        };
        eventually(Duration::from_secs(10), "all lines are written", || Ok(lines().len() >= 3)).unwrap();
        let lines = lines();
        assert_eq!(lines.len(), 3, "{lines:#?}");
        for line in lines {
            for field in [
                "src.identity=\"spiffe://cluster.local/ns/shop/sa/client\"",
                "dst.identity=\"spiffe://cluster.local/ns/shop/sa/server\"",
                &format!("src.addr={}:", house.client.ip),
                &format!("dst.addr={}:8080", house.server.ip),
                "secured=\"√ mTLS\"",
                "how=\"clean\"",
            ] {
                assert!(line.contains(field), "{field} is not in {line}");
            }
        }
    }
}
