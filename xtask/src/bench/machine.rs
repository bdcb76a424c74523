use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::{Args, Length};

/// What the figures depend on.
pub(crate) fn facts(args: &Args, aead: &Value, length: &Length) -> Value {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = text("/proc/cpuinfo");
    let field = |name: &str| {
        let line = cpu.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let has = |flag: &str| field("flags").is_some_and(|flags| flags.split(' ').any(|f| f == flag));
    let commit = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    json!({
        "kernel": text("/proc/sys/kernel/osrelease").trim(),
        "cpu": field("model name"),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "aes": has("aes"),
        "vaes": has("vaes"),
        "congestion": args.congestion,
        // What else ran in the minute before: a machine that was not quiet measures itself.
        "load_before": text("/proc/loadavg").split(' ').next().and_then(|load| load.parse::<f64>().ok()),
        "agent_flags": args.agent_flags,
        "cipher": aead["suite"],
        "aead": aead,
        "rounds": length.rounds,
        "seconds": length.time.as_secs_f64(),
        "turns": length.turns,
        "commit": commit.ok().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()),
    })
}

/// The same in a line.
pub(crate) fn line(facts: &Value) -> String {
    let text = |name: &str| facts[name].as_str().unwrap_or("?").to_owned();
    format!(
        "Linux {}, {} cores of {}, {}, congestion control {}, {} rounds of {} s in {} turns, commit {}, load before {}",
        text("kernel"),
        facts["cores"],
        text("cpu"),
        text("cipher"),
        text("congestion"),
        facts["rounds"],
        facts["seconds"],
        facts["turns"],
        text("commit"),
        facts["load_before"],
    )
}
