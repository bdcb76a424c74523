//! Private keys: in memory only, in no form anywhere else, and gone when they are not needed any more.
//!
//! The keys looked for are the real ones. A test cannot be told them, so it finds them as an attacker with
//! root would: it takes each certificate from the wire and tries what lies in the processes' memory until
//! something makes its public key.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use data_encoding::{BASE64, BASE64URL, HEXLOWER, HEXUPPER};
use lark_testbed::{Nginx, Place, Testbed, eventually, lark_binary, need};
use lark_tunnel::name::server_name;

use crate::house::House;

/// A P-256 key: its scalar, most significant byte first.
type Scalar = [u8; 32];

/// Calls back with the writable memory of a process, a mapping at a time.
fn memory(pid: u32, mut each: impl FnMut(&[u8])) {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let file = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    for line in maps.lines() {
        let mut fields = line.split(' ');
        let (range, mode) = (fields.next().unwrap(), fields.next().unwrap());
        if !mode.starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        // What was unmapped meanwhile cannot be read.
        if file.read_exact_at(&mut bytes, start).is_ok() {
            each(&bytes);
        }
    }
}

/// How often these bytes are in a process's memory.
fn occurrences(pid: u32, bytes: &[u8]) -> usize {
    let mut count = 0;
    memory(pid, |memory| count += memory.windows(bytes.len()).filter(|w| *w == bytes).count());
    count
}

/// The keys of these certificates in a process's memory. AWS-LC keeps a scalar as 64-bit words, least
/// significant first.
fn keys(pid: u32, wanted: &BTreeSet<Vec<u8>>) -> Vec<(Vec<u8>, Scalar)> {
    let mut found = Vec::new();
    memory(pid, |memory| {
        for candidate in memory.windows(32).step_by(8) {
            // Pointers and counts are no random numbers.
            let word = |i: usize| u16::from_le_bytes([candidate[8 * i + 6], candidate[8 * i + 7]]);
            let distinct = || {
                candidate
                    .iter()
                    .fold([0_u64; 4], |mut seen, b| {
                        seen[usize::from(b >> 6)] |= 1 << (b & 63);
                        seen
                    })
                    .iter()
                    .map(|s| s.count_ones())
                    .sum::<u32>()
            };
            if (0..4).any(|i| word(i) == 0 || word(i) == u16::MAX) || distinct() < 22 {
                continue;
            }
            let mut scalar: Scalar = candidate.try_into().unwrap();
            scalar.reverse();
            let Ok(key) = PrivateKey::from_private_key(&ECDH_P256, &scalar) else { continue };
            let public = key.compute_public_key().unwrap().as_ref().to_vec();
            if wanted.contains(&public) && !found.iter().any(|(p, _)| *p == public) {
                found.push((public, scalar));
            }
        }
    });
    found
}

/// The public key of the certificate that somebody shows on the wire.
fn shown(place: &Place, address: &str, name: &str) -> Vec<u8> {
    let script = "openssl s_client -connect \"$0\" -servername \"$1\" -alpn h2 </dev/null 2>/dev/null \
                  | openssl x509 -noout -pubkey | openssl pkey -pubin -outform DER";
    let output = place.output("sh", &["-c", script, address, name]).unwrap();
    // The uncompressed point ends a SubjectPublicKeyInfo (RFC 5480).
    let point = output.stdout.last_chunk::<65>();
    point.unwrap_or_else(|| panic!("{address} shows no certificate for {name}: {output:?}")).to_vec()
}

/// What a key looks like, in whatever it could be written down.
fn forms(scalar: &Scalar) -> Vec<Vec<u8>> {
    let mut little = *scalar;
    little.reverse();
    let mut forms = Vec::new();
    for bytes in [scalar, &little] {
        forms.push(bytes.to_vec());
        for hex in [HEXLOWER.encode(bytes), HEXUPPER.encode(bytes)] {
            let pairs: Vec<&str> =
                hex.as_bytes().chunks(2).map(|c| std::str::from_utf8(c).unwrap()).collect();
            forms.extend([pairs.join(":").into_bytes(), hex.into_bytes()]);
        }
        // As Rust prints bytes.
        let list: Vec<String> = bytes.iter().map(ToString::to_string).collect();
        forms.push(list.join(", ").into_bytes());
        // Base64 looks different by what stands before: its whole characters are the same.
        for before in 0..3 {
            let padded = [vec![0; before], bytes.to_vec()].concat();
            let whole = (8 * before).div_ceil(6)..8 * padded.len() / 6;
            for base64 in [BASE64, BASE64URL] {
                forms.push(base64.encode(&padded)[whole.clone()].as_bytes().to_vec());
            }
        }
    }
    forms
}

/// Which of these places have one of the forms in them.
fn leaks<'a>(places: &'a [(String, Vec<u8>)], scalar: &Scalar) -> Vec<&'a str> {
    let forms = forms(scalar);
    // Logs at trace level are long: by their first two bytes, so that one pass over the text will do.
    let mut begins = vec![Vec::new(); 1 << 16];
    let index = |text: &[u8]| usize::from(u16::from_be_bytes([text[0], text[1]]));
    forms.iter().for_each(|form| begins[index(form)].push(form));
    let begins = &begins;
    let holds = |text: &[u8]| {
        let pairs = 0..text.len().saturating_sub(1);
        pairs.into_iter().any(|at| begins[index(&text[at..])].iter().any(|form| text[at..].starts_with(form)))
    };
    // PEM breaks its lines, and so may others.
    let unbroken =
        |text: &[u8]| -> Vec<u8> { text.iter().copied().filter(|b| !b"\r\n".contains(b)).collect() };
    let leaks = |text: &[u8]| holds(text) || holds(&unbroken(text));
    places.iter().filter(|(_, text)| leaks(text)).map(|(name, _)| name.as_str()).collect()
}

/// All plain files below a directory, with their names.
fn files(directory: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files(&entry.path(), found);
        } else if kind.is_file() {
            found.push((entry.path().display().to_string(), std::fs::read(entry.path()).unwrap()));
        }
    }
}

/// What a process has open, was started with, and is told by.
fn process(name: &str, pid: u32, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        if std::fs::metadata(entry.path()).is_ok_and(|m| m.is_file())
            && let Ok(text) = std::fs::read(entry.path())
        {
            found.push((format!("{name}: {}", entry.path().display()), text));
        }
    }
    for part in ["cmdline", "environ"] {
        found.push((format!("{name}: {part}"), std::fs::read(format!("/proc/{pid}/{part}")).unwrap()));
    }
}

/// Everything that an agent answers: each path that its admin API knows, taken from its source.
fn answers(agent: &lark_testbed::Agent, found: &mut Vec<(String, Vec<u8>)>) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/core/src/question.rs");
    let source = std::fs::read_to_string(source).unwrap();
    let code = source.split("#[cfg(test)]").next().unwrap();
    let paths: Vec<&str> = code.split('"').filter(|s| s.starts_with("/v1/") || *s == "/metrics").collect();
    assert!(paths.len() >= 10, "{paths:?}");
    for path in paths {
        let url = format!("http://agent{path}?from=shop/client&to=192.0.2.1:80");
        let socket = agent.socket().to_str().unwrap();
        // A tap's answer does not end by itself (curl's manual: 28 is a time-out).
        let (limit, end) = if path == "/v1/tap" { ("1", 28) } else { ("60", 0) };
        let arguments = ["-sS", "--max-time", limit, "--unix-socket", socket, &url];
        let output = agent.node.place.output("curl", &arguments).unwrap();
        assert_eq!(output.status.code(), Some(end), "{path}: {output:?}");
        found.push((format!("{}: {path}", agent.node.name), output.stdout));
    }
}

/// A `lark` that logs whatever there is to log; but not that its log has grown, which it would be told of
/// for ever, since it watches the directory that the bed has both its log and its discovery file in.
fn talkative(directory: &Path) -> PathBuf {
    let lark = lark_binary().unwrap();
    let script = format!(
        "#!/bin/sh\ncase $1 in agent|controller) exec {lark} \"$@\" --log trace,notify=info ;; esac\nexec {lark} \"$@\"\n",
        lark = lark.display()
    );
    let path = directory.join("lark");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn keys_are_in_memory_only_and_wiped_when_they_are_done_with() {
    need("openssl", "openssl").unwrap();
    let home = tempfile::tempdir().unwrap();
    let mut house = House::on(Testbed::with_lark(&talkative(home.path())).unwrap(), &[]);
    house.capture();
    let _nginx = Nginx::start(&house.bed, &house.server).unwrap();
    house.curl(&format!("http://{}:8080/", house.server.ip));

    let id = |account: &str| format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap();
    let cert = |agent: &lark_testbed::Agent, account: &str| {
        shown(&agent.node.place, &format!("{}:15008", agent.node.ip), &server_name(&id(account)))
    };
    let own = cert(&house.one, "neighbour");
    let wanted = BTreeSet::from([cert(&house.one, "client"), own.clone()]);
    let mut secrets = keys(house.one.process.pid(), &wanted);
    let ca = shown(&house.nodes.0.place, &format!("{}:15012", house.nodes.0.ip), "controller");
    for (pid, public) in
        [(house.two.process.pid(), cert(&house.two, "server")), (house.controller.process.pid(), ca)]
    {
        secrets.extend(keys(pid, &BTreeSet::from([public])));
    }
    assert_eq!(secrets.len(), 4, "not every key was found in memory, so nothing would be proved");

    // A report is a place where keys could be too; the log that is in it is at trace level.
    let (report, log) = ("report.tar", "agent-one.log");
    let [report, log] = [report, log].map(|name| house.bed.directory().join(name).display().to_string());
    house.one.table(&["bug-report", "--file", &report, "--log", &log]).unwrap();
    let mut places = Vec::new();
    files(house.bed.directory(), &mut places);
    assert!(places.iter().any(|(name, text)| *name == report && text.len() > 100_000));
    for (name, pid) in [
        ("agent one", house.one.process.pid()),
        ("agent two", house.two.process.pid()),
        ("controller", house.controller.process.pid()),
    ] {
        process(name, pid, &mut places);
    }
    answers(&house.one, &mut places);
    answers(&house.two, &mut places);
    let logged = places.iter().any(|(_, text)| String::from_utf8_lossy(text).contains("TRACE"));
    assert!(logged, "nothing is logged at trace level");
    for (_, scalar) in &secrets {
        assert_eq!(leaks(&places, scalar), Vec::<&str>::new());
    }
    // Keys of any kind, in PEM: the CA's own and no other. That the search finds this one on the disk, in
    // Base64, shows that it would have found others.
    let pem = |(_, text): &&(String, Vec<u8>)| String::from_utf8_lossy(text).contains("PRIVATE KEY");
    let root = &house.controller.ca_status().unwrap()["roots"][0]["id"];
    let ca_key = format!("roots/{}.key", &root.as_str().unwrap()[..16]);
    let ca_key = house.controller.home().join(ca_key).display().to_string();
    assert_eq!(places.iter().filter(pem).map(|(name, _)| name.as_str()).collect::<Vec<_>>(), [&ca_key]);
    let text = std::fs::read_to_string(&ca_key).unwrap();
    let base64: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let der = BASE64.decode(base64.as_bytes()).unwrap();
    // In RFC 5915's ECPrivateKey the scalar follows its version and its own tag and length.
    let at = der.windows(5).position(|w| w == [2, 1, 1, 4, 32]).unwrap() + 5;
    let scalar: Scalar = der[at..at + 32].try_into().unwrap();
    assert_eq!(leaks(&places, &scalar), [&ca_key]);

    // As the key was made it was there in other forms too; these are wiped.
    let pid = house.one.process.pid();
    for (public, scalar) in secrets.iter().filter(|(public, _)| wanted.contains(public)) {
        assert_eq!(occurrences(pid, scalar), 0, "a key's encoding is still in memory");
        let mut little = *scalar;
        little.reverse();
        assert!(occurrences(pid, &little) > 0);
        if *public == own {
            // A workload that is let go takes its key along.
            house.mesh.label(&house.neighbour, "lark.mesh/capture", "disabled").unwrap();
            house.one.wait_captured(1).unwrap();
            eventually(Duration::from_secs(20), "the key is wiped", || Ok(occurrences(pid, &little) == 0))
                .unwrap();
        }
    }
}

#[test]
fn whoever_holds_keys_leaves_no_core_and_lets_nobody_look() {
    let home = tempfile::tempdir().unwrap();
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    // Both stop at their first file, for as long as nobody writes into this one.
    let fifo = home.path().join("fifo");
    let made = std::process::Command::new("mkfifo").arg("-m").arg("644").arg(&fifo).status().unwrap();
    assert!(made.success());
    let lark = lark_binary().unwrap();
    let discovery = format!("--discovery=file:{}", fifo.display());
    let roles: [&[&str]; 3] = [
        &["sleep", "600"],
        &["agent", "--node=one", "--ca-url=https://x", "--ca-root=x", "--token-file=x", &discovery],
        &["controller", "--join-tokens=x", &discovery],
    ];
    for (number, role) in roles.into_iter().enumerate() {
        let lark = lark.to_str().unwrap();
        let program: &[&str] = if number == 0 { &[] } else { &[lark] };
        let mut child = std::process::Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .args(["sh", "-c", "ulimit -S -c $(ulimit -H -c) && exec \"$@\"", "sh"])
            .args(program)
            .args(role)
            .spawn()
            .unwrap();
        let proc = PathBuf::from(format!("/proc/{}", child.id()));
        let read = |name: &str| std::fs::read_to_string(proc.join(name)).unwrap_or_default();
        // The files of a process whose memory others may not have are root's (fs/proc/base.c,
        // task_dump_owner).
        let private = || std::fs::metadata(proc.join("environ")).unwrap().uid() == 0;
        let limit = || {
            read("limits")
                .lines()
                .any(|l| l.split_whitespace().eq(["Max", "core", "file", "size", "0", "0", "bytes"]))
        };
        if number == 0 {
            eventually(Duration::from_secs(10), "sleep runs", || Ok(read("comm").trim() == "sleep")).unwrap();
            assert!(!private() && !limit(), "this machine keeps everybody's memory private");
        } else {
            eventually(Duration::from_secs(10), "its memory is private", || Ok(private() && limit()))
                .unwrap();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
