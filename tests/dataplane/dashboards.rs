//! Dashboards and alert rules against a real Prometheus that scrapes real agents and a real controller.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lark_testbed::{Nginx, Place, Running, eventually, need};
use serde_json::Value;

use crate::house::House;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn rules() -> PathBuf {
    deploy().join("helm/lark/monitoring/alerts.yaml")
}

/// The queries of all panels: dashboard, panel, expression.
fn queries() -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(deploy().join("helm/lark/monitoring/dashboards")).unwrap().flatten() {
        if entry.path().extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let dashboard: Value = serde_json::from_slice(&std::fs::read(entry.path()).unwrap()).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                all.push((text(&dashboard["title"]), text(&panel["title"]), text(&target["expr"])));
            }
        }
    }
    assert!(all.len() > 40, "{all:?}");
    all
}

/// The selectors of Lark's own metrics in a query. Label values of ours have no brackets in them.
fn selectors(query: &str) -> Vec<&str> {
    query
        .match_indices("lark_")
        .map(|(at, _)| {
            let rest = &query[at..];
            let name = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            let end = if rest[name..].starts_with('{') { rest.find('}').unwrap() + 1 } else { name };
            &rest[..end]
        })
        .collect()
}

/// A Prometheus on the first node.
struct Prometheus {
    process: Running,
    place: Place,
}

impl Prometheus {
    fn start(house: &House, configuration: &Value) -> Self {
        need("prometheus", "prometheus").unwrap();
        let home = house.bed.directory().join("prometheus");
        std::fs::create_dir_all(&home).unwrap();
        std::fs::write(home.join("prometheus.yml"), configuration.to_string()).unwrap();
        let place = house.nodes.0.place.clone();
        let mut prometheus = place.command("prometheus");
        prometheus
            .arg(format!("--config.file={}", home.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", home.join("data").display()))
            .arg("--web.listen-address=127.0.0.1:9090");
        let process = place.start(prometheus, &home.join("log")).unwrap();
        Self { process, place }
    }

    /// What its API answers; nothing while it does not.
    fn ask(&self, path: &str, expression: &str) -> Value {
        let url = format!("http://127.0.0.1:9090/api/v1/{path}");
        let query = format!("query={expression}");
        let said = self.place.output("curl", &["-sS", "-G", &url, "--data-urlencode", &query]).unwrap();
        serde_json::from_slice(&said.stdout).unwrap_or_default()
    }

    /// The numbers that an expression has now. A part of nothing is NaN, which is a number to Prometheus and an empty
    /// panel to a person.
    fn values(&self, expression: &str) -> Vec<f64> {
        let answer = self.ask("query", expression);
        let results = answer["data"]["result"].as_array().into_iter().flatten();
        let numbers = results.filter_map(|result| result["value"][1].as_str()?.parse::<f64>().ok());
        numbers.filter(|number| !number.is_nan()).collect()
    }
}

#[test]
fn no_panel_is_empty_and_every_rule_is_evaluated() {
    let mut house = House::new();
    house.mesh.label(&house.neighbour, "lark.mesh/capture", "disabled").unwrap();
    let service = serde_json::json!({
        "namespace": "shop", "name": "mixed", "addresses": ["10.96.0.13"],
        "ports": [{ "port": 80, "targetPort": 8080 }],
        "endpoints": [{ "address": house.server.ip, "ready": false }, { "address": house.neighbour.ip }],
    });
    house.mesh.change(|document| document["services"] = serde_json::json!([service])).unwrap();
    house.mesh.capture(true).unwrap();
    house.one.wait_captured(1).unwrap();
    house.two.wait_captured(1).unwrap();
    let _server = Nginx::start(&house.bed, &house.server).unwrap();
    let _outside = Nginx::start(&house.bed, &house.neighbour).unwrap();

    let (one, two) = (house.nodes.0.ip, house.nodes.1.ip);
    let prometheus = Prometheus::start(
        &house,
        &serde_json::json!({
            "global": { "scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s" },
            "rule_files": [rules()],
            "scrape_configs": [
                { "job_name": "lark-agent",
                  "static_configs": [{ "targets": [format!("{one}:15020"), format!("{two}:15020")] }] },
                { "job_name": "lark-controller",
                  "static_configs": [{ "targets": [format!("{one}:15014")] }] },
            ],
        }),
    );
    let unanswered = |all: Vec<(String, String, String)>| {
        let shows = |expression: &str| {
            let expression = expression
                .replace("$__rate_interval", "1m")
                .replace("$__range", "5m")
                .replace("$namespace", ".+");
            !prometheus.values(&expression).is_empty()
        };
        all.into_iter().filter(|(_, _, expression)| !shows(expression)).collect::<Vec<_>>()
    };
    // What happens only once, a handshake, is seen to happen only by who had looked before.
    eventually(Duration::from_secs(30), "everybody was scraped", || {
        Ok(prometheus.values("up == 1").len() == 3)
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", prometheus.process.log()));
    let mut empty = queries();
    // Rates need two samples, between which something happened.
    eventually(Duration::from_secs(60), "every panel shows something", || {
        house.curl(&format!("http://{}:8080/", house.server.ip));
        house.curl("http://10.96.0.13/");
        empty = unanswered(std::mem::take(&mut empty));
        Ok(empty.is_empty())
    })
    .unwrap_or_else(|e| panic!("{e:#}: {empty:#?}\n{}", prometheus.process.log()));

    let rules = prometheus.ask("rules", "");
    let rules = rules["data"]["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
    assert!(rules.len() >= 8, "{rules:#?}");
    for rule in &rules {
        assert!(rule["health"] != "err", "{rule:#}");
        // What a rule looks at is there while all is well, or it would never fire; but pods by a state in which none is.
        let query = rule["query"].as_str().unwrap();
        for selector in selectors(query).into_iter().filter(|s| !s.starts_with("lark_capture_pods")) {
            assert!(!prometheus.values(selector).is_empty(), "there is no {selector}: {rule:#}");
        }
    }
    // What is right in this house: every agent is up.
    assert!(prometheus.values("up == 0").is_empty());
}

#[test]
fn alerts_fire_when_they_should_and_not_otherwise_and_each_has_its_page() {
    need("promtool", "prometheus").unwrap();
    let tested = Command::new("promtool")
        .args(["test", "rules", "alerts.tests.yaml"])
        .current_dir(deploy().join("monitoring"))
        .output()
        .unwrap();
    assert!(
        tested.status.success(),
        "{}{}",
        String::from_utf8_lossy(&tested.stdout),
        String::from_utf8_lossy(&tested.stderr)
    );
    let (rules, tests) = (
        std::fs::read_to_string(rules()).unwrap(),
        std::fs::read_to_string(deploy().join("monitoring/alerts.tests.yaml")).unwrap(),
    );
    let names: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() >= 8, "{names:?}");
    for name in names {
        let page = format!("docs/runbooks/{name}.md");
        assert!(rules.contains(&format!("runbook: {page}")), "{name} names no page");
        let text = std::fs::read_to_string(deploy().join("..").join(&page)).unwrap_or_default();
        assert!(text.contains("**What to do:**"), "{page}");
        // Once as what is expected to fire.
        assert!(tests.contains(&format!("alertname: {name}\n")), "{name} is not tested");
    }
}

/// The blocks of a kind in docs/latency.md.
fn blocks(kind: &str) -> Vec<String> {
    let page = std::fs::read_to_string(deploy().join("../docs/latency.md")).unwrap();
    let begins = format!("```{kind}\n");
    page.split(begins.as_str()).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_recipe_with_blackbox_exporter_shows_latency_before_and_after_the_label() {
    need("prometheus-blackbox-exporter", "prometheus-blackbox-exporter").unwrap();
    let mut house = House::new();
    let _server = Nginx::start(&house.bed, &house.server).unwrap();
    let [module, scrape]: [String; 2] = blocks("yaml").try_into().unwrap();
    let configuration = house.bed.directory().join("blackbox.yml");
    std::fs::write(&configuration, module).unwrap();
    let mut exporter = house.client.place.command("prometheus-blackbox-exporter");
    exporter.arg(format!("--config.file={}", configuration.display()));
    let log = house.bed.directory().join("blackbox.log");
    let exporter = house.client.place.start(exporter, &log).unwrap();

    // As on the page, with this house's addresses and less patience.
    let mut scrape: Value = serde_saphyr::from_str(&scrape).unwrap();
    let job = &mut scrape["scrape_configs"][0];
    // The exporter leaves half a second of it for itself.
    job["scrape_interval"] = "1s".into();
    job["static_configs"][0]["targets"][0] = format!("http://{}:8080/", house.server.ip).into();
    job["relabel_configs"][2]["replacement"] = format!("{}:9115", house.client.ip).into();
    let prometheus = Prometheus::start(&house, &scrape);

    let queries: Vec<String> =
        blocks("promql").iter().flat_map(|block| block.lines()).map(str::to_owned).collect();
    assert_eq!(queries.len(), 3, "{queries:?}");
    let probes = |least: f64| {
        eventually(Duration::from_secs(30), "every query has an answer, and probes go well", || {
            let enough = prometheus.values("sum_over_time(probe_success{job=\"latency\"}[5m])");
            let shown = queries.iter().all(|query| prometheus.values(query).iter().any(|&value| value > 0.0));
            Ok(shown && enough.first().is_some_and(|&count| count >= least))
        })
        .unwrap_or_else(|e| panic!("{e:#}\n{}\n{}", exporter.log(), prometheus.process.log()));
    };
    probes(2.0);
    house.capture();
    let done = prometheus.values("sum_over_time(probe_success{job=\"latency\"}[5m])")[0];
    probes(done + 3.0);
    // Now the probes go the mesh's way.
    let edges = house.one.json("edges").unwrap();
    let secured = edges.as_array().unwrap().iter().any(|edge| edge["secured"] == "mtls");
    assert!(secured, "{edges:#}");
}
