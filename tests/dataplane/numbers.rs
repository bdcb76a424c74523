//! Many connections of every kind, with programs that count themselves: their numbers, those of both agents, and all
//! the ways in which an agent tells them, are the same.

use std::collections::BTreeMap;
use std::time::Duration;

use lark_testbed::{Agent, Nginx, Node, Postgres, Requests, eventually, need};

use crate::house::House;

mod programs;
mod told;

use programs::{Client, Curl, NOBODY, PORT, Server, Sum, ended};
use told::{Kind, Log, Metrics};

/// The logged connections of one kind: between whom, to which port, how secured, how ended, and why.
fn kind(between: (&str, &str), port: u16, secured: &str, how: &str, reason: &str) -> Kind {
    Kind {
        between: (between.0.to_owned(), between.1.to_owned()),
        port,
        secured: secured.to_owned(),
        how: how.to_owned(),
        reason: reason.to_owned(),
    }
}

/// How the connections of a letter end for agents that carry them.
fn fate(how: char) -> (&'static str, &'static str) {
    match how {
        'R' => ("reset_by_source", ""),
        'A' => ("reset_by_destination", ""),
        'N' => ("refused", "dial_refused"),
        _ => ("clean", ""),
    }
}

/// What a client of ours says, as agents should have logged it.
fn expect(log: &mut Log, between: (&str, &str), secured: &str, reason: &str, counts: &BTreeMap<char, Sum>) {
    for (how, sum) in counts {
        let (how, refused) = fate(*how);
        let (port, secured, reason) =
            if refused.is_empty() { (PORT, secured, reason) } else { (NOBODY, "denied", refused) };
        log.entry(kind(between, port, secured, how, reason)).or_default().add(*sum);
    }
}

/// The same of curl.
fn expect_curl(log: &mut Log, between: (&str, &str), secured: &str, reason: &str, by: &BTreeMap<u16, Sum>) {
    let all = Sum::of(by.values().copied());
    log.entry(kind(between, 8080, secured, "clean", reason)).or_default().add(all);
}

/// Requests by class that curl had answered.
fn classes<'a>(all: impl IntoIterator<Item = &'a BTreeMap<u16, Sum>>) -> BTreeMap<Vec<String>, u64> {
    let mut classes = BTreeMap::new();
    for (status, sum) in all.into_iter().flatten() {
        *classes.entry(vec!["http1".to_owned(), format!("{}xx", status / 100)]).or_default() +=
            sum.connections;
    }
    classes
}

/// Whether nginx has counted exactly what these clients have: by client and status, its own bytes against theirs.
fn nginx_agrees(nginx: &Nginx, http1: &[(&str, &BTreeMap<u16, Sum>)], others: u64) {
    let mut expected: BTreeMap<(String, u16), Requests> = BTreeMap::new();
    for (client, by_status) in http1 {
        for (status, sum) in *by_status {
            let requests = expected.entry(((*client).to_owned(), *status)).or_default();
            requests.count += sum.connections;
            requests.received += sum.sent;
            requests.sent += sum.received;
        }
    }
    let connections = others + expected.values().map(|requests| requests.count).sum::<u64>();
    let (mut last, mut accepted) = (BTreeMap::new(), 0);
    eventually(Duration::from_secs(20), "nginx has written its log", || {
        let served = nginx.served()?;
        accepted = served.connections;
        let http1 = served.by_status.into_iter().filter(|((_, protocol, _), _)| protocol == "HTTP/1.1");
        last = http1.map(|((client, _, status), requests)| ((client, status), requests)).collect();
        Ok(last == expected)
    })
    .unwrap_or_else(|e| panic!("{e:#}: {last:#?}, not {expected:#?}"));
    assert_eq!(accepted, connections, "connections by stub_status");
}

/// Waits until an agent has told of the end of so many connections, and of no other.
fn over(house: &House, node: &Node, expected: u64) -> Metrics {
    let mut metrics = Metrics::of(node);
    eventually(Duration::from_secs(60), "all connections are told", || {
        metrics = Metrics::of(node);
        let open = metrics.total("lark_proxy_connections_open");
        Ok(open == 0 && metrics.total("lark_proxy_connections_ended_total") >= expected)
    })
    .unwrap_or_else(|e| {
        let ended = metrics.total("lark_proxy_connections_ended_total");
        panic!("{e:#}: {ended} of {expected} at {}\n{:#?}", node.name, house.one.json("edges").unwrap());
    });
    metrics
}

/// What `lark stat` says of requests: by direction.
fn stat(agent: &Agent) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for row in agent.json("stat").unwrap().as_array().unwrap() {
        *all.entry(row["direction"].as_str().unwrap().to_owned()).or_default() +=
            row["requests"].as_u64().unwrap();
    }
    all
}

#[test]
fn fifty_thousand_mixed_connections_are_the_same_to_both_agents_and_to_the_programs() {
    need("h2load", "nghttp2-client").unwrap();
    let mut house = House::with(&["--log-format", "json"]);
    let (far, away) = (house.plain(false, "far"), house.plain(true, "away"));
    house.capture();
    let (bed, client, server) = (&house.bed, &house.client, &house.server);
    let postgres = Postgres::start(bed, server).unwrap();
    let [at_server, at_client, at_far] = [server, client, &far].map(|pod| Nginx::start(bed, pod).unwrap());
    let ours = [server, client, &house.neighbour, &far].map(|pod| Server::start(bed, pod));

    // What an agent remembers of requests for `lark stat` is a minute, so this is compared first.
    let warm = Curl::start(bed, client, server, "index.html", 300).finish();
    for (agent, direction) in [(&house.one, "outbound"), (&house.two, "inbound")] {
        let mut last = BTreeMap::new();
        eventually(Duration::from_secs(20), "stat has them", || {
            last = stat(agent);
            Ok(last == BTreeMap::from([(direction.to_owned(), 300)]))
        })
        .unwrap_or_else(|e| panic!("{e:#}: {last:?} at {}", agent.node.name));
    }

    let address = server.ip.to_string();
    let bench = |arguments: &[&str]| {
        let mut command = client.place.command("pgbench");
        command.args(["-h", &address, "-U", "postgres"]).args(arguments).arg("postgres");
        client.place.start(command, &bed.directory().join("pgbench.log")).unwrap()
    };
    ended(&mut bench(&["-i", "-q", "-s", "1"]));
    // All at the same time, in both directions.
    let forth = Client::start(
        bed,
        client,
        server,
        &[('C', 9000), ('H', 3000), ('S', 3000), ('R', 1500), ('A', 1500), ('Z', 1000), ('N', 500)],
    );
    let back = Client::start(bed, server, client, &[('C', 4000), ('R', 500), ('A', 500), ('N', 200)]);
    let within = Client::start(bed, client, &house.neighbour, &[('C', 2000), ('R', 200), ('N', 100)]);
    // In plaintext the kernel counts what was acknowledged, which a reset keeps from being known.
    let out = Client::start(bed, client, &far, &[('C', 1500), ('H', 500), ('S', 500), ('Z', 200)]);
    let into = Client::start(bed, &away, server, &[('C', 1500), ('H', 500), ('S', 500), ('Z', 200)]);
    let asked = [("index.html", 6000), ("missing", 1500), ("unavailable", 500)]
        .map(|(path, times)| Curl::start(bed, client, server, path, times));
    let asked_back = Curl::start(bed, server, client, "who", 3000);
    let asked_out = Curl::start(bed, client, &far, "index.html", 2500);
    let asked_into = Curl::start(bed, &away, server, "index.html", 2500);
    let mut transactions = bench(&["-C", "-n", "-S", "-c", "8", "-t", "250"]);
    let mut h2 = client.place.command("h2load");
    h2.args(["-n", "4000", "-c", "40", "-m", "10", &format!("http://{address}:8082/index.html")]);
    let mut h2 = client.place.start(h2, &bed.directory().join("h2load.log")).unwrap();

    let said = ended(&mut transactions);
    assert!(said.contains("2000/2000"), "{said}");
    let h2_said = ended(&mut h2);
    assert!(h2_said.contains("4000 succeeded, 0 failed, 0 errored"), "{h2_said}");
    let (forth, back, within) = (forth.finish(), back.finish(), within.finish());
    let (out, into) = (out.finish(), into.finish());
    let [mut asked, missing, unavailable] = asked.map(Curl::finish);
    for more in [&warm, &missing, &unavailable] {
        more.iter().for_each(|(status, sum)| asked.entry(*status).or_default().add(*sum));
    }
    let (asked_back, asked_out, asked_into) = (asked_back.finish(), asked_out.finish(), asked_into.finish());
    let received = format!("connection received: host={} ", client.ip);
    let to_postgres = u64::try_from(postgres.log().matches(&received).count()).unwrap();
    assert!(to_postgres > 2000, "{to_postgres}");

    // The programs agree with each other.
    let served = |counts: &[&BTreeMap<char, Sum>]| {
        let reached = counts.iter().flat_map(|by| by.iter()).filter(|(how, _)| **how != 'N');
        Sum::of(reached.map(|(_, sum)| *sum))
    };
    let expected = [served(&[&forth, &into]), served(&[&back]), served(&[&within]), served(&[&out])];
    assert_eq!(ours.map(Server::finish), expected);
    let [client_ip, server_ip, away_ip] = [client.ip, server.ip, away.ip].map(|ip| ip.to_string());
    nginx_agrees(&at_server, &[(client_ip.as_str(), &asked), (away_ip.as_str(), &asked_into)], 40);
    nginx_agrees(&at_client, &[(server_ip.as_str(), &asked_back)], 0);
    nginx_agrees(&at_far, &[(client_ip.as_str(), &asked_out)], 0);

    // What the agents must have logged, but for bytes that PostgreSQL and h2load do not tell.
    let (to, from) = (("client", "server"), ("server", "client"));
    let (mut tunnel, mut tunnel_back, mut local) = (Log::new(), Log::new(), Log::new());
    let (mut plain_out, mut plain_in) = (Log::new(), Log::new());
    expect(&mut tunnel, to, "mtls", "", &forth);
    expect_curl(&mut tunnel, to, "mtls", "", &asked);
    expect(&mut tunnel_back, from, "mtls", "", &back);
    expect_curl(&mut tunnel_back, from, "mtls", "", &asked_back);
    expect(&mut local, ("client", "neighbour"), "same_node", "", &within);
    expect(&mut plain_out, ("client", "far"), "plaintext", "not_captured", &out);
    expect_curl(&mut plain_out, ("client", "far"), "plaintext", "not_captured", &asked_out);
    expect(&mut plain_in, ("away", "server"), "plaintext", "not_captured", &into);
    expect_curl(&mut plain_in, ("away", "server"), "plaintext", "not_captured", &asked_into);
    let count =
        |logs: &[&Log]| logs.iter().flat_map(|log| log.values()).map(|sum| sum.connections).sum::<u64>();
    let more = to_postgres + 40;
    let at_one = count(&[&tunnel, &tunnel_back, &local, &plain_out]) + more;
    let at_two = count(&[&tunnel, &tunnel_back, &plain_in]) + more;
    assert!(at_one + count(&[&plain_in]) >= 50_000, "only {at_one} and {}", count(&[&plain_in]));
    let metrics = [over(&house, &house.nodes.0, at_one), over(&house, &house.nodes.1, at_two)];
    let logs = [&house.one, &house.two].map(told::logged);

    // Both ends tell the same of what went through a tunnel, those of PostgreSQL and h2load to the byte too.
    let [one, two] = &logs;
    let apart = |log: &Log| -> (Log, Log) {
        log.clone().into_iter().partition(|(kind, _)| kind.secured == "plaintext")
    };
    let (told_out, mut carried) = apart(&one["outbound"]);
    let (told_in, carried_in) = apart(&two["inbound"]);
    assert_eq!(carried, carried_in);
    assert_eq!(two["outbound"], one["inbound"]);
    // And the same as the programs.
    let mut take = |port: u16, connections: u64| {
        let kind = kind(to, port, "mtls", "clean", "");
        let sum = carried.remove(&kind).unwrap_or_else(|| panic!("no {kind:?} in {carried:#?}"));
        assert_eq!(sum.connections, connections, "{kind:?}");
        sum.received
    };
    take(5432, to_postgres);
    let by_h2load = h2_said.split("traffic: ").nth(1).and_then(|rest| rest.split(['(', ')']).nth(1));
    assert_eq!(Some(take(8082, 40)), by_h2load.and_then(|bytes| bytes.parse().ok()), "{h2_said}");
    assert_eq!(carried, tunnel);
    assert_eq!(two["outbound"], tunnel_back);
    assert_eq!(told_out, plain_out);
    assert_eq!(told_in, plain_in);
    assert_eq!(one["local"], local);

    // Whichever way an agent is asked, it tells the same.
    for (number, (agent, log)) in [&house.one, &house.two].into_iter().zip(&logs).enumerate() {
        let (metrics, edges) = (&metrics[number], told::edges_of_log(log));
        assert_eq!(metrics.edges(), edges);
        assert_eq!(told::edges(agent), edges);
        let (mut ended, mut refused) = (BTreeMap::new(), BTreeMap::new());
        for (direction, kinds) in log {
            for (kind, sum) in kinds {
                *ended.entry(vec![direction.clone(), kind.how.clone()]).or_default() += sum.connections;
                if kind.how == "refused" {
                    let key = vec![direction.clone(), kind.reason.clone()];
                    *refused.entry(key).or_default() += sum.connections;
                }
            }
        }
        assert_eq!(metrics.by("lark_proxy_connections_ended_total", &["direction", "how"]), ended);
        assert_eq!(metrics.by("lark_proxy_connections_refused_total", &["direction", "reason"]), refused);
    }

    // So are protocols, of which PostgreSQL is known by its name alone.
    let known = metrics[0].by("lark_proxy_connections_recognised_total", &["direction", "protocol"]);
    for (protocol, count) in
        [("http1", asked.values().map(|sum| sum.connections).sum()), ("http2", 40), ("postgres", to_postgres)]
    {
        let key = vec!["outbound".to_owned(), protocol.to_owned()];
        assert_eq!(known.get(&key), Some(&count), "{protocol}: {known:?}");
    }
    // Requests by class are those that the programs had answered; what no agent carries has none.
    let mut requests = classes([&asked]);
    requests.insert(vec!["http2".to_owned(), "2xx".to_owned()], 4000);
    let told = |metrics: &Metrics, direction: &str| {
        let all = metrics.by("lark_proxy_requests_total", &["direction", "protocol", "status"]);
        let of = all.into_iter().filter(|(labels, _)| labels[0] == direction);
        of.map(|(labels, count)| (labels[1..].to_vec(), count)).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(told(&metrics[0], "outbound"), requests);
    assert_eq!(told(&metrics[1], "inbound"), requests);
    assert_eq!(told(&metrics[1], "outbound"), classes([&asked_back]));
    assert_eq!(told(&metrics[0], "inbound"), classes([&asked_back]));
}
