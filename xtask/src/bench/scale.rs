//! `--scale`: a large cluster's snapshot, connects through the hooks, many pods on one node, many tunnels of one
//! worker.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use lark_testbed::{Agent, Controller, Mesh, Testbed};
use serde_json::{Map, Value, json};

use super::report::display;
use crate::process::resident;

/// Captured pods of one node, and the service accounts that they share.
const PODS: usize = 500;
const ACCOUNTS: usize = 20;

/// A figure, its unit and the most that it may be; nothing where it is only stated.
const FIGURES: [(&str, &str, Option<f64>); 34] = [
    ("load_s", "s to build a snapshot of 100,000 workloads, 10,000 Services and 5,000 nodes", Some(2.0)),
    ("bytes_a_workload", "bytes of it for each workload", Some(1024.0)),
    ("update_p50_ms", "ms from a replaced pod to the next snapshot and the kernel's changes", Some(1.0)),
    ("update_p99_ms", "ms, 99th percentile", None),
    ("route_p50_us", "µs for a route decision", None),
    ("route_p99_us", "µs, 99th percentile", Some(2.0)),
    ("policies", "policies of both kinds for the same cluster", None),
    ("policies_compile_s", "s to compile them for all workloads", None),
    ("policies_update_p50_ms", "ms from a replaced pod to the next snapshot with them", Some(1.0)),
    ("policies_update_p99_ms", "ms, 99th percentile", None),
    ("destinations", "mesh destinations, of 262,144 that fit", Some(262_144.0)),
    ("uncaptured_p50_ns", "ns for a connect of a pod without hooks", None),
    ("permissive_miss_p50_ns", "ns outside of the mesh, of a permissive pod", None),
    ("strict_miss_p50_ns", "ns outside of the cluster, of a strict pod", None),
    ("strict_refused_p50_ns", "ns of a connect that the hook of a strict pod refuses", None),
    ("permissive_miss_hook_ns", "ns of it in the hook", None),
    ("strict_miss_hook_ns", "ns of it in the hook", None),
    ("permissive_taken_hook_ns", "ns in the hook for a connect that is taken, of a permissive pod", None),
    ("direct_hook_ns", "ns in the hook for a connect that a verdict leaves to two pods of one node", None),
    ("second_line_ns", "ns in the second line for a segment that leaves a strict pod", None),
    ("strict_taken_hook_ns", "ns in the hook for a connect that is taken, of a strict pod", None),
    ("guard_refused_hook_ns", "ns in the look-up hook for plaintext that a strict pod refuses", None),
    ("capture_ms", "ms to capture a pod, of 500 on one node", Some(5.0)),
    ("agent_start_s", "s until an agent with 500 pods to capture is ready", Some(3.0)),
    ("agent_restart_s", "s until an agent that finds them captured is ready", Some(3.0)),
    ("agent_500_mib", "MiB of that agent", None),
    ("handshakes_at_once", "handshakes wanted at once after a restart", None),
    ("handshakes_failed", "of these lost", Some(0.0)),
    ("handshakes_s", "s until all are done and each has carried a connection", None),
    ("tunnels", "tunnels to 1,000 nodes, idle", None),
    ("kib_a_tunnel_dialling", "KiB for each at the dialling end", None),
    ("kib_a_tunnel_accepting", "KiB for each at the accepting end", None),
    ("idle_cpu_percent_dialling", "% of a core for all of them at the dialling end", None),
    ("idle_cpu_percent_accepting", "% of a core at the accepting end", None),
];

/// Measures everything and returns the figures.
///
/// # Errors
/// When something does not run.
pub(crate) fn run(lark: &Path, program: &Path) -> Result<Value> {
    let mut figures = object(&Command::new(program).arg("cluster").output()?.stdout)?;
    figures.extend(hooks(program)?);
    figures.extend(pods(lark)?);
    figures.extend(tunnels(program)?);
    Ok(Value::Object(figures))
}

/// The figures for people.
pub(crate) fn table(figures: &Value) -> String {
    let line = |(name, unit, most): &(&str, &str, Option<f64>)| {
        let value = figures[*name].as_f64()?;
        let mark = most.map(|most| {
            let most_text = if most == 0.0 { "0".to_owned() } else { display(most) };
            format!("  {} ≤ {most_text}", if value <= most { "✓" } else { "✗" })
        });
        Some(format!("{name:<28}{:>10}  {unit}{}", display(value), mark.unwrap_or_default()))
    };
    FIGURES.iter().filter_map(line).collect::<Vec<_>>().join("\n")
}

fn object(text: &[u8]) -> Result<Map<String, Value>> {
    serde_json::from_slice(text)
        .with_context(|| format!("lark-scale printed {:?}", String::from_utf8_lossy(text)))
}

/// Connects through the kernel's hooks, with and without what strict pods have more.
fn hooks(program: &Path) -> Result<Map<String, Value>> {
    let measured = Command::new("unshare").arg("--net").arg(program).arg("hooks").output()?;
    ensure!(measured.status.success(), "lark-scale hooks: {}", String::from_utf8_lossy(&measured.stderr));
    object(&measured.stdout)
}

/// Many pods on a node: namespaces with nothing but a loopback, and cgroups.
fn pods(lark: &Path) -> Result<Map<String, Value>> {
    let mut bed = Testbed::with_lark(lark)?;
    let one = bed.node("one")?;
    let cgroups = one.place.cgroup.parent().context("a cgroup without a parent")?.to_owned();
    let netns = |pod: usize| format!("{}-s{pod}", bed.name());
    batch((0..PODS).map(|pod| format!("netns add {}\n", netns(pod))))?;
    let mut workloads = Vec::new();
    for pod in 0..PODS {
        let address = format!("10.99.{}.{}", pod / 250, 1 + pod % 250);
        for arguments in ["link set lo up", &format!("address add {address}/32 dev lo")] {
            let made = Command::new("ip").args(["-n", &netns(pod)]).args(arguments.split(' ')).status()?;
            ensure!(made.success(), "ip {arguments} in {}", netns(pod));
        }
        let cgroup: PathBuf = cgroups.join(format!("scale-{pod}"));
        std::fs::create_dir(&cgroup).with_context(|| format!("make {}", cgroup.display()))?;
        workloads.push(json!({
            "namespace": "shop", "name": format!("pod-{pod}"), "account": format!("account-{}", pod % ACCOUNTS),
            "node": "one", "addresses": [address],
            "cgroup": cgroup, "networkNamespace": Path::new("/run/netns").join(netns(pod)),
        }));
    }
    let mut mesh = Mesh::new(&bed, &[&one], &[])?;
    let mut apart = one.clone();
    apart.place = bed.host_pod(&one, "controller")?.place;
    let controller = Controller::start(&bed, &apart, &[&one], &mesh)?;
    mesh.change(|document| document["workloads"] = json!(workloads))?;
    mesh.capture(true)?;
    let wanted = u64::try_from(PODS)?;
    let start = || -> Result<(Agent, f64)> {
        let began = Instant::now();
        let agent = Agent::start(&bed, &one, &controller, &mesh)?;
        agent.wait_captured(wanted)?;
        Ok((agent, began.elapsed().as_secs_f64()))
    };
    let (mut agent, first) = start()?;
    let memory = resident(agent.process.pid())?;
    let capture = captures(&agent.process.log())?;
    agent.process.kill();
    let (mut agent, again) = start()?;
    agent.process.stop()?;
    let figures = json!({
        "capture_ms": capture, "agent_start_s": first, "agent_restart_s": again, "agent_500_mib": memory,
    });
    figures.as_object().cloned().context("no object")
}

/// Milliseconds from one capture to the next, from the log: the first stands for its own beginning.
fn captures(log: &str) -> Result<f64> {
    let times: Vec<f64> =
        log.lines().filter(|line| line.contains(" captured pod=")).filter_map(seconds).collect();
    let (first, last) = (times.first().context("no capture")?, times.last().context("no capture")?);
    ensure!(times.len() >= PODS, "{} captures are in the log", times.len());
    Ok((last - first) * 1e3 / (times.len() - 1) as f64)
}

/// Seconds of the day of a log line, `2026-11-25T19:00:00.123456Z`.
fn seconds(line: &str) -> Option<f64> {
    let stamp = line.split_whitespace().next()?;
    let (_, clock) = stamp.split_once('T')?;
    let mut parts = clock.trim_end_matches('Z').splitn(3, ':').map(str::parse::<f64>);
    let (hour, minute, second) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    Some((hour * 60.0 + minute) * 60.0 + second)
}

fn batch(lines: impl Iterator<Item = String>) -> Result<()> {
    let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
    child.stdin.take().context("no pipe to ip")?.write_all(lines.collect::<String>().as_bytes())?;
    ensure!(child.wait()?.success(), "ip -batch failed");
    Ok(())
}

/// Two workers, many tunnels between them.
fn tunnels(program: &Path) -> Result<Map<String, Value>> {
    let keys = tempfile::tempdir()?;
    let mut accept =
        Command::new(program).arg("accept").arg("--keys").arg(keys.path()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(accept.stdout.take().context("no output of lark-scale")?).read_line(&mut line)?;
    let dialled = Command::new(program)
        .arg("dial")
        .arg("--keys")
        .arg(keys.path())
        .args(["--via", line.trim().trim_matches('"'), "--peer", &accept.id().to_string()])
        .output();
    let _ = accept.kill();
    let _ = accept.wait();
    let dialled = dialled?;
    ensure!(dialled.status.success(), "lark-scale dial: {}", String::from_utf8_lossy(&dialled.stderr));
    object(&dialled.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures_are_timed_by_the_log() {
        let line = |n: usize| {
            format!(
                "2026-11-25T19:59:{:02}.{:03}000Z  INFO lark::capture: captured pod=\"p\"\n",
                n / 250,
                n % 250 * 4
            )
        };
        let log: String = (0..PODS).map(line).collect();
        assert!((captures(&log).unwrap() - 4.0).abs() < 1e-6);
        assert!(captures("nothing").is_err());
    }

    #[test]
    fn what_is_missing_has_no_line_and_marks_are_judged() {
        let table = table(&json!({ "load_s": 1.5, "route_p99_us": 2.5, "handshakes_failed": 0 }));
        let marks: Vec<_> = table.lines().map(|line| (line.contains('✓'), line.contains('✗'))).collect();
        assert_eq!(marks, [(true, false), (false, true), (true, false)]);
    }
}
