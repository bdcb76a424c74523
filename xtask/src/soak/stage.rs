use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lark_testbed::{
    Agent, Checked, Echo, Load, Nginx, Node, Pod, Postgres, Redis, Running, Testbed, TwoNodes, eventually,
};

use super::judge::{Kind, Rest, Sample, Tally};
use super::sample;
use super::traffic::{DOWNLOAD, PGBENCH, REDIS, Rounds};

/// What a download has.
const PAGE: usize = 3_000_000;
/// Life of the certificates, in seconds: the least that agents take.
const SVID_LIFE: &str = "60";
/// Pods of the second node that stay.
const STAYING: u64 = 5;

/// Everything. Fields end in this order.
#[derive(Debug)]
pub(crate) struct Stage {
    rounds: Vec<(&'static str, Rounds)>,
    echoes: Vec<(&'static str, Checked)>,
    /// What the echoes saw, once they have ended.
    ended: BTreeMap<&'static str, Tally>,
    _servers: (Nginx, Postgres, Redis, Echo, Echo),
    /// Agents of the second node that another one took over from.
    draining: Vec<Running>,
    two: TwoNodes,
    pods: Pods,
    lives: u64,
    page: (String, String),
    flags: Vec<String>,
    words: Vec<String>,
}

/// The pods that stay.
#[derive(Debug)]
struct Pods {
    client: Pod,
    home: Pod,
    web: Pod,
    db: Pod,
    cache: Pod,
    far: Pod,
    back: Pod,
}

impl Stage {
    /// Everything runs and is captured, nobody asks for anything yet.
    pub(crate) fn set_up(binary: &Path) -> Result<Self> {
        let mut bed = Testbed::with_lark(binary)?;
        let (one, two) = (bed.node("one")?, bed.node("two")?);
        let pods = Pods {
            client: bed.pod(&one, "client")?,
            home: bed.pod(&one, "home")?,
            web: bed.pod(&two, "web")?,
            db: bed.pod(&two, "db")?,
            cache: bed.pod(&two, "cache")?,
            far: bed.pod(&two, "far")?,
            back: bed.pod(&two, "back")?,
        };
        // A line a connection would fill the disk in an hour.
        let flags = ["--svid-life", SVID_LIFE, "--log", "info,access=off"].map(str::to_owned).to_vec();
        let Pods { client, home, web, db, cache, far, back } = &pods;
        let all = [client, home, web, db, cache, far, back];
        let mut two = TwoNodes::start(bed, (one, two), &all, &flags)?;
        let nginx = Nginx::start(&two.bed, web)?;
        let body: String = (0..PAGE / 10).map(|line| format!("{line:09}\n")).collect();
        std::fs::write(nginx.files.join("page"), body)?;
        let sum =
            Command::new("sh").args(["-c", "sha256sum <\"$0\""]).arg(nginx.files.join("page")).output()?;
        let sum = String::from_utf8(sum.stdout)?.trim().to_owned();
        let servers = (
            nginx,
            Postgres::start(&two.bed, db)?,
            Redis::start(&two.bed, cache)?,
            Echo::start(&two.bed, far)?,
            Echo::start(&two.bed, home)?,
        );
        let host = db.ip.to_string();
        client.place.run("pgbench", &["-i", "-q", "-s", "1", "-h", &host, "-U", "postgres", "postgres"])?;
        two.mesh.capture(true)?;
        two.one.wait_captured(2)?;
        two.two.wait_captured(STAYING)?;
        let page = (format!("http://{}:8080/page", web.ip), sum);
        Ok(Self {
            rounds: Vec::new(),
            echoes: Vec::new(),
            ended: BTreeMap::new(),
            _servers: servers,
            draining: Vec::new(),
            two,
            pods,
            lives: 0,
            page,
            flags,
            words: Vec::new(),
        })
    }

    /// Clients begin.
    pub(crate) fn begin_traffic(&mut self) -> Result<()> {
        let Pods { client, home, db, cache, far, back, .. } = &self.pods;
        let (bed, directory) = (&self.two.bed, self.two.bed.directory());
        let bytes = u64::try_from(PAGE)?;
        let mut rounds = |name, round, arguments: &[&str], bytes| -> Result<()> {
            self.rounds.push((name, Rounds::start(&client.place, directory, name, round, arguments, bytes)?));
            Ok(())
        };
        let (url, sum) = (self.page.0.as_str(), self.page.1.as_str());
        rounds("downloads", DOWNLOAD, &[url, sum], bytes)?;
        rounds("pgbench", PGBENCH, &[&db.ip.to_string()], 0)?;
        rounds("redis", REDIS, &[&cache.ip.to_string()], 40_000)?;
        // Shorter than an agent drains, however slow the machine is.
        let load = Load {
            long: 2,
            short: 2,
            pause: Duration::from_millis(20),
            life: Some(Duration::from_secs(8)),
            ..Load::default()
        };
        self.echoes.push(("echo", Checked::start(bed, client, far.ip, load)?));
        self.echoes.push(("echo back", Checked::start(bed, back, home.ip, load)?));
        Ok(())
    }

    /// A pod comes, is captured, asks for a page, and goes.
    pub(crate) fn pod_life(&mut self, tally: &mut Tally) -> Result<()> {
        self.lives += 1;
        let is_first = self.lives.is_multiple_of(2);
        let node: Node = if is_first { self.two.nodes.0.clone() } else { self.two.nodes.1.clone() };
        let pod = self.two.bed.pod(&node, &format!("life{}", self.lives))?;
        let new = std::slice::from_ref(&pod);
        self.two.mesh.replace(&[], new, "life")?;
        let agent = if is_first { &self.two.one } else { &self.two.two };
        let asked = eventually(Duration::from_secs(20), "a new pod is captured", || is_captured(agent, &pod))
            .and_then(|()| {
                let url = self.page.0.replace("/page", "/");
                pod.place.run("curl", &["-sS", "--max-time", "20", &url])
            });
        match asked {
            Ok(page) if page == "canary-of-lark\n" => tally.good += 1,
            Ok(page) => {
                tally.wrong += 1;
                self.words.push(format!("pod {}: {page}", pod.name));
            }
            Err(error) => {
                tally.failed += 1;
                self.words.push(format!("pod {}: {error:#}", pod.name));
            }
        }
        self.two.mesh.replace(new, &[], "life")?;
        self.two.bed.end(&node, &pod)
    }

    /// Something happens to the second node's agent; it is over when the next one carries everything.
    pub(crate) fn agent(&mut self, kind: Kind) -> Result<()> {
        let TwoNodes { two, controller, mesh, nodes, bed, .. } = &mut self.two;
        match kind {
            Kind::Upgrade => self.draining.push(two.succeed(bed, controller, mesh, &self.flags)?),
            Kind::Kill => {
                two.process.kill();
                *two = Agent::start_with(bed, &nodes.1, controller, mesh, &self.flags)?;
            }
        }
        self.draining.retain_mut(Running::is_running);
        self.two.two.wait_captured(STAYING)
    }

    /// A look at everything.
    pub(crate) fn sample(&self, at: f64, pods: &Tally) -> Result<Sample> {
        let mut held = BTreeMap::new();
        let TwoNodes { one, two, controller, .. } = &self.two;
        for (name, process) in
            [("agent one", &one.process), ("agent two", &two.process), ("controller", &controller.process)]
        {
            held.insert(name, sample::held(process.pid())?);
        }
        let mut traffic = self.ended.clone();
        for (name, rounds) in &self.rounds {
            traffic.insert(name, rounds.tally()?);
        }
        for (name, echo) in &self.echoes {
            traffic.insert(name, tally(echo.seen()?));
        }
        traffic.insert("pods", *pods);
        let mut entries = sample::entries(one)?;
        for (map, count) in sample::entries(two)? {
            *entries.entry(map).or_insert(0) += count;
        }
        Ok(Sample { at, held, entries, traffic })
    }

    /// Clients finish what they are at.
    pub(crate) fn end_traffic(&mut self) -> Result<()> {
        self.rounds.iter_mut().try_for_each(|(_, rounds)| rounds.end())?;
        for (name, echo) in self.echoes.drain(..) {
            self.ended.insert(name, tally(echo.finish()?));
        }
        Ok(())
    }

    /// What is there while nothing happens.
    pub(crate) fn at_rest(&self) -> Result<Rest> {
        let TwoNodes { one, two, bed, .. } = &self.two;
        let mut rest = Rest::default();
        for agent in [one, two] {
            rest.pins += sample::files(&bed.pins(&agent.node))?;
            for (map, count) in sample::entries(agent)? {
                *rest.entries.entry(map).or_insert(0) += count;
            }
            rest.complaints.extend(sample::complaints(agent)?);
        }
        rest.links = usize::try_from(rest.entries.remove(sample::LINKS).unwrap_or_default())?;
        let of_bed = format!("{}-", bed.name());
        let namespaces = std::fs::read_dir("/run/netns")?.filter_map(Result::ok);
        rest.namespaces =
            namespaces.filter(|entry| entry.file_name().to_string_lossy().starts_with(&of_bed)).count();
        Ok(rest)
    }

    /// What is there once everything has ended, as soon as it is as it was, or after a while.
    pub(crate) fn after(&mut self, before: &Rest) -> Result<Rest> {
        let drained = eventually(Duration::from_secs(40), "agents that drain end", || {
            self.draining.retain_mut(Running::is_running);
            Ok(self.draining.is_empty())
        });
        let mut rest = Rest::default();
        // The judge says what differs.
        let _ = eventually(Duration::from_secs(20), "everything is as before", || {
            rest = self.at_rest()?;
            if rest != *before {
                bail!("{rest:?} instead of {before:?}");
            }
            Ok(true)
        });
        drained.context("an agent that was taken over from does not end")?;
        Ok(rest)
    }

    /// Certificates issued so far.
    pub(crate) fn certificates(&self) -> usize {
        self.two.controller.process.log().matches("certificate issued").count()
    }

    /// What clients and agents complained of last.
    pub(crate) fn last_words(&self) -> Vec<String> {
        let mut words = Vec::new();
        for (name, rounds) in &self.rounds {
            words.extend(rounds.words().into_iter().map(|word| format!("{name}: {word}")));
        }
        for (name, echo) in &self.echoes {
            words.extend(echo.words().into_iter().map(|word| format!("{name}: {word}")));
        }
        words.extend(self.words.iter().rev().take(6).cloned());
        for agent in [&self.two.one, &self.two.two] {
            let log = agent.process.log();
            let bad = log.lines().rev().filter(|line| line.contains("WARN") || line.contains("ERROR"));
            words.extend(bad.take(8).map(|line| format!("agent {}: {line}", agent.node.name)));
        }
        words
    }
}

fn is_captured(agent: &Agent, pod: &Pod) -> Result<bool> {
    let workloads = agent.json("workloads")?;
    let mut all = workloads.as_array().into_iter().flatten();
    Ok(all.any(|w| w["name"] == pod.name.as_str() && w["state"] == "captured"))
}

fn tally(seen: lark_testbed::Seen) -> Tally {
    Tally { good: seen.blocks, failed: seen.failed(), wrong: seen.corrupted, compared: seen.bytes }
}
