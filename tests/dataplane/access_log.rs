//! The access log, in both formats, against the page that says what is in it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use lark_testbed::{Agent, Nginx, eventually};
use serde_json::{Value, json};

use crate::house::House;

/// The fields that the page names.
fn documented() -> BTreeSet<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/access-log.md");
    let page = std::fs::read_to_string(page).unwrap();
    let row = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    page.lines().filter_map(row).collect()
}

/// Fields that only some lines have.
fn without(fields: &BTreeSet<String>, missing: &[&str]) -> BTreeSet<String> {
    fields.iter().filter(|field| !missing.contains(&field.as_str())).cloned().collect()
}

/// The line of a connection to that port, once it is there.
fn line(agent: &Agent, find: impl Fn(&str) -> bool) -> String {
    let mut found = None;
    eventually(Duration::from_secs(10), "its line is in the log", || {
        found =
            agent.process.log().lines().find(|line| line.contains("access") && find(line)).map(str::to_owned);
        Ok(found.is_some())
    })
    .unwrap_or_else(|e| panic!("{e:#}: {}", agent.process.log()));
    found.unwrap()
}

#[test]
fn the_access_log_has_the_fields_of_its_page_as_json() {
    let fields = documented();
    assert!(fields.len() > 20 && fields.contains("dst.hbone_addr"), "{fields:?}");
    let house = House::captured_with(&["--log-format", "json"]);
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    house.curl(&format!("http://{}:8080/who", house.server.ip));
    let refused = format!("http://{}:9/", house.server.ip);
    assert!(!house.client.place.output("curl", &["-sS", &refused]).unwrap().status.success());

    let server = house.server.ip.to_string();
    for (agent, direction) in [(&house.one, "outbound"), (&house.two, "inbound")] {
        let parsed = |port: &str, missing: &[&str]| {
            let text = line(agent, |line| line.contains(&format!("\"dst.addr\":\"{server}:{port}\"")));
            let line: Value = serde_json::from_str(&text).unwrap();
            let own: BTreeSet<String> = line.as_object().unwrap().keys().cloned().collect();
            let frame = ["timestamp", "level", "target", "message"];
            assert_eq!(without(&own, &frame), without(&fields, missing), "{text}");
            line
        };
        let line = parsed("8080", &["error"]);
        let expected = json!({
            "level": "INFO", "target": "access", "direction": direction,
            "src.workload": "client", "src.namespace": "shop",
            "src.identity": "spiffe://cluster.local/ns/shop/sa/client",
            "dst.addr": format!("{server}:8080"), "dst.hbone_addr": format!("{server}:8080"),
            "dst.workload": "server", "dst.namespace": "shop",
            "dst.identity": "spiffe://cluster.local/ns/shop/sa/server",
            "secured": "√ mTLS", "protocol": "http1", "requests": 1, "how": "clean", "reason": "",
        });
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(line[field], *value, "{field} of {line:#}");
        }
        assert!(line["src.addr"].as_str().unwrap().starts_with(&format!("{}:", house.client.ip)), "{line:#}");
        assert!(line["bytes_sent"].as_u64().unwrap() > 50 && line["bytes_recv"].as_u64().unwrap() > 100);
        assert_eq!(line["duration"], format!("{}ms", line["duration_ms"]));
        let refused = parsed("9", &[]);
        let error = refused["error"].as_str().unwrap();
        assert_eq!(error, format!("dial_refused: {}", refused["detail"].as_str().unwrap()));
        assert_eq!((&refused["how"], &refused["secured"]), (&"refused".into(), &"⊘ denied".into()));
    }
}

#[test]
fn the_access_log_has_the_same_fields_as_text() {
    let house = House::captured();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    house.curl(&format!("http://{}:8080/who", house.server.ip));
    for agent in [&house.one, &house.two] {
        let text = line(agent, |line| line.contains(":8080"));
        assert!(text.contains(" INFO access: connection "), "{text}");
        for field in without(&documented(), &["error"]) {
            assert_eq!(text.matches(&format!(" {field}=")).count(), 1, "{field} in {text}");
        }
    }
}
