//! `cargo xtask demo`: the story of the README on this machine, with real programs: traffic in
//! plaintext, a label, the same traffic under mTLS, nothing restarted.

mod latency;
mod top;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lark_testbed::{
    Agent, Controller, Mesh, Nginx, Pod, Postgres, Running, Testbed, TwoNodes, Wire, eventually,
};
use serde_json::{Value, json};

use crate::install;
use crate::test;
use crate::web::Page;

/// Text in nginx's page; whoever sees it on the wire could read everything.
const CANARY: &str = "canary-of-lark";
/// Requests for one figure of latency.
const SAMPLES: usize = 60;

/// Flags.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write everything that was seen into this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Look at the page in a browser as well, with pictures of it in target/page (needs Chromium and Node.js).
    #[arg(long)]
    page: bool,
    /// Draw latency before and after the capture into this file, as SVG, instead of telling the story.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "page", "keep"])]
    latency: Option<PathBuf>,
    /// Draw what `lark top` shows while the three pods ask each other into this file, as SVG, instead of telling the
    /// story.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "page", "keep", "latency"])]
    top: Option<PathBuf>,
    /// Leave everything up until Enter is pressed, with hints what to type.
    #[arg(long)]
    keep: bool,
    /// Show this binary of lark instead of one built for release.
    #[arg(long, value_name = "FILE")]
    lark: Option<PathBuf>,
}

#[expect(clippy::print_stdout, reason = "xtask is a program for the terminal")]
fn tell(text: &str) {
    println!("{text}");
}

/// Runs the task. Everything it made is taken down at its end, at a failure and at Ctrl-C: by a process
/// of its own that waits for ours to end.
///
/// # Errors
/// When a step does not show what it should.
pub(crate) fn run(args: &Args) -> Result<()> {
    test::able()?;
    install::debian(&install::DEMO)?;
    let binary = args.lark.clone().map_or_else(|| test::lark(true), Ok)?;
    let began = Instant::now();
    let story = Story::set_up(binary)?;
    if let Some(file) = &args.latency {
        return story.draw(file);
    }
    if let Some(file) = &args.top {
        return story.watch(file);
    }
    let seen = story.play()?;
    tell(&format!("\n√ shown in {} s; nothing was restarted", began.elapsed().as_secs()));
    if let Some(file) = &args.json {
        fs::write(file, format!("{}\n", serde_json::to_string_pretty(&seen)?))
            .with_context(|| format!("{} cannot be written", file.display()))?;
        tell(&format!("  all of it is in {}", file.display()));
    }
    if args.page {
        let socket = story.controller.home().join("controller.sock");
        let environment = [("LARK_CONTROLLER_SOCKET", socket.as_path())];
        Page::ready(&test::metadata()?.workspace_root)?.tests("demo.test.js", &story.binary, &environment)?;
    }
    if args.keep {
        story.stay()?;
    }
    Ok(())
}

/// Two nodes with everything on them. Fields end in this order.
struct Story {
    client: Running,
    postgres: Postgres,
    nginx: Nginx,
    one: Agent,
    two: Agent,
    controller: Controller,
    mesh: std::cell::RefCell<Mesh>,
    web: Pod,
    db: Pod,
    ingress: Pod,
    binary: PathBuf,
    bed: Testbed,
}

impl Story {
    fn set_up(binary: PathBuf) -> Result<Self> {
        tell(
            "· two nodes, three pods, a controller and an agent on each node: namespaces and cgroups of this machine",
        );
        let mut bed = Testbed::with_lark(&binary)?;
        let (one, two) = (bed.node("one")?, bed.node("two")?);
        let ingress = bed.pod(&one, "ingress")?;
        let web = bed.pod(&two, "web")?;
        let db = bed.pod(&two, "db")?;
        let pods = [&ingress, &web, &db];
        let TwoNodes { one, two, controller, mesh, bed, .. } = TwoNodes::start(bed, (one, two), &pods, &[])?;
        tell("· real nginx in pod web, real PostgreSQL in pod db");
        let nginx = Nginx::start(&bed, &web)?;
        let postgres = Postgres::start(&bed, &db)?;
        tell("· a client in pod ingress that asks nginx ten times a second, from now to the end");
        let client = client(&bed, &ingress, &web)?;
        Ok(Self {
            client,
            postgres,
            nginx,
            one,
            two,
            controller,
            mesh: mesh.into(),
            web,
            db,
            ingress,
            binary,
            bed,
        })
    }

    fn play(&self) -> Result<Value> {
        let before = self.latency()?;
        let seen = self.on_the_wire()?;
        ensure!(seen > 0, "the wire shows no plaintext before the capture, so nothing would be proved");
        tell(&format!("· without Lark: \"{CANARY}\" was seen {seen} times on the wire between the nodes"));
        self.ask_postgres()?;

        tell("");
        let labelled = Instant::now();
        self.label()?;
        tell(&format!("· captured {} ms later; no process was restarted", labelled.elapsed().as_millis()));

        let leaked = self.on_the_wire()?;
        ensure!(leaked == 0, "{CANARY} was still seen {leaked} times on the wire");
        tell(&format!("· with Lark: \"{CANARY}\" was not seen on the wire any more"));
        self.ask_postgres()?;
        let after = self.latency()?;
        let who = self.curl("/who")?;
        ensure!(
            who.starts_with(&self.ingress.ip.to_string()),
            "nginx saw {who} instead of {}",
            self.ingress.ip
        );
        ensure!(
            self.nginx.access_log().contains(&self.ingress.ip.to_string()),
            "nginx's log lacks the client"
        );
        ensure!(
            self.postgres.log().contains(&format!("host={}", self.ingress.ip)),
            "PostgreSQL's log lacks the client"
        );
        tell(&format!("· nginx and PostgreSQL log the true client address, {}", self.ingress.ip));

        tell(&format!(
            "\n  node one                                   node two\n\
             \x20 ┌───────────────────┐                    ┌───────────────────┐\n\
             \x20 │ ingress {:<9} │    TLS 1.3, both   │ web     {:<9} │\n\
             \x20 │    └─ lark agent ═╪════ workloads ═════╪═ lark agent ─┤    │\n\
             \x20 │                   │       proved       │ db      {:<9} │\n\
             \x20 └───────────────────┘                    └───────────────────┘\n",
            self.ingress.ip.to_string(),
            self.web.ip.to_string(),
            self.db.ip.to_string()
        ));
        let edges = self.one.table(&["edges"])?;
        ensure!(edges.contains("√ mTLS"), "no edge is secured:\n{edges}");
        tell(&format!("$ lark edges\n{edges}"));
        let to = format!("{}:8080", self.web.ip);
        let trace = self.one.table(&["trace", "--from", "shop/ingress", "--to", &to])?;
        tell(&format!("$ lark trace --from shop/ingress --to {to}\n{trace}"));
        let check = self.one.lark(&["check"])?;
        ensure!(check.status.success(), "lark check: {}", String::from_utf8_lossy(&check.stdout));
        tell("$ lark check\n  nothing to complain about");
        tell(&format!(
            "\n· new connection and one request, median of {SAMPLES}: {} µs before, {} µs under mTLS",
            before.as_micros(),
            after.as_micros()
        ));
        let (answered, failed) = self.client_counts();
        tell(&format!("· the client that ran throughout: {answered} answers, {failed} failures"));
        ensure!(failed == 0, "the client that ran throughout saw failures:\n{}", self.client.log());
        Ok(json!({
            "canary": { "before": seen, "after": leaked },
            "latencyMicroseconds": { "before": before.as_micros(), "after": after.as_micros(), "samples": SAMPLES },
            "client": { "answers": answered, "failures": failed },
            "clientAddressSeen": who.split_whitespace().next(),
            "edges": { "one": self.one.json("edges")?, "two": self.two.json("edges")? },
            "check": { "one": self.one.json("check")?, "two": self.two.json("check")? },
            "trace": serde_json::from_str::<Value>(
                &self.one.table(&["trace", "--from", "shop/ingress", "--to", &to, "-o", "json"])?
            )?,
        }))
    }

    /// Asks all the time, sets the label in the middle, and draws how long each request took.
    fn draw(&self, file: &Path) -> Result<()> {
        let (half, rate) = (latency::SECONDS * latency::RATE, latency::RATE);
        let rate = format!("{rate}/s");
        let url = format!("http://{}:8080/?[1-{}]", self.web.ip, 2 * half);
        // Line by line, so that it is known which request the label met.
        let mut curl = self.ingress.place.command("stdbuf");
        curl.args(["-oL", "curl"]);
        curl.args([
            "-sS",
            "--rate",
            &rate,
            "-H",
            "Connection: close",
            "-w",
            latency::FORMAT,
            "-o",
            "/dev/null",
        ]);
        curl.arg(&url);
        let mut probe = self.ingress.place.start(curl, &self.bed.directory().join("latency.log"))?;
        let lines = |probe: &Running| probe.log().lines().count();
        let limit = Duration::from_secs(10 * u64::try_from(latency::SECONDS)?);
        eventually(limit, "half of the requests are done", || Ok(lines(&probe) >= half))?;
        let label = lines(&probe);
        self.label()?;
        eventually(limit, "the other half is done", || Ok(!probe.is_running()))?;
        let samples = latency::parse(&probe.log())?;
        let (before, after) = latency::medians(&samples, label).context("too few requests were answered")?;
        ensure!(self.one.table(&["edges"])?.contains("√ mTLS"), "no edge is secured");
        let caption = format!(
            "nginx on another node, {rate} on new connections; a line is of each second; blue: the label. Median {before:.0} µs before, {after:.0} µs under mTLS"
        );
        fs::write(file, latency::draw(&samples, label, &caption))
            .with_context(|| format!("{} cannot be written", file.display()))?;
        tell(&format!(
            "· median {before:.0} µs before, {after:.0} µs under mTLS; drawn into {}",
            file.display()
        ));
        Ok(())
    }

    /// Labels the namespace, and waits until all three pods are captured.
    fn label(&self) -> Result<()> {
        tell("· kubectl would say: label namespace shop lark.mesh/capture=enabled");
        self.mesh.borrow_mut().capture(true)?;
        self.one.wait_captured(1)?;
        self.two.wait_captured(2)
    }

    fn curl(&self, path: &str) -> Result<String> {
        let url = format!("http://{}:8080{path}", self.web.ip);
        self.ingress.place.run("curl", &["-sS", "--max-time", "10", &url])
    }

    /// How often the canary crosses the wire while a few requests are made.
    fn on_the_wire(&self) -> Result<usize> {
        let wire = Wire::listen(&self.bed)?;
        for _ in 0..5 {
            ensure!(self.curl("/")?.contains(CANARY), "nginx does not answer");
        }
        wire.count(CANARY)
    }

    fn ask_postgres(&self) -> Result<()> {
        let host = self.db.ip.to_string();
        let sum = self.ingress.place.run(
            "psql",
            &["-h", &host, "-U", "postgres", "-tAc", "select sum(i) from generate_series(1,1000) i"],
        )?;
        ensure!(sum.trim() == "500500", "PostgreSQL answered {sum}");
        tell("· psql in pod ingress asks PostgreSQL in pod db, and is answered");
        Ok(())
    }

    /// Median time of a new connection with one request.
    fn latency(&self) -> Result<Duration> {
        let url = format!("http://{}:8080/", self.web.ip);
        let mut times = Vec::new();
        for _ in 0..SAMPLES {
            let said = self
                .ingress
                .place
                .run("curl", &["-sS", "--max-time", "10", "-o", "/dev/null", "-w", "%{time_total}", &url])?;
            times.push(said.trim().parse::<f64>().context("curl tells no time")?);
        }
        times.sort_by(f64::total_cmp);
        Ok(Duration::from_secs_f64(times.get(SAMPLES / 2).copied().unwrap_or_default()))
    }

    fn client_counts(&self) -> (usize, usize) {
        let log = self.client.log();
        let answered = log.lines().filter(|l| *l == "200").count();
        (answered, log.lines().count() - answered)
    }

    fn stay(&self) -> Result<()> {
        let socket = self.one.socket();
        let lark = self.binary.display();
        tell(&format!(
            "\nEverything stays up until you press Enter. In another terminal:\n\
             \x20 {lark} edges --admin-socket {s}\n\
             \x20 {lark} connections --admin-socket {s}\n\
             \x20 {lark} check --admin-socket {s}\n\
             \x20 {lark} bpf --admin-socket {s}\n\
             \x20 {lark} dashboard --cluster --controller-socket {c}\n\
             \x20 nsenter --net={n} curl http://{w}:8080/who      (not in the pod's cgroup: plaintext, on purpose)\n\
             \x20 $EDITOR {m}      (take the label away and add it again)",
            s = socket.display(),
            c = self.controller.home().join("controller.sock").display(),
            n = self.ingress.place.netns.display(),
            w = self.web.ip,
            m = self.mesh.borrow().path().display(),
        ));
        std::io::stdin().read_line(&mut String::new())?;
        Ok(())
    }
}

/// One request after another, each a new connection; a line with the status for each.
fn client(bed: &Testbed, from: &Pod, to: &Pod) -> Result<Running> {
    let mut command = from.place.command("/bin/sh");
    command.args([
        "-c",
        "while :; do curl -s --max-time 5 -o /dev/null -w '%{http_code}\\n' \"$0\" || echo failed; sleep 0.1; done",
        &format!("http://{}:8080/", to.ip),
    ]);
    from.place.start(command, &bed.directory().join("client.log"))
}
