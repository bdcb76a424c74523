//! Sockets that are not a pod's own, and pods that share their node's network.

use lark_testbed::{Agent, Controller, Mesh, Nginx, Testbed, Wire};

use crate::house::House;

/// Makes a socket in the first cgroup and uses it in the second.
const PASSED: &str = r"
import os, socket, sys
made, used, host = sys.argv[1:4]
def move(cgroup): open(cgroup + '/cgroup.procs', 'w').write(str(os.getpid()))
move(made)
s = socket.socket()
move(used)
s.settimeout(20)
s.connect((host, 8080))
s.sendall(b'GET /who HTTP/1.0\r\n\r\ncanary-of-lark')
data = b''
while True:
    part = s.recv(4096)
    if not part: break
    data += part
print(data.decode().rsplit('\r\n\r\n')[1].split()[0])
";

#[test]
fn a_socket_belongs_to_the_pod_that_made_it() {
    let house = House::captured();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    let (pod, outside) = (house.client.place.cgroup.clone(), house.nodes.0.place.cgroup.clone());
    let run = |made: &std::path::Path, used: &std::path::Path| {
        let arguments =
            ["-c", PASSED, made.to_str().unwrap(), used.to_str().unwrap(), &house.server.ip.to_string()];
        house.client.place.run("python3", &arguments).unwrap_or_else(|e| panic!("{e:#}\n{}", house.logs()))
    };
    let wire = Wire::listen(&house.bed).unwrap();
    assert_eq!(run(&pod, &outside).trim(), house.client.ip.to_string());
    assert_eq!(wire.count("canary-of-lark").unwrap(), 0, "made inside and used outside, it leaked");
    // Made outside and passed in is not captured, which docs/limits.md says.
    let wire = Wire::listen(&house.bed).unwrap();
    run(&outside, &pod);
    assert!(wire.count("canary-of-lark").unwrap() > 0);
}

#[test]
fn two_pods_on_the_host_network_are_told_apart() {
    let mut bed = Testbed::new().unwrap();
    let (one, two) = (bed.node("one").unwrap(), bed.node("two").unwrap());
    let (red, blue) = (bed.host_pod(&one, "red").unwrap(), bed.host_pod(&one, "blue").unwrap());
    let server = bed.pod(&two, "server").unwrap();
    let mut mesh = Mesh::new(&bed, &[&one, &two], &[&red, &blue, &server]).unwrap();
    let controller = Controller::start(&bed, &one, &[&one, &two], &mesh).unwrap();
    let a = Agent::start(&bed, &one, &controller, &mesh).unwrap();
    let b = Agent::start(&bed, &two, &controller, &mesh).unwrap();
    let _nginx = Nginx::start(&bed, &server).unwrap();
    mesh.capture(true).unwrap();
    a.wait_captured(2).unwrap();
    b.wait_captured(1).unwrap();
    let wire = Wire::listen(&bed).unwrap();
    let url = format!("http://{}:8080/who", server.ip);
    for pod in [&red, &blue] {
        let who = pod
            .place
            .run("curl", &["-sS", "--max-time", "20", "-H", "canary: canary-of-lark", &url])
            .unwrap_or_else(|e| panic!("{e:#}\n{}\n{}", a.process.log(), b.process.log()));
        assert_eq!(who, format!("{} {}\n", one.ip, server.ip));
    }
    assert_eq!(wire.count("canary-of-lark").unwrap(), 0);
    let edges = b.json("edges").unwrap();
    let mut sources: Vec<&str> =
        edges.as_array().unwrap().iter().map(|e| e["source"]["identity"].as_str().unwrap()).collect();
    sources.sort_unstable();
    assert_eq!(sources, ["spiffe://cluster.local/ns/shop/sa/blue", "spiffe://cluster.local/ns/shop/sa/red"]);
}
