//! Verbs that look at traffic: stat, top, tap, trace --last; and log and bug-report.

use std::io::BufRead;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lark_testbed::{Agent, Nginx, eventually, lark_binary, need};
use serde_json::Value;

use crate::house::House;
use crate::requests::{scrape, sum};

/// A verb that goes on, of which every line is wanted.
fn begin(agent: &Agent, arguments: &[&str]) -> std::process::Child {
    Command::new(lark_binary().unwrap())
        .args(arguments)
        .arg("--admin-socket")
        .arg(agent.socket())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The values that a program has printed, one a line.
fn lines(child: std::process::Child) -> Vec<Value> {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn stat_top_and_tap_tell_what_curl_asked_and_never_what_was_said() {
    let house = House::captured();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let url = |path: &str| format!("http://{}:8080/{path}", house.server.ip);
    let get = |path: &str| {
        let code = ["-sS", "-H", "X: canary-of-a-head", "-o", "/dev/null", "-w", "%{http_code}", &url(path)];
        house.client.place.run("curl", &code).unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()))
    };
    // Whatever is asked before a tap is open is told to nobody: so it is asked until each has what it waits for.
    let mut failed =
        begin(&house.one, &["tap", "--lines", "1", "--status", "404", "-d", "outbound", "-o", "json"]);
    let mut all = begin(&house.two, &["tap", "--lines", "6", "--workload", "shop/server", "-o", "json"]);
    let other = begin(&house.two, &["tap", "--namespace", "other", "-o", "json"]);
    let mut asked = 0;
    eventually(Duration::from_secs(30), "both taps have had their lines", || {
        assert_eq!((get("index.html").as_str(), get("missing").as_str()), ("200", "404"));
        asked += 2;
        Ok(failed.try_wait()?.is_some() && all.try_wait()?.is_some())
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    let failed = lines(failed);
    assert_eq!((&failed[0]["what"], &failed[0]["code"]), (&"request".into(), &404.into()), "{failed:?}");
    assert_eq!((&failed[0]["method"], &failed[0]["result"]), (&"GET".into(), &"success".into()));
    assert_eq!(failed[0]["secured"], "mtls");
    assert_eq!(failed[0]["source"]["identity"], "spiffe://cluster.local/ns/shop/sa/client");
    let all = lines(all);
    for what in ["opened", "request", "ended"] {
        assert!(all.iter().any(|line| line["what"] == what), "{what}: {all:?}");
    }
    // Neither what was asked for, nor its head, nor what was answered.
    for payload in ["index.html", "missing", "canary-of-a-head", "canary-of-lark"] {
        assert!(!format!("{all:?}{failed:?}").contains(payload), "{payload}: {all:?}");
    }
    let mut other = other;
    other.kill().unwrap();
    assert!(lines(other).is_empty());

    for (agent, direction) in [(&house.one, "outbound"), (&house.two, "inbound")] {
        // A connection is over for curl before it is for the agent.
        let mut rows = Value::Null;
        eventually(Duration::from_secs(10), "all is counted", || {
            rows = agent.json("stat")?;
            Ok(rows[0]["requests"] == asked)
        })
        .unwrap_or_else(|e| panic!("{e:#}: {asked} asked, {rows:#}"));
        let row = &rows[0];
        assert_eq!((rows.as_array().unwrap().len(), &row["direction"]), (1, &direction.into()), "{rows:#}");
        assert_eq!(row["destination"], "Deployment/server");
        assert_eq!((&row["source"], &row["success"]), (&"".into(), &1.0.into()));
        let at = |q: &str| row["last_byte"][q].as_f64().unwrap();
        assert!(0.0 < at("p50") && at("p50") <= at("p95") && at("p95") <= at("p99"), "{row:#}");
        let count = |status: &str| {
            let outcomes = row["outcomes"].as_array().unwrap();
            outcomes.iter().find(|o| o["status"] == status).map(|o| o["count"].clone())
        };
        assert_eq!((count("2xx"), count("4xx")), (Some((asked / 2).into()), Some((asked / 2).into())));
    }
    let table = house.one.table(&["stat", "--by", "edge"]).unwrap();
    let row = table.lines().nth(1).unwrap();
    assert!(
        table.starts_with("SRC_NS") && row.contains("100.00%") && row.contains("Deployment/client"),
        "{table}"
    );
    assert_eq!(house.one.table(&["stat", "--namespace", "other"]).unwrap().lines().count(), 1);
    let top = house.one.table(&["top", "--looks", "2", "--every", "1", "-o", "json"]).unwrap();
    let looks: Vec<Value> = top.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(looks.len(), 2);
    assert!(!top.contains('\x1b') && looks[0][0]["source"] == "Deployment/client", "{top}");

    let wrong = house.one.lark(&["tap", "--verdict", "safe"]).unwrap();
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("no verdict is called \"safe\""), "{wrong:?}");
}

/// What a tap has told so far: requests, and how many were left out.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Told {
    requests: u64,
    left_out: u64,
}

#[test]
fn a_tap_leaves_out_what_is_too_much_and_says_how_much() {
    need("wrk", "wrk").unwrap();
    let house = House::captured();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let url = format!("http://{}:8080/index.html", house.server.ip);
    let counted = || {
        let of = [("direction", "outbound"), ("result", "success")];
        sum(&scrape(&house.nodes.0), "lark_proxy_requests_total", &of)
    };
    let mut tap = begin(&house.one, &["tap", "--status", "success", "-o", "json"]);
    let told = Arc::<Mutex<Told>>::default();
    let (output, writes) = (tap.stdout.take().unwrap(), told.clone());
    let reader = std::thread::spawn(move || {
        for line in std::io::BufReader::new(output).lines() {
            let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
            let mut told = writes.lock().unwrap();
            match line["what"].as_str() {
                Some("request") => told.requests += 1,
                Some("left_out") => told.left_out += line["events"].as_u64().unwrap(),
                other => panic!("{other:?} for a filter by status"),
            }
        }
    });
    // Until it is open it is told nothing.
    eventually(Duration::from_secs(30), "the tap is told of a request", || {
        house.curl(&url);
        Ok(told.lock().unwrap().requests > 0)
    })
    .unwrap();
    let (first, before) = (*told.lock().unwrap(), counted());
    let began = Instant::now();
    house.client.place.run("wrk", &["-t", "1", "-c", "16", "-d", "2", &url]).unwrap();
    let seconds = began.elapsed().as_secs() + 1;
    // What was left out is said within a second or so.
    let (mut now, mut all) = (first, 0);
    eventually(Duration::from_secs(30), "all is told or said to be left out", || {
        (now, all) = (*told.lock().unwrap(), counted() - before);
        Ok(now.requests + now.left_out - first.requests == all)
    })
    .unwrap_or_else(|e| panic!("{e:#}: {now:?} after {first:?}, {all} requests"));
    assert!(all > 3000, "only {all} requests, too few to leave any out");
    assert!(now.left_out > 0 && now.requests <= 1000 * (seconds + 2), "{now:?} in {seconds} s");

    // One that takes nothing at all holds up nobody, and is told the rest once it does.
    let pause = |signal: &str| {
        let pid = tap.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    };
    pause("-STOP");
    let said = house.client.place.run("wrk", &["-t", "1", "-c", "16", "-d", "2", &url]).unwrap();
    assert!(!said.contains("Socket errors"), "{said}");
    let asked = counted() - before;
    assert!(asked > all + 3000, "only {} requests while a tap stood still\n{said}", asked - all);
    assert_eq!(house.curl(&url), "canary-of-lark\n");
    pause("-CONT");
    eventually(Duration::from_secs(30), "the rest is told or said to be left out", || {
        (now, all) = (*told.lock().unwrap(), counted() - before);
        Ok(now.requests + now.left_out - first.requests == all)
    })
    .unwrap_or_else(|e| panic!("{e:#}: {now:?} after {first:?}, {all} requests"));
    tap.kill().unwrap();
    tap.wait().unwrap();
    reader.join().unwrap();
}

#[test]
fn the_logs_levels_are_changed_while_it_runs_and_go_back_by_themselves() {
    let house = House::captured();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let curl = || house.curl(&format!("http://{}:8080/", house.server.ip));
    let access = || house.one.process.log().matches("INFO access: connection").count();
    let quiet = house.one.table(&["log", "access=off"]).unwrap();
    assert!(quiet.contains("access=off") && quiet.contains("info,lark_tunnel=debug"), "{quiet}");
    let before = access();
    curl();
    eventually(Duration::from_secs(10), "the connection is over", || {
        Ok(house.one.json("connections")? == serde_json::json!([]))
    })
    .unwrap();
    house.one.lark(&["log", "reset"]).unwrap();
    assert_eq!(access(), before, "a connection was logged");
    assert_eq!(house.one.json("log").unwrap()["back_in_seconds"], Value::Null);
    curl();
    eventually(Duration::from_secs(10), "it is logged", || Ok(access() == before + 1)).unwrap();

    house.one.lark(&["log", "lark_tunnel=trace", "--for", "1"]).unwrap();
    eventually(Duration::from_secs(10), "it has gone back", || {
        Ok(house.one.json("log")?["filter"] == "info,lark_tunnel=debug")
    })
    .unwrap();
    assert!(house.one.process.log().contains("log lines are as configured again"));
    let wrong = house.one.lark(&["log", "lark_tunnel=loud"]).unwrap();
    assert!(!wrong.status.success());
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("is no filter like"), "{wrong:?}");
}

#[test]
fn a_bug_report_has_what_helps_and_no_token() {
    let house = House::captured();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    house.curl(&format!("http://{}:8080/", house.server.ip));
    // A log in which somebody wrote what should not be there.
    let token = std::fs::read_to_string(house.controller.home().join("token-one")).unwrap();
    let credential = house.bed.directory().join("agent-one/state/credential");
    let credential = std::fs::read_to_string(credential).unwrap();
    let key = std::fs::read_dir(house.controller.home().join("roots")).unwrap().flatten();
    let key =
        key.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "key")).unwrap();
    let key = std::fs::read_to_string(key).unwrap();
    let log = house.bed.directory().join("somebodys.log");
    std::fs::write(
        &log,
        format!(
            "start\nGET /x Authorization: Bearer {token}\n{key}\ncredential=\"{}\" end\n",
            credential.trim()
        ),
    )
    .unwrap();
    let archive = house.bed.directory().join("report.tar");
    let (archive_text, log_text) = (archive.to_str().unwrap(), log.to_str().unwrap());
    let listed = house.one.table(&["bug-report", "--file", archive_text, "--log", log_text]).unwrap();
    assert!(listed.contains("log-1.txt"), "{listed}");
    let bytes = std::fs::read(&archive).unwrap();
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    let line_of_key = key.lines().nth(1).unwrap();
    for secret in [token.trim(), credential.trim(), line_of_key] {
        assert!(secret.len() > 20, "{secret}");
        assert!(!holds(secret) && !holds(&secret[6..26]), "a secret is in the archive");
    }
    for part in [
        "Deployment/server",
        "lark_proxy_requests_total",
        "INFO access: connection",
        "Linux version",
        "\"ready\": true",
        "start\n",
        " end\n",
    ] {
        assert!(holds(part), "{part:?} is not in the archive");
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&archive).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    // Without an agent it is still made, and says so.
    let gone = Command::new(lark_binary().unwrap())
        .args(["bug-report", "--admin-socket", "/nowhere/admin.sock", "--file", archive_text])
        .output()
        .unwrap();
    assert!(gone.status.success(), "{gone:?}");
    let bytes = String::from_utf8_lossy(&std::fs::read(&archive).unwrap()).into_owned();
    assert!(bytes.contains("no agent answers on /nowhere/admin.sock"));
}

/// The stages that an agent tells of the last connection, which `ended` says how.
fn stages(agent: &Agent, from: &str, to: &str, ended: &str) -> Vec<String> {
    let arguments = ["trace", "--last", "--from", from, "--to", to, "-o", "json"];
    let mut last = Value::Null;
    eventually(Duration::from_secs(10), "it is over", || {
        let told: Value = serde_json::from_str(&agent.table(&arguments)?)?;
        last = told[0].clone();
        let end = last["stages"].as_array().and_then(|stages| stages.last()).cloned().unwrap_or_default();
        Ok(end["stage"] == "ended" && end["found"].as_str().is_some_and(|found| found.starts_with(ended)))
    })
    .unwrap_or_else(|e| panic!("{e:#}: {last:#}"));
    let all = last["stages"].as_array().unwrap();
    let after: Vec<f64> = all.iter().map(|stage| stage["after_seconds"].as_f64().unwrap()).collect();
    assert!(after.is_sorted() && after.iter().all(|&after| after < 60.0), "{last:#}");
    let mut names: Vec<String> =
        all.iter().map(|stage| stage["stage"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names[0], "taken");
    names.sort_unstable();
    names
}

#[test]
fn trace_tells_what_became_of_the_last_connection_at_both_ends() {
    let house = House::captured();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let (from, to) = ("shop/client", "shop/server");
    let none = house.one.lark(&["trace", "--last", "--from", from, "--to", to]).unwrap();
    assert_eq!(none.status.code(), Some(1), "{none:?}");
    assert!(String::from_utf8_lossy(&none.stderr).contains("was seen"), "{none:?}");

    house.curl(&format!("http://{}:8080/", house.server.ip));
    let inbound = ["allowed", "ended", "first_byte_received", "first_byte_sent", "known", "open", "taken"];
    let outbound = [inbound.as_slice(), &["tunnel"]].concat();
    assert_eq!(stages(&house.one, from, to, "clean, "), outbound);
    assert_eq!(stages(&house.two, from, to, "clean, "), inbound);
    let address = format!("{}:8080", house.server.ip);
    let table = house.one.table(&["trace", "--last", "--from", from, "--to", &address]).unwrap();
    assert!(table.contains("a tunnel was opened for it") && table.contains("√ mTLS"), "{table}");

    // One that is refused ends where it was refused.
    let closed = format!("http://{}:9/", house.server.ip);
    assert!(!house.client.place.output("curl", &["-sS", &closed]).unwrap().status.success());
    let mut refused = stages(&house.one, from, to, "refused, dial_refused");
    // What the client says at once goes with the CONNECT, before it is known that nobody takes it.
    refused.retain(|stage| *stage != "first_byte_sent");
    assert_eq!(refused, ["allowed", "ended", "known", "taken", "tunnel"]);
    assert_eq!(stages(&house.two, from, to, "refused, dial_refused"), ["allowed", "ended", "known", "taken"]);
}
