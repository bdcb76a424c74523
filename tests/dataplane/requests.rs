//! Requests counted in passing, at both ends, against what the programs themselves report.

use std::collections::BTreeMap;
use std::time::Duration;

use lark_testbed::{Nginx, Node, Wire};

use crate::house::House;

/// A scrape of an agent.
pub(crate) fn scrape(node: &Node) -> String {
    node.place.run("curl", &["-sSf", &format!("http://{}:15020/metrics", node.ip)]).unwrap()
}

/// Values of a metric's series that have all of these labels.
fn series(text: &str, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    text.lines()
        .filter(|line| line.starts_with(&format!("{name}{{")))
        .filter(|line| labels.iter().all(|label| line.contains(label.as_str())))
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect()
}

/// The sum of a metric's series that have all of these labels.
pub(crate) fn sum(text: &str, name: &str, labels: &[(&str, &str)]) -> u64 {
    let sum = series(text, name, labels).into_iter().sum::<f64>();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of a short test")]
    let count = sum as u64;
    count
}

/// Requests by protocol and status.
fn requests(text: &str, direction: &str) -> BTreeMap<(String, String), u64> {
    let mut all = BTreeMap::new();
    let label = |line: &str, name: &str| {
        line.split(&format!("{name}=\"")).nth(1).unwrap().split('"').next().unwrap().to_owned()
    };
    for line in text.lines().filter(|line| line.starts_with("lark_proxy_requests_total{")) {
        if label(line, "direction") == direction {
            let count: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
            *all.entry((label(line, "protocol"), label(line, "status"))).or_default() += count;
        }
    }
    all
}

/// Waits until both agents, or the one of a connection within its node, have counted these requests and no
/// others: a client knows that it has its answer before the agent knows that the connection is over.
pub(crate) fn counted(house: &House, directions: &[(&Node, &str)], expected: &[(&str, &str, u64)]) {
    let expected: BTreeMap<(String, String), u64> = expected
        .iter()
        .map(|(protocol, status, count)| (((*protocol).to_owned(), (*status).to_owned()), *count))
        .collect();
    for (node, direction) in directions {
        let mut last = BTreeMap::new();
        lark_testbed::eventually(Duration::from_secs(20), "the requests are counted", || {
            last = requests(&scrape(node), direction);
            Ok(last == expected)
        })
        .unwrap_or_else(|e| panic!("{e:#}: {direction}: {last:?}, not {expected:?}\n{}", house.logs()));
    }
}

/// Of all that `said` has, the number before a word.
fn number_before(said: &str, word: &str) -> u64 {
    let before = said.split(word).next().unwrap();
    before.split_whitespace().last().unwrap().parse().unwrap_or_else(|_| panic!("no {word} in {said}"))
}

#[test]
fn http1_is_counted_and_timed_at_both_ends_as_curl_and_wrk_report_it() {
    lark_testbed::need("wrk", "wrk").unwrap();
    let house = House::captured();
    let nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let url = |path: &str| format!("http://{}:8080/{path}", house.server.ip);
    let ends = [(&house.nodes.0, "outbound"), (&house.nodes.1, "inbound")];

    let run = |arguments: &[&str]| house.client.place.run("curl", arguments).unwrap();
    // Three answers of one connection, of two classes; an upload; a HEAD.
    let (there, missing) = (url("who"), url("missing"));
    let codes = run(&[
        "-sS",
        "-w",
        "%{http_code} ",
        "-o",
        "/dev/null",
        &there,
        "-o",
        "/dev/null",
        &missing,
        "-o",
        "/dev/null",
        &there,
    ]);
    assert_eq!(codes, "200 404 200 ");
    let code = run(&["-sS", "-w", "%{http_code}", "-o", "/dev/null", "-T", "/bin/true", &url("put/true")]);
    assert_eq!(code, "201");
    assert!(run(&["-sSI", &there]).starts_with("HTTP/1.1 200"));
    counted(&house, &ends, &[("http1", "2xx", 4), ("http1", "4xx", 1)]);

    // wrk stops in the middle of things: what it counts, and at most one more of each connection.
    let said = house.client.place.run("wrk", &["-t", "1", "-c", "8", "-d", "1", &url("index.html")]).unwrap();
    let by_wrk = number_before(&said, " requests in");
    assert!(by_wrk > 100 && !said.contains("Non-2xx"), "{said}");
    let by_nginx = || {
        let lines = nginx.access_log();
        u64::try_from(
            lines
                .lines()
                .filter(|line| line.contains("GET /index.html") && !line.contains("127.0.0.1"))
                .count(),
        )
        .unwrap()
    };
    for (node, direction) in ends {
        let ok = [("direction", direction), ("protocol", "http1"), ("status", "2xx")];
        let (mut by_lark, mut text) = (0, String::new());
        lark_testbed::eventually(Duration::from_secs(20), "all connections have ended", || {
            text = scrape(node);
            by_lark = sum(&text, "lark_proxy_requests_total", &ok) - 4;
            let open = sum(&text, "lark_proxy_connections_open", &[("direction", direction)]);
            Ok(open == 0)
        })
        .unwrap();
        assert!(
            (by_wrk..=by_wrk + 8).contains(&by_lark),
            "{direction}: {by_lark} counted, not {by_wrk}\n{said}"
        );
        lark_testbed::eventually(Duration::from_secs(10), "nginx has written its log", || {
            Ok((by_lark..=by_lark + 8).contains(&by_nginx()))
        })
        .unwrap_or_else(|e| panic!("{e:#}: {direction}: {by_lark}, nginx {}", by_nginx()));
        // Each answered request is timed, none before it was asked.
        let edge = [
            ("direction", direction),
            ("source_namespace", "shop"),
            ("source_workload", "Deployment/client"),
            ("destination_namespace", "shop"),
            ("destination_workload", "Deployment/server"),
        ];
        let answered = by_lark + 5;
        for name in ["lark_proxy_request_first_byte_seconds", "lark_proxy_request_duration_seconds"] {
            assert_eq!(sum(&text, &format!("{name}_count"), &edge), answered, "{name}\n{text}");
            let infinite = [&edge[..], &[("le", "+Inf")]].concat();
            assert_eq!(sum(&text, &format!("{name}_bucket"), &infinite), answered);
            assert!(series(&text, &format!("{name}_sum"), &edge)[0] > 0.0);
        }
    }
    let table = house.one.table(&["connections"]).unwrap();
    assert!(table.contains("PROTOCOL"), "{table}");
}

#[test]
fn http2_and_grpc_are_counted_as_h2load_reports_them() {
    lark_testbed::need("nghttpd", "nghttp2-server").unwrap();
    lark_testbed::need("h2load", "nghttp2-client").unwrap();
    let house = House::captured();
    let files = house.bed.directory().join("h2");
    std::fs::create_dir_all(&files).unwrap();
    std::fs::write(files.join("index.html"), vec![b'x'; 20_000]).unwrap();
    // The second one ends all that it answers as a gRPC server does that has not found something.
    let mut servers = Vec::new();
    for (port, trailer) in [("8443", None), ("8444", Some("--trailer=grpc-status: 5"))] {
        let mut nghttpd = house.server.place.command("nghttpd");
        nghttpd.arg("-d").arg(&files).args(["--no-tls", port]).args(trailer);
        let log = house.bed.directory().join(format!("nghttpd-{port}.log"));
        servers.push(house.server.place.start(nghttpd, &log).unwrap());
        lark_testbed::eventually(Duration::from_secs(20), "nghttpd listens", || {
            let listening = house.server.place.output("ss", &["-Htln", &format!("sport = {port}")])?;
            Ok(!listening.stdout.is_empty())
        })
        .unwrap();
    }
    let load = |port: &str, path: &str, more: &[&str]| {
        let url = format!("http://{}:{port}/{path}", house.server.ip);
        let said = house.client.place.run("h2load", &[more, &[&url]].concat());
        said.unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()))
    };
    // More at once than are timed.
    let said = load("8443", "index.html", &["-n", "600", "-c", "4", "-m", "100"]);
    assert!(said.contains("600 succeeded, 0 failed, 0 errored"), "{said}");
    let said = load("8443", "missing", &["-n", "50", "-c", "1", "-m", "1"]);
    assert!(said.contains("0 2xx, 0 3xx, 50 4xx, 0 5xx"), "{said}");
    let call = ["-n", "300", "-c", "1", "-m", "30", "-H", "content-type: application/grpc"];
    let said = load("8444", "index.html", &call);
    assert!(said.contains("300 succeeded, 0 failed, 0 errored"), "{said}");
    let ends = [(&house.nodes.0, "outbound"), (&house.nodes.1, "inbound")];
    counted(&house, &ends, &[("http2", "2xx", 600), ("http2", "4xx", 50), ("grpc", "NOT_FOUND", 300)]);
    for (node, direction) in ends {
        let text = scrape(node);
        let of = [("direction", direction), ("protocol", "http2")];
        assert_eq!(sum(&text, "lark_proxy_connections_recognised_total", &of), 6);
        let timed = sum(&text, "lark_proxy_request_duration_seconds_count", &[("direction", direction)]);
        assert!((510..=950).contains(&timed), "{timed} timed\n{text}");
    }
}

/// Sends what breaks off in the middle of being HTTP, reads the echo, and compares; then waits to be told.
const BROKEN: &str = r"
import socket, sys, os
s = socket.create_connection((sys.argv[1], 7007), timeout=30)
sent = bytes.fromhex(sys.argv[2]) + os.urandom(200000)
import threading
threading.Thread(target=lambda: (s.sendall(sent), s.shutdown(socket.SHUT_WR))).start()
got = b''
while True:
    more = s.recv(65536)
    if not more: break
    got += more
print('same' if got == sent else 'different')
";

/// Sends everything back, without a look at it.
const MIRROR: &str = r"
import socketserver
class Mirror(socketserver.BaseRequestHandler):
    def handle(self):
        while (more := self.request.recv(65536)): self.request.sendall(more)
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(('0.0.0.0', 7007), Mirror).serve_forever()
";

#[test]
fn what_is_broken_or_encrypted_or_something_else_passes_untouched_and_is_opaque() {
    let house = House::captured();
    let mut mirror = house.server.place.command("python3");
    mirror.args(["-c", MIRROR]);
    let _mirror = house.server.place.start(mirror, &house.bed.directory().join("mirror.log")).unwrap();
    lark_testbed::eventually(Duration::from_secs(20), "it listens", || {
        Ok(!house.server.place.output("ss", &["-Htln", "sport = 7007"])?.stdout.is_empty())
    })
    .unwrap();
    let ends = [(&house.nodes.0, "outbound"), (&house.nodes.1, "inbound")];
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let beginnings: [(&[u8], &str); 5] = [
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", "ambiguous"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", "broken"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x01\x04\x00\x00\x00\x00\x00", "broken"),
        (b"SSH-2.0-x\r\n", "unknown"),
        // A ClientHello, and then noise.
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "tls"),
    ];
    for (beginning, _) in beginnings {
        let said =
            house.client.place.run("python3", &["-c", BROKEN, &house.server.ip.to_string(), &hex(beginning)]);
        assert_eq!(said.unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs())), "same\n");
    }
    for (node, direction) in ends {
        let text = scrape(node);
        for (reason, count) in [("ambiguous", 1), ("broken", 2), ("unknown", 1), ("server_first", 0)] {
            let of = [("direction", direction), ("reason", reason)];
            assert_eq!(sum(&text, "lark_proxy_connections_opaque_total", &of), count, "{reason}\n{text}");
        }
        let of = [("direction", direction), ("protocol", "tls")];
        assert_eq!(sum(&text, "lark_proxy_connections_recognised_total", &of), 1, "{text}");
    }
}

#[test]
fn within_a_node_requests_are_counted_once_and_switched_off_not_at_all() {
    let house = House::captured();
    let _nginx = Nginx::start(&house.bed, &house.neighbour).unwrap();
    let wire = Wire::listen(&house.bed).unwrap();
    for _ in 0..3 {
        assert_eq!(house.curl(&format!("http://{}:8080/", house.neighbour.ip)), "canary-of-lark\n");
    }
    counted(&house, &[(&house.nodes.0, "local")], &[("http1", "2xx", 3)]);
    assert_eq!(wire.count("canary-of-lark").unwrap(), 0);
    drop(house);

    let house = House::captured_with(&["--recognise", "off"]);
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    assert_eq!(house.curl(&format!("http://{}:8080/", house.server.ip)), "canary-of-lark\n");
    for node in [&house.nodes.0, &house.nodes.1] {
        let text = scrape(node);
        assert!(!text.contains("lark_proxy_requests_total{"), "{text}");
        assert_eq!(sum(&text, "lark_proxy_connections_recognised_total", &[]), 0, "{text}");
    }
}
