//! Unmodified programs through the mesh.

use lark_testbed::{Nginx, Postgres, Wire};

use crate::house::House;

#[test]
fn nginx_and_curl_talk_over_mtls_and_nginx_sees_the_client() {
    let mut house = House::new();
    let nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let (url4, url6) =
        (format!("http://{}:8080/", house.server.ip), format!("http://[{}]:8080/", house.server.ip6));

    let wire = Wire::listen(&house.bed).unwrap();
    assert_eq!(house.curl(&url4), "canary-of-lark\n");
    assert!(wire.count("canary-of-lark").unwrap() > 0, "the wire shows no plaintext even without Lark");

    house.capture();
    let wire = Wire::listen(&house.bed).unwrap();
    for url in [&url4, &url6] {
        assert_eq!(house.curl(url), "canary-of-lark\n");
    }
    let who = |ip: &str| house.curl(&format!("http://{ip}:8080/who"));
    assert_eq!(who(&house.server.ip.to_string()), format!("{} {}\n", house.client.ip, house.server.ip));
    assert_eq!(
        who(&format!("[{}]", house.server.ip6)),
        format!("{} {}\n", house.client.ip6, house.server.ip6)
    );
    assert_eq!(wire.count("canary-of-lark").unwrap(), 0, "the canary was on the wire");
    nginx.logged(&house.client.ip.to_string()).unwrap();

    for (agent, direction) in [(&house.one, "outbound"), (&house.two, "inbound")] {
        let edges = agent.json("edges").unwrap();
        let edge = edges.as_array().unwrap().iter().find(|e| e["direction"] == direction).unwrap().clone();
        assert_eq!(edge["secured"], "mtls", "{edges:#}");
        assert_eq!(edge["connections"], 4);
        assert_eq!(edge["source"]["identity"], "spiffe://cluster.local/ns/shop/sa/client");
        assert_eq!(edge["destination"]["identity"], "spiffe://cluster.local/ns/shop/sa/server");
        assert!(agent.table(&["edges"]).unwrap().contains("√ mTLS"));
        let check = agent.lark(&["check"]).unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    }
}

#[test]
fn on_pure_cgroup_v2_it_is_the_same() {
    let test = "programs::nginx_and_curl_talk_over_mtls_and_nginx_sees_the_client";
    lark_testbed::on_pure_cgroup_v2(test).unwrap();
}

#[test]
fn a_hundred_megabytes_arrive_whole_and_in_ranges_and_go_back() {
    let house = House::captured();
    let nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let big = nginx.files.join("big");
    let sum = |path: &std::path::Path| {
        let out = std::process::Command::new("sha256sum").arg(path).output().unwrap();
        String::from_utf8(out.stdout).unwrap()[..64].to_owned()
    };
    let made = std::process::Command::new("sh")
        .args(["-c", &format!("head -c 100000000 /dev/urandom > {}", big.display())])
        .status()
        .unwrap();
    assert!(made.success());
    let got = house.bed.directory().join("got");
    let got_text = got.to_str().unwrap();
    let url = format!("http://{}:8080/big", house.server.ip);
    let fetch = |arguments: &[&str]| {
        house
            .client
            .place
            .run(
                "curl",
                &[&["-sSf", "--max-time", "120", "-o", got_text], arguments, &[url.as_str()]].concat(),
            )
            .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    };
    fetch(&[]);
    assert_eq!(sum(&got), sum(&big));
    std::fs::remove_file(&got).unwrap();
    for range in ["0-33333333", "33333334-77777777", "77777778-99999999"] {
        let part = format!("{got_text}.part");
        house
            .client
            .place
            .run("curl", &["-sSf", "--max-time", "120", "-r", range, "-o", &part, &url])
            .unwrap();
        let status = std::process::Command::new("sh")
            .args(["-c", &format!("cat {part} >> {got_text}")])
            .status()
            .unwrap();
        assert!(status.success());
    }
    assert_eq!(sum(&got), sum(&big));
    // And back.
    let put = format!("http://{}:8080/put/back", house.server.ip);
    let sent = ["-sSf", "--max-time", "120", "-T", got_text, "-H", "Expect:", &put];
    house.client.place.run("curl", &sent).unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    assert_eq!(sum(&nginx.files.join("put/back")), sum(&big));
}

#[test]
fn postgres_serves_psql_and_pgbench_and_logs_the_client() {
    let house = House::captured();
    let postgres = Postgres::start(&house.bed, &house.server).unwrap();
    let host = house.server.ip.to_string();
    let psql = |sql: &str| {
        house
            .client
            .place
            .run("psql", &["-h", &host, "-U", "postgres", "-tAc", sql])
            .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()))
    };
    assert_eq!(psql("select inet_client_addr()"), format!("{}\n", house.client.ip));
    assert_eq!(psql("select sum(i) from generate_series(1,100000) i"), "5000050000\n");
    let bench = |arguments: &[&str]| {
        house.client.place.run("pgbench", &[&["-h", &host, "-U", "postgres"], arguments].concat()).unwrap()
    };
    bench(&["-i", "-q", "-s", "1", "postgres"]);
    let said = bench(&["-c", "8", "-t", "100", "postgres"]);
    assert!(said.contains("number of transactions actually processed: 800/800"), "{said}");
    assert_eq!(psql("select count(*) from pgbench_history"), "800\n");
    // One new connection for each transaction.
    let said = bench(&["-C", "-c", "4", "-t", "25", "-S", "postgres"]);
    assert!(said.contains("100/100"), "{said}");
    assert!(postgres.log().contains(&format!("host={}", house.client.ip)), "{}", postgres.log());
}

#[test]
fn redis_pipelines_and_iperf3_runs_eight_streams_both_ways() {
    lark_testbed::need("redis-server", "redis-server").unwrap();
    lark_testbed::need("iperf3", "iperf3").unwrap();
    let house = House::captured();
    let host = house.server.ip.to_string();
    let mut redis = house.server.place.command("redis-server");
    redis.args(["--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""]);
    let _redis = house.server.place.start(redis, &house.bed.directory().join("redis.log")).unwrap();
    let ping = || house.client.place.output("redis-cli", &["-h", &host, "ping"]);
    lark_testbed::eventually(std::time::Duration::from_secs(20), "redis answers", || {
        Ok(ping()?.stdout == b"PONG\n")
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    let said = house
        .client
        .place
        .run("redis-benchmark", &["-h", &host, "-n", "20000", "-P", "16", "-c", "20", "-t", "set,get", "-q"])
        .unwrap();
    assert!(said.contains("GET:"), "{said}");

    let mut iperf = house.server.place.command("iperf3");
    iperf.args(["-s", "-p", "5201"]);
    let _iperf = house.server.place.start(iperf, &house.bed.directory().join("iperf.log")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    for direction in [&["-P", "8"][..], &["-P", "8", "-R"]] {
        let arguments = [&["-c", &host, "-p", "5201", "-t", "2", "-J"], direction].concat();
        let said = house
            .client
            .place
            .run("iperf3", &arguments)
            .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
        let value: serde_json::Value = serde_json::from_str(&said).unwrap();
        let streams = value["end"]["streams"].as_array().unwrap();
        assert_eq!(streams.len(), 8);
        for stream in streams {
            let received = stream["receiver"]["bytes"].as_u64().unwrap();
            assert!(received > 1_000_000, "a stream starved: {stream}");
        }
    }
}

#[test]
fn neighbours_meet_inside_the_agent_and_see_each_other() {
    let house = House::captured();
    let _nginx = Nginx::start(&house.bed, &house.neighbour).unwrap();
    let who = house.curl(&format!("http://{}:8080/who", house.neighbour.ip));
    assert_eq!(who, format!("{} {}\n", house.client.ip, house.neighbour.ip));
    let edges = house.one.table(&["edges"]).unwrap();
    assert!(edges.contains("= same node"), "{edges}");
}

#[test]
fn a_service_leads_to_its_endpoints_and_to_oneself() {
    let mut house = House::new();
    house.mesh.service("web", &["10.96.0.10", "fd96::10"], 80, 8080, &[&house.server]).unwrap();
    house.mesh.service("none", &["10.96.0.11"], 80, 8080, &[]).unwrap();
    house.mesh.service("me", &["10.96.0.12"], 80, 8080, &[&house.client]).unwrap();
    house.capture();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let _own = Nginx::start(&house.bed, &house.client).unwrap();
    assert_eq!(house.curl("http://10.96.0.10/who"), format!("{} {}\n", house.client.ip, house.server.ip));
    assert_eq!(house.curl("http://[fd96::10]/who"), format!("{} {}\n", house.client.ip6, house.server.ip6));
    assert_eq!(house.curl("http://10.96.0.12/who"), format!("{0} {0}\n", house.client.ip));
    let trace = house.one.table(&["trace", "--from", "shop/client", "--to", "10.96.0.10:80"]).unwrap();
    assert!(trace.contains("tunnel to its agent at 192.168.77.2:15008"), "{trace}");
}

#[test]
fn what_a_service_has_outside_the_mesh_is_dialled_from_the_pod_itself() {
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
    let _nginx = Nginx::start(&house.bed, &house.neighbour).unwrap();
    // The pod's own address, which the agent has only inside the pod's namespace.
    let who = house.curl("http://10.96.0.13/who");
    assert_eq!(who, format!("{} {}\n", house.client.ip, house.neighbour.ip));
    let edges = house.one.json("edges").unwrap();
    let edge = edges.as_array().unwrap().iter().find(|e| e["destination"]["name"] == "Deployment/neighbour");
    let edge = edge.unwrap_or_else(|| panic!("{edges:#}"));
    assert_eq!((&edge["secured"], &edge["connections"]), (&"plaintext".into(), &1.into()), "{edges:#}");
}

#[test]
fn http2_with_many_streams_goes_through() {
    lark_testbed::need("nghttpd", "nghttp2-server").unwrap();
    lark_testbed::need("h2load", "nghttp2-client").unwrap();
    let house = House::captured();
    let files = house.bed.directory().join("h2");
    std::fs::create_dir_all(&files).unwrap();
    std::fs::write(files.join("index.html"), vec![b'x'; 100_000]).unwrap();
    let mut nghttpd = house.server.place.command("nghttpd");
    nghttpd.arg("-d").arg(&files).args(["--no-tls", "8443"]);
    let _nghttpd = house.server.place.start(nghttpd, &house.bed.directory().join("nghttpd.log")).unwrap();
    let url = format!("http://{}:8443/index.html", house.server.ip);
    let load = ["-n", "2000", "-c", "4", "-m", "50", url.as_str()];
    lark_testbed::eventually(std::time::Duration::from_secs(20), "nghttpd answers", || {
        Ok(house.client.place.output("h2load", &["-n", "1", &url])?.status.success())
    })
    .unwrap();
    let said = house.client.place.run("h2load", &load).unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    assert!(said.contains("2000 succeeded, 0 failed, 0 errored"), "{said}");
}

/// vsftpd greets before the client has said anything, tells its own address for passive transfers, and
/// connects back to the client's for active ones.
#[test]
fn a_server_that_speaks_first_and_calls_back_is_served_both_ways() {
    lark_testbed::need("vsftpd", "vsftpd").unwrap();
    let house = House::captured();
    let home = house.bed.directory().join("ftp");
    std::fs::create_dir_all(home.join("empty")).unwrap();
    let text: String = (0..200_000).map(|i| format!("{i} ")).collect();
    std::fs::write(home.join("down"), &text).unwrap();
    let configuration = home.join("vsftpd.conf");
    let (ftp, log) = (home.display(), home.join("log"));
    std::fs::write(
        &configuration,
        format!(
            "listen=YES\nbackground=NO\nlisten_port=2121\nanonymous_enable=YES\nno_anon_password=YES\n\
             run_as_launching_user=YES\nanon_root={ftp}\nsecure_chroot_dir={ftp}/empty\nwrite_enable=YES\n\
             anon_upload_enable=YES\nallow_writeable_chroot=YES\nseccomp_sandbox=NO\nisolate=NO\n\
             isolate_network=NO\nconnect_from_port_20=NO\nxferlog_enable=YES\nvsftpd_log_file={}\n",
            log.display()
        ),
    )
    .unwrap();
    let mut vsftpd = house.server.place.command("vsftpd");
    vsftpd.arg(&configuration);
    let vsftpd = house.server.place.start(vsftpd, &house.bed.directory().join("vsftpd.log")).unwrap();
    let url = |name: &str| format!("ftp://{}:2121/{name}", house.server.ip);
    lark_testbed::eventually(std::time::Duration::from_secs(20), "vsftpd answers", || {
        Ok(house.client.place.output("curl", &["-sS", "--list-only", &url("")])?.status.success())
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}\n{}", vsftpd.log(), house.logs()));
    let curl = |arguments: &[&str]| {
        let all = [&["-sS", "--max-time", "60"], arguments].concat();
        house.client.place.run("curl", &all).unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()))
    };
    let wire = Wire::listen(&house.bed).unwrap();
    let down = home.join("down");
    // Passive with IPv6's form and with addresses, then active, in which the server dials the client.
    for (number, mode) in
        [&["--ftp-pasv"][..], &["--disable-epsv"], &["--ftp-port", "-", "--disable-eprt"]].iter().enumerate()
    {
        assert!(curl(&[*mode, &[&url("down")]].concat()) == text, "{mode:?}: other bytes came");
        let up = url(&format!("up{number}"));
        curl(&[*mode, &["--upload-file", down.to_str().unwrap(), &up]].concat());
        assert!(std::fs::read_to_string(home.join(format!("up{number}"))).unwrap() == text, "{mode:?}");
    }
    assert_eq!(wire.count("199998 199999").unwrap(), 0);
    let log = std::fs::read_to_string(log).unwrap();
    assert!(
        log.contains(&format!("Client \"::ffff:{}\"", house.client.ip))
            || log.contains(&house.client.ip.to_string()),
        "{log}"
    );
    // The transfers that the server dialled are its own connections.
    let edges = house.two.json("edges").unwrap();
    let dialled =
        edges.as_array().unwrap().iter().any(|e| e["direction"] == "outbound" && e["secured"] == "mtls");
    assert!(dialled, "{edges:#}");
}

/// Asks, is silent for more than two minutes, and asks again over the same connection.
const IDLE: &str = r"
import http.client, sys, time
c = http.client.HTTPConnection(sys.argv[1], 8080, timeout=20)
for wait in 0, 130:
    time.sleep(wait)
    c.request('GET', '/')
    assert c.getresponse().read() == b'canary-of-lark\n'
    print(c.sock.getsockname()[1])
";

#[test]
fn an_idle_connection_lives_on_for_minutes() {
    let house = House::captured();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let said = house
        .client
        .place
        .run("python3", &["-c", IDLE, &house.server.ip.to_string()])
        .unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()));
    let ports: Vec<&str> = said.split_whitespace().collect();
    assert!(ports.len() == 2 && ports[0] == ports[1], "the client had to connect again: {said}");
}

#[test]
fn metrics_move_while_a_connection_is_open() {
    let house = House::captured();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let scrape = |node: &lark_testbed::Node| {
        node.place.run("curl", &["-sSf", &format!("http://{}:15020/metrics", node.ip)]).unwrap()
    };
    let ready = house
        .nodes
        .0
        .place
        .run("curl", &["-sSf", &format!("http://{}:15020/readyz", house.nodes.0.ip)])
        .unwrap();
    assert_eq!(ready, "ok\n");
    let mut held = house.client.place.command("python3");
    let open = "import http.client,sys,time; c=http.client.HTTPConnection(sys.argv[1],8080); c.request('GET','/'); c.getresponse().read(); print('open',flush=True); time.sleep(600)";
    held.args(["-c", open, &house.server.ip.to_string()]);
    let held = house.client.place.start(held, &house.bed.directory().join("held.log")).unwrap();
    lark_testbed::eventually(std::time::Duration::from_secs(20), "it is open", || {
        Ok(held.log().contains("open"))
    })
    .unwrap();
    let labels = |direction: &str| {
        format!(
            "{{destination_namespace=\"shop\",destination_workload=\"Deployment/server\",direction=\"{direction}\",secured=\"mtls\",source_namespace=\"shop\",source_workload=\"Deployment/client\"}}"
        )
    };
    for (node, direction) in [(&house.nodes.0, "outbound"), (&house.nodes.1, "inbound")] {
        let text = scrape(node);
        let value = |name: &str| -> f64 {
            let line = format!("{name}{} ", labels(direction));
            let found = text.lines().find_map(|l| l.strip_prefix(&line));
            found.unwrap_or_else(|| panic!("no {line} in\n{text}")).parse().unwrap()
        };
        assert!(value("lark_proxy_received_bytes_total") > 100.0);
        assert!(value("lark_proxy_sent_bytes_total") > 30.0);
        assert!((value("lark_proxy_connections_open") - 1.0).abs() < f64::EPSILON);
        assert!(text.contains(
            "lark_identity_svid_expiration_timestamp_seconds{identity=\"spiffe://cluster.local/ns/shop/sa/"
        ));
        assert!(text.contains("lark_discovery_valid 1"));
        assert!(text.contains("# TYPE lark_kernel_events_total counter"));
        assert!(text.contains("lark_tunnel_handshakes_total"));
    }
}
