//! `lark bug-report`: what somebody else needs to understand this node, in one archive without secrets.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use lark_core::redact::redact;
use serde::Serialize;

use super::{Query, client, output};

/// What an agent is asked, and the file for the answer.
const ANSWERS: [(&str, &str); 13] = [
    ("/v1/status", "status.json"),
    ("/v1/check", "check.json"),
    ("/v1/workloads", "workloads.json"),
    ("/v1/services", "services.json"),
    ("/v1/connections", "connections.json"),
    ("/v1/edges", "edges.json"),
    ("/v1/requests?by=edge&seconds=60", "requests.json"),
    ("/v1/certs", "certs.json"),
    ("/v1/bpf", "bpf.json"),
    ("/v1/policies", "policies.json"),
    ("/v1/log", "log.json"),
    ("/metrics", "metrics.txt"),
    ("/v1/recent", "recent-log.txt"),
];

/// Most bytes that are taken of a file, its end.
const FILE_MAX: usize = 16 * 1024 * 1024;

/// What goes in, and where to.
#[derive(Debug, Clone, Args)]
pub struct BugReportArgs {
    /// The archive to write.
    ///
    /// Default lark-bug-report.tar in this directory. A file of that name is replaced.
    #[arg(short, long, value_name = "FILE", default_value = "lark-bug-report.tar")]
    pub file: PathBuf,
    /// A log to put in, its last 16 MiB; may be repeated.
    ///
    /// Default: none, since the agent's own last lines are in anyway. For example what `journalctl -u lark-agent` or `kubectl logs` says.
    #[arg(long, value_name = "FILE")]
    pub log: Vec<PathBuf>,
    /// Where to ask, and how to print.
    #[command(flatten)]
    pub query: Query,
}

/// A file of the archive.
#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    bytes: usize,
    /// Things that looked like secrets and were taken out.
    redacted: usize,
}

pub(super) async fn run(args: &BugReportArgs) -> anyhow::Result<ExitCode> {
    let mut files = vec![
        ("version.txt".to_owned(), format!("lark {}\n", env!("CARGO_PKG_VERSION"))),
        ("system.txt".to_owned(), system()),
    ];
    for (path, name) in ANSWERS {
        // That there is none says something too.
        let answer = client::text(&args.query.admin_socket, path).await;
        files.push((name.to_owned(), answer.unwrap_or_else(|error| format!("{error:#}\n"))));
    }
    for (number, path) in args.log.iter().enumerate() {
        let end = end_of(path).with_context(|| format!("{} cannot be read", path.display()))?;
        files.push((format!("log-{}.txt", number + 1), String::from_utf8_lossy(&end).into_owned()));
    }
    let entries =
        write(&args.file, &files).with_context(|| format!("{} cannot be written", args.file.display()))?;
    output::print(&entries, args.query.output, |entries| {
        let mut table = output::Table::new(&["FILE", "SIZE", "REDACTED"]);
        for Entry { name, bytes, redacted } in entries {
            let size = output::bytes(u64::try_from(*bytes).unwrap_or(u64::MAX));
            table.row(vec![name.clone(), size, redacted.to_string()]);
        }
        format!(
            "{}\n{} holds names, addresses and policies of this node; look through it before you send it on.\n",
            table.render(),
            args.file.display()
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The last [`FILE_MAX`] bytes of a file, however long it is; of a pipe too.
fn end_of(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::{Read, Seek, SeekFrom};
    let (mut file, most) = (std::fs::File::open(path)?, u64::try_from(FILE_MAX).unwrap_or(u64::MAX));
    // A shorter file, or a pipe, is read from where it begins.
    let _ = file.seek(SeekFrom::End(-i64::try_from(FILE_MAX).unwrap_or(i64::MAX)));
    let mut end = Vec::new();
    while file.by_ref().take(most).read_to_end(&mut end)? > 0 {
        end.drain(..end.len().saturating_sub(FILE_MAX));
    }
    Ok(end)
}

fn write(path: &Path, files: &[(String, String)]) -> anyhow::Result<Vec<Entry>> {
    use std::os::unix::fs::OpenOptionsExt;
    if path.exists() {
        std::fs::remove_file(path)?;
    }
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut archive = tar::Builder::new(file);
    let mut entries = Vec::new();
    for (name, text) in files {
        let (text, redacted) = redact(text);
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(text.len())?);
        header.set_mode(0o600);
        header.set_cksum();
        archive.append_data(&mut header, format!("lark-bug-report/{name}"), text.as_bytes())?;
        entries.push(Entry { name: name.clone(), bytes: text.len(), redacted });
    }
    archive.into_inner()?;
    Ok(entries)
}

/// What of the machine matters to Lark.
fn system() -> String {
    let read =
        |path: &str| std::fs::read_to_string(path).unwrap_or_else(|error| format!("{path}: {error}\n"));
    let mounts: String = read("/proc/mounts")
        .lines()
        .filter(|line| {
            ["cgroup", "bpf"].iter().any(|kind| line.split(' ').any(|field| field.starts_with(kind)))
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let btf = Path::new("/sys/kernel/btf/vmlinux").exists();
    let memory: String = read("/proc/meminfo").lines().take(3).map(|line| format!("{line}\n")).collect();
    format!("{}BTF: {btf}\nload: {}{memory}{mounts}", read("/proc/version"), read("/proc/loadavg"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_log_its_end_is_taken_however_long_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        for (length, kept) in [(0, 0), (100, 100), (FILE_MAX + 5, FILE_MAX)] {
            let text: Vec<u8> = (b'a'..=b'z').cycle().take(length).collect();
            std::fs::write(&path, &text).unwrap();
            assert!(end_of(&path).unwrap() == text[length - kept..], "{length}");
        }
    }
}
