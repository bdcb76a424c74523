//! Plain hosts without Kubernetes: docs/standalone.md, read and typed as it stands, and its units.

use std::path::{Path, PathBuf};
use std::process::Command;

use lark_testbed::{Host, Testbed, Wire, lark_binary, need};

/// The repository's root.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// One fenced block of the page: where its commands are typed, or what the block before it shows.
struct Block {
    kind: String,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(kind) = line.strip_prefix("```") {
            let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push(Block { kind: kind.to_owned(), text: text.join("\n") });
        }
    }
    blocks
}

/// What the page tells a reader to bring to each host, beside what it makes there.
fn release(bed: &Testbed) -> PathBuf {
    let release = bed.directory().join("release");
    std::fs::create_dir(&release).unwrap();
    let lark = lark_binary().unwrap();
    if std::fs::hard_link(&lark, release.join("lark")).is_err() {
        std::fs::copy(&lark, release.join("lark")).unwrap();
    }
    let copied =
        Command::new("cp").arg("-r").arg(root().join("deploy")).arg(&release).status().unwrap().success();
    assert!(copied);
    // Cargo builds the examples of all packages with the tests; `cargo xtask docs --man` runs this one.
    let own = std::env::current_exe().unwrap();
    let docs = own.ancestors().nth(2).unwrap().join("examples/docs");
    std::fs::create_dir(release.join("man")).unwrap();
    let made = Command::new(&docs).arg(bed.directory()).arg(release.join("man")).status();
    assert!(made.is_ok_and(|s| s.success()), "{} failed: build it with --examples", docs.display());
    release
}

fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Types a block's commands on a host; `scp` to the other one is a copy, for there is no sshd here.
fn typed(block: &Block, host: &Host, other: &Host) -> String {
    let mut said = String::new();
    let mut commands = String::new();
    for line in block.text.lines() {
        if let Some(arguments) = line.strip_prefix("scp ") {
            said += &host.run(&std::mem::take(&mut commands)).unwrap();
            let (file, target) = arguments.split_once(' ').unwrap();
            // Only host two is copied to.
            let target = target.strip_prefix("root@192.0.2.2:").unwrap();
            host.copy(file, other, target).unwrap();
        } else {
            commands += line;
            commands.push('\n');
        }
    }
    said + &host.run(&commands).unwrap()
}

#[test]
fn the_page_for_plain_hosts_does_what_it_says() {
    need("nginx", "nginx").unwrap();
    let mut bed = Testbed::new().unwrap();
    let release = release(&bed);
    let nodes = [bed.node("one").unwrap(), bed.node("two").unwrap()];
    let hosts = nodes.each_ref().map(|node| {
        let address = format!("192.0.2.{}/24", &node.ip.to_string()["192.168.77.".len()..]);
        node.place.run("ip", &["address", "add", &address, "dev", "eth0"]).unwrap();
        Host::boot(&bed, node, &release).unwrap()
    });
    let page = std::fs::read_to_string(root().join("docs/standalone.md")).unwrap();
    let wire = Wire::listen(&bed).unwrap();
    let mut shown = Vec::new();
    for block in blocks(&page) {
        let (one, two) = (&hosts[0], &hosts[1]);
        match block.kind.as_str() {
            "sh both" => shown = vec![typed(&block, one, two), typed(&block, two, one)],
            "sh one" => shown = vec![typed(&block, one, two)],
            "sh two" => shown = vec![typed(&block, two, one)],
            "text" => {
                for (said, wanted) in shown.iter().flat_map(|s| block.text.lines().map(move |w| (s, w))) {
                    let wanted = words(wanted);
                    let found = said.lines().any(|line| words(line).contains(&wanted));
                    assert!(found, "the page shows {wanted:?}, and what came is:\n{said}");
                }
            }
            other => panic!("docs/standalone.md has a block of kind {other:?}"),
        }
    }
    assert_eq!(wire.count("canary-of-lark").unwrap(), 0, "the canary was on the wire");
    for host in &hosts {
        // Nothing of Lark is in the kernel once the page is done, and its services never failed.
        assert_eq!(host.run("ls /sys/fs/bpf | grep lark || true").unwrap(), "");
        let failed = host.run("systemctl list-units --failed --no-legend --plain").unwrap();
        assert_eq!(failed, "", "units have failed");
    }
}

#[test]
fn the_units_are_sound_and_locked_up() {
    need("systemd-analyze", "systemd").unwrap();
    let home = tempfile::tempdir().unwrap();
    let lark = lark_binary().unwrap();
    // At most this much exposure, of 10 (systemd-analyze(1), security): entering namespaces has its price.
    for (unit, most) in
        [("lark-agent.service", 35), ("lark-controller.service", 15), ("lark-netns@web.service", 100)]
    {
        let source = root().join("deploy/systemd").join(unit.replace("@web", "@"));
        let text = std::fs::read_to_string(&source).unwrap();
        // `verify` looks whether the program is there.
        let text = text.replace("/usr/local/bin/lark", lark.to_str().unwrap());
        let file = home.path().join(unit);
        std::fs::write(&file, text).unwrap();
        let analyze = |arguments: &[&str]| {
            let output =
                Command::new("systemd-analyze").args(arguments).arg("--man=no").arg(&file).output().unwrap();
            let said = [output.stdout, output.stderr].concat();
            (output.status.success(), String::from_utf8_lossy(&said).into_owned())
        };
        assert_eq!(analyze(&["verify"]), (true, String::new()), "{unit}");
        let (within, said) = analyze(&["security", "--offline=yes", &format!("--threshold={most}")]);
        assert!(within, "{unit} is more exposed than it was: {said}");
    }
}
