//! Real servers in pods.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::bed::{Pod, Testbed};
use crate::place::{Place, Running, eventually};

const READY: Duration = Duration::from_secs(30);

/// Makes sure that a program is there.
///
/// # Errors
/// A sentence that names Debian's package.
pub fn need(program: &str, package: &str) -> Result<()> {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output()?;
    if !found.status.success() {
        bail!(
            "{program} is missing: install Debian's package {package}, or run `cargo xtask test`, which does"
        );
    }
    Ok(())
}

/// nginx in a pod, on port 8080 of both families, and 8082 for HTTP/2 without TLS, with `files` as its root; takes
/// files by PUT below /put/.
#[derive(Debug)]
pub struct Nginx {
    /// Where files are served from.
    pub files: PathBuf,
    access: PathBuf,
    counts: PathBuf,
    place: Place,
    /// Connections that it had accepted when it was ready, and since then for its own account of them.
    own: AtomicU64,
    _process: Running,
}

/// What nginx itself says that it has served, since it was ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Served {
    /// Connections, by stub_status.
    pub connections: u64,
    /// By its log: requests by client, protocol and status, and their bytes.
    pub by_status: BTreeMap<(String, String, u16), Requests>,
}

/// Some requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// How many.
    pub count: u64,
    /// Bytes of the requests.
    pub received: u64,
    /// Bytes of the responses.
    pub sent: u64,
}

impl Nginx {
    /// Starts one.
    ///
    /// # Errors
    /// When it does not come up; with its log.
    pub fn start(bed: &Testbed, pod: &Pod) -> Result<Self> {
        Self::with(bed, pod, "location /put/ { dav_methods PUT; create_full_put_path on; }")
    }

    /// Starts one that asks another server, as an ingress does; but for /who and /up, which it answers itself.
    ///
    /// # Errors
    /// When it does not come up; with its log.
    pub fn before(bed: &Testbed, pod: &Pod, upstream: SocketAddr) -> Result<Self> {
        Self::with(bed, pod, &format!("location / {{ proxy_pass http://{upstream}; }}"))
    }

    fn with(bed: &Testbed, pod: &Pod, location: &str) -> Result<Self> {
        need("nginx", "nginx")?;
        let home = bed.directory().join(format!("nginx-{}", pod.name));
        let files = home.join("files");
        std::fs::create_dir_all(&files)?;
        std::fs::write(files.join("index.html"), "canary-of-lark\n")?;
        let configuration = format!(
            "worker_processes 1;\nerror_log {h}/error.log;\npid {h}/pid;\nuser root;\n\
             events {{ worker_connections 4096; }}\n\
             http {{\n  access_log {h}/access.log;\n\
             log_format counts '$remote_addr $server_protocol $status $request_length $bytes_sent';\n\
             access_log {h}/counts.log counts;\n  default_type text/plain;\n  keepalive_requests 100000;\n  keepalive_timeout 600;\n\
             client_body_temp_path {h}/tmp; proxy_temp_path {h}/tmp; fastcgi_temp_path {h}/tmp; uwsgi_temp_path {h}/tmp; scgi_temp_path {h}/tmp;\n\
             client_max_body_size 0;\n\
             server {{\n    listen 8080;\n    listen [::]:8080;\n    listen 8082 http2;\n    listen [::]:8082 http2;\n    root {h}/files;\n\
             {location}\n\
             location = /up {{ access_log off; return 204; }}\n\
             location = /status {{ access_log off; stub_status; }}\n\
             location = /unavailable {{ return 503; }}\n\
             location /who {{ return 200 \"$remote_addr $server_addr\\n\"; }}\n  }}\n}}\n",
            h = home.display()
        );
        std::fs::write(home.join("nginx.conf"), configuration)?;
        let mut command = pod.place.command("nginx");
        command.args(["-g", "daemon off;", "-c"]).arg(home.join("nginx.conf"));
        let mut process = pod.place.start(command, &home.join("log"))?;
        eventually(READY, "nginx answers", || {
            if !process.is_running() {
                bail!("nginx ended: {}", process.log());
            }
            Ok(pod.place.output("curl", &["-sf", "http://127.0.0.1:8080/up"])?.status.success())
        })?;
        let nginx = Self {
            files,
            access: home.join("access.log"),
            counts: home.join("counts.log"),
            place: pod.place.clone(),
            own: AtomicU64::new(0),
            _process: process,
        };
        nginx.own.store(nginx.accepted()?, Ordering::Relaxed);
        Ok(nginx)
    }

    /// Connections that it has accepted, the one that asks among them.
    fn accepted(&self) -> Result<u64> {
        let said = self.place.run("curl", &["-sSf", "http://127.0.0.1:8080/status"])?;
        let line = said.lines().nth(2).context("stub_status has no third line")?;
        Ok(line.split_whitespace().next().context("stub_status has no number of connections")?.parse()?)
    }

    /// What it says that it has served. A line of its log comes after the answer.
    ///
    /// # Errors
    /// When it does not answer, or its log is no log of it.
    pub fn served(&self) -> Result<Served> {
        let asked = self.own.fetch_add(1, Ordering::Relaxed) + 1;
        let mut served = Served { connections: self.accepted()?.saturating_sub(asked), ..Served::default() };
        for line in std::fs::read_to_string(&self.counts)?.lines() {
            let [client, protocol, status, received, sent] = line.split(' ').collect::<Vec<_>>()[..] else {
                bail!("a line of nginx's log has other fields: {line}");
            };
            let key = (client.to_owned(), protocol.to_owned(), status.parse()?);
            let requests = served.by_status.entry(key).or_default();
            requests.count += 1;
            requests.received += received.parse::<u64>()?;
            requests.sent += sent.parse::<u64>()?;
        }
        Ok(served)
    }

    /// Waits until its access log has the text: it writes a line after the answer.
    ///
    /// # Errors
    /// When it does not within ten seconds; with the log.
    pub fn logged(&self, text: &str) -> Result<()> {
        eventually(Duration::from_secs(10), "the request is in the log", || {
            Ok(self.access_log().contains(text))
        })
        .with_context(|| self.access_log())
    }

    /// Its access log.
    pub fn access_log(&self) -> String {
        std::fs::read_to_string(&self.access).unwrap_or_default()
    }
}

/// PostgreSQL in a pod, on port 5432 of both families; user and database `postgres`, no password.
#[derive(Debug)]
pub struct Postgres {
    log: PathBuf,
    process: Running,
}

impl Postgres {
    /// Starts one with a fresh cluster.
    ///
    /// # Errors
    /// When it does not come up; with its log.
    pub fn start(bed: &Testbed, pod: &Pod) -> Result<Self> {
        let programs = std::fs::read_dir("/usr/lib/postgresql")
            .ok()
            .and_then(|mut versions| versions.next())
            .and_then(Result::ok)
            .map(|version| version.path().join("bin"))
            .context("PostgreSQL is missing: install Debian's package postgresql, or run `cargo xtask test`, which does")?;
        let home = bed.directory().join(format!("postgres-{}", pod.name));
        std::fs::create_dir_all(&home)?;
        let run = |arguments: &[&str]| -> Result<()> {
            let output = Command::new("runuser").args(["-u", "postgres", "--"]).args(arguments).output()?;
            if !output.status.success() {
                bail!("{}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
            }
            Ok(())
        };
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        Command::new("chown").arg("postgres").arg(&home).status()?;
        let data = text(home.join("data"));
        run(&[
            &text(programs.join("initdb")),
            "-D",
            &data,
            "-A",
            "trust",
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
        ])?;
        std::fs::write(home.join("data/pg_hba.conf"), "local all all trust\nhost all all all trust\n")?;
        let mut command = pod.place.command("runuser");
        command.args(["-u", "postgres", "--"]).arg(programs.join("postgres")).args([
            "-D",
            &data,
            "-c",
            "listen_addresses=*",
            "-c",
            "port=5432",
            "-c",
            &format!("unix_socket_directories={}", home.display()),
            "-c",
            "fsync=off",
            "-c",
            "log_connections=on",
            "-c",
            "shared_buffers=32MB",
            "-c",
            "max_connections=200",
        ]);
        let log = home.join("log");
        let mut process = pod.place.start(command, &log)?;
        eventually(READY, "PostgreSQL answers", || {
            if !process.is_running() {
                bail!("PostgreSQL ended: {}", process.log());
            }
            let ready = ["-h", "127.0.0.1", "-U", "postgres", "-tc", "select 1"];
            Ok(pod.place.output("psql", &ready)?.status.success())
        })?;
        Ok(Self { log, process })
    }

    /// Its log, with a line for each connection.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// redis in a pod, on port 6379, IPv4; keeps nothing on disk.
#[derive(Debug)]
pub struct Redis {
    _process: Running,
}

impl Redis {
    /// Starts one.
    ///
    /// # Errors
    /// When it does not come up; with its log.
    pub fn start(bed: &Testbed, pod: &Pod) -> Result<Self> {
        need("redis-server", "redis-server")?;
        need("redis-cli", "redis-tools")?;
        let mut command = pod.place.command("redis-server");
        command.args(["--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""]);
        let mut process =
            pod.place.start(command, &bed.directory().join(format!("redis-{}.log", pod.name)))?;
        eventually(READY, "redis answers", || {
            if !process.is_running() {
                bail!("redis ended: {}", process.log());
            }
            Ok(pod.place.output("redis-cli", &["ping"])?.stdout == b"PONG\n")
        })?;
        Ok(Self { _process: process })
    }
}
