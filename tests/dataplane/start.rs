//! Things that are wrong at the start: each is one sentence that says what to do, and nothing stays attached.

use std::time::Duration;

use lark_testbed::{Agent, eventually};

use crate::house::House;

#[test]
fn what_is_wrong_at_the_start_is_one_sentence_and_nothing_stays_attached() {
    let house = House::new();
    let pins = || {
        let found = std::process::Command::new("find").arg(house.bed.pins(&house.nodes.0)).output().unwrap();
        String::from_utf8(found.stdout).unwrap()
    };
    let before = pins();
    assert!(before.lines().count() > 1, "{before}");
    let start = |arguments: &[&str]| {
        let mut command = Agent::command(&house.bed, &house.nodes.0, &house.controller, &house.mesh).unwrap();
        let output = command.args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let last = said.lines().last().unwrap_or_default().to_owned();
        assert!(last.starts_with("lark: "), "{said}");
        last
    };
    let said = start(&[]);
    assert!(said.contains("another agent answers on"), "{said}");
    let other = house.bed.directory().join("other.sock");
    let other = other.to_str().unwrap();
    let said = start(&["--admin-socket", other]);
    assert!(said.contains("cannot listen for metrics on 192.168.77.1:15020"), "{said}");
    let said = start(&["--admin-socket", other, "--metrics-listen", "192.168.77.1:15021"]);
    assert!(said.contains("cannot listen for tunnels on 192.168.77.1:15008"), "{said}");
    let said = start(&["--node", "nowhere"]);
    assert!(said.contains("node nowhere is not among the nodes"), "{said}");
    let said = start(&["--discovery", "file:/nonexistent.yaml"]);
    assert!(said.contains("/nonexistent.yaml"), "{said}");
    let said = start(&["--ca-root", "/nonexistent.pem"]);
    assert!(said.contains("the root certificates /nonexistent.pem cannot be read"), "{said}");
    assert_eq!(pins(), before);
    assert_eq!(house.one.json("bpf").unwrap()["links"], serde_json::json!([]));
}

#[test]
fn an_agent_that_starts_again_has_every_pod_before_it_is_ready() {
    let mut house = House::captured();
    for _ in 0..5 {
        house.one.process.kill();
        house.one = Agent::start(&house.bed, &house.nodes.0, &house.controller, &house.mesh).unwrap();
        // At once, without waiting: it said that it is ready.
        let pods = house.one.json("status").unwrap()["pods"].clone();
        assert_eq!(pods, serde_json::json!([{ "state": "captured", "count": 2 }]), "{}", house.logs());
        let check = house.one.lark(&["check"]).unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    }
}

#[test]
fn a_bad_file_and_a_missing_cgroup_are_named() {
    let mut house = House::new();
    // A file that is no mesh, at the start.
    let bad = house.bed.directory().join("bad.yaml");
    std::fs::write(&bad, "mesh: {}\nnodes:\n  - name: one\n    adresses: []\n").unwrap();
    let mut command = Agent::command(&house.bed, &house.nodes.0, &house.controller, &house.mesh).unwrap();
    let output = command.arg(format!("--discovery=file:{}", bad.display())).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("bad.yaml:4:5: ") && said.contains("adresses"), "{said}");
    // A workload whose cgroup is not there.
    house.mesh.change(|document| document["workloads"][1]["cgroup"] = "lark-no-such-cgroup".into()).unwrap();
    house.mesh.capture(true).unwrap();
    house.one.wait_captured(1).unwrap();
    let check = house.one.lark(&["check"]).unwrap();
    assert!(!check.status.success());
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(
        said.contains("shop/neighbour") && said.contains("lark-no-such-cgroup cannot be opened"),
        "{said}"
    );
}

#[test]
fn a_clock_that_is_off_is_named_as_the_cause() {
    lark_testbed::need("faketime", "faketime").unwrap();
    let mut record = lark_testbed::Record::of("clock of the node off by 30 h and by -2 h").unwrap();
    let mut house = House::new();
    for (off, sentence) in [("+30h", "expired since 6 hours"), ("-2h", "valid only in 117 minutes")] {
        house.one.process.kill();
        let mut command = Agent::command(&house.bed, &house.nodes.0, &house.controller, &house.mesh).unwrap();
        // The loader puts the machine's library directory for $LIB.
        command.env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketime.so.1");
        command.env("FAKETIME", off).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        house.one.process =
            house.nodes.0.place.start(command, &house.bed.directory().join("off.log")).unwrap();
        house.mesh.capture(true).unwrap();
        eventually(Duration::from_secs(20), "check names the clock", || {
            let check = house.one.lark(&["check"])?;
            let said = String::from_utf8_lossy(&check.stdout).into_owned();
            anyhow::ensure!(
                !check.status.success() && said.contains(sentence),
                "{said}\n{}",
                house.one.process.log()
            );
            Ok(true)
        })
        .unwrap();
        record.injected(1);
    }
    record.write("2 of 2 named by `lark check`, with how far the clock is off").unwrap();
}

/// Becomes the program in its arguments with one system call, or one of its commands, taken away, as on a
/// kernel that was built without it. Arguments: number of bpf()'s command or -1 for all, error, program.
const WITHOUT: &str = r"
import ctypes, os, platform, struct, sys
command, error = int(sys.argv[1]), int(sys.argv[2])
number = {'x86_64': 321, 'aarch64': 280}[platform.machine()]
rule = lambda code, yes, no, k: struct.pack('HBBI', code, yes, no, k)
rules = [rule(0x20, 0, 0, 0), rule(0x15, 0, 3 if command >= 0 else 1, number)]
if command >= 0: rules += [rule(0x20, 0, 0, 16), rule(0x15, 0, 1, command)]
rules += [rule(0x06, 0, 0, 0x50000 | error), rule(0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b''.join(rules))
program = ctypes.create_string_buffer(struct.pack('HxxxxxxQ', len(rules), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(22, 2, ctypes.c_ulong(ctypes.addressof(program)), 0, 0) == 0, ctypes.get_errno()
os.execvp(sys.argv[3], sys.argv[3:])
";

#[test]
fn a_kernel_that_lacks_a_feature_is_told_and_nothing_stays_attached() {
    let mut house = House::new();
    house.one.process.stop().unwrap();
    let pins = house.bed.pins(&house.nodes.0);
    std::fs::remove_dir_all(&pins).unwrap();
    let start = |by: &[&str]| {
        let right = Agent::command(&house.bed, &house.nodes.0, &house.controller, &house.mesh).unwrap();
        let output =
            house.nodes.0.place.command(by[0]).args(&by[1..]).args(right.get_args().skip(4)).output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let links = std::process::Command::new("find").arg(&pins).args(["-name", "*sock*"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&links.stdout), "", "left pinned");
        let last = said.lines().last().unwrap_or_default().to_owned();
        assert!(last.starts_with("lark: "), "{said}");
        last
    };
    let no_btf = "mount -t tmpfs none /sys/kernel/btf && exec \"$@\"";
    let said = start(&["unshare", "--mount", "--propagation", "private", "sh", "-c", no_btf, "sh"]);
    assert!(said.contains("no BTF") && said.contains("CONFIG_DEBUG_INFO_BTF"), "{said}");
    // ENOSYS for all of bpf(), as without CONFIG_BPF_SYSCALL.
    let said = start(&["python3", "-c", WITHOUT, "-1", "38"]);
    assert!(said.contains("CONFIG_BPF_SYSCALL"), "{said}");
    // EINVAL for BPF_LINK_CREATE, as before Linux 5.7.
    let said = start(&["python3", "-c", WITHOUT, "28", "22"]);
    assert!(said.contains("Linux 5.18"), "{said}");
}
