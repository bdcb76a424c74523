//! A kernel from Debian, and a file system in memory for it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{Program, ask, line};
use crate::install::{self, say};

/// Modules that are loaded, in this order, with what they need: TLS, the ciphers as a processor has them, and what asks
/// for sockets and ends them.
const MODULES: [&str; 7] =
    ["tls", "gcm", "ghash-generic", "chacha20poly1305", "aesni-intel", "ctr", "tcp_diag"];

/// Runs as the first process. What it says goes to the console, which is read.
pub(super) const BEGIN: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp
mount -t tracefs tracing /sys/kernel/tracing
ip link set lo up
ulimit -n 65536
for module in $(cat /modules/order); do insmod /modules/$module.ko || echo "LARK-VM: failed module $module"; done
cd /tmp
tests() {
    name=$1; shift
    echo "LARK-VM: tests $name"
    LARK_TEST_KTLS=demanded /bin/$name --test-threads=2 "$@" </dev/null 2>&1 || echo "LARK-VM: failed $name"
}
count() {
    events=/sys/kernel/tracing/events/raw_syscalls
    calls='hist:keys=common_pid.execname,id.syscall:size=8192'
    bytes='hist:keys=common_pid.execname,id.syscall:vals=ret:size=8192 if ret > 0'
    echo "$calls" > $events/sys_enter/trigger; echo "$bytes" > $events/sys_exit/trigger
    LARK_TEST_KTLS=$1 LARK_TEST_MIB=$2 /bin/tunnel --exact kernel::a_bulk_transfer_between_threads_of_their_own_arrives_whole \
        </dev/null >/tmp/said 2>&1 || { cat /tmp/said; echo "LARK-VM: failed count $1"; }
    echo "LARK-VM: counted $1"
    grep -E 'common_pid: (dials|accepts) ' $events/sys_enter/hist | sed 's/^/calls /'
    grep -E 'common_pid: (dials|accepts) ' $events/sys_exit/hist | sed 's/^/bytes /'
    echo "!$calls" > $events/sys_enter/trigger; echo "!$bytes" > $events/sys_exit/trigger
}
"#;

/// What follows the tests.
pub(super) const END: &str = "cat /proc/net/tls_stat\necho 'LARK-VM: end'\npoweroff -f\n";

/// A kernel and its modules.
pub(super) struct Kernel {
    /// To boot.
    pub(super) file: PathBuf,
    /// As `uname -r` will say.
    pub(super) release: String,
    modules: PathBuf,
}

impl Kernel {
    /// Downloads the packages, unless that was done, and unpacks them: they are not installed.
    pub(super) fn get(packages: &[String], target: &Path) -> Result<Self> {
        let root = target.join("kernel");
        let _ = fs::remove_dir_all(&root);
        for package in packages {
            let file = match package.ends_with(".deb") {
                true => PathBuf::from(package),
                false => download(package, target)?,
            };
            ask(Command::new("dpkg-deb").arg("--extract").arg(&file).arg(&root))?;
        }
        let mut found = Vec::new();
        files(&root, &mut found)?;
        let named = |file: &&PathBuf| {
            file.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("vmlinuz"))
        };
        let file =
            found.iter().find(named).with_context(|| format!("{} holds no kernel", packages.join(", ")))?;
        let modules = found.iter().find(|file| stem(file) == "tls");
        let modules = modules.with_context(|| format!("{} holds no module tls", packages.join(", ")))?;
        // RELEASE/kernel/net/tls/tls.ko
        let modules = modules.ancestors().nth(4).context("the module tls is in another place")?;
        let release = modules.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        Ok(Self { file: file.clone(), release, modules: modules.to_owned() })
    }

    /// Files of the modules, each behind what it needs.
    fn modules(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        files(&self.modules.join("kernel"), &mut found)?;
        let mut order = Vec::new();
        for name in MODULES {
            add(name, &found, &mut order)?;
        }
        Ok(order)
    }
}

fn files(directory: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| line(directory))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files(&entry.path(), found)?;
        } else {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// The name of a module, of which the file may be compressed.
fn stem(file: &Path) -> &str {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.split(".ko").next().unwrap_or_default()
}

/// What is not there is built in.
fn add(name: &str, found: &[PathBuf], order: &mut Vec<PathBuf>) -> Result<()> {
    let same = |file: &&PathBuf| stem(file).replace('_', "-") == name.replace('_', "-");
    let Some(file) = found.iter().find(same) else { return Ok(()) };
    if order.contains(file) {
        return Ok(());
    }
    for needed in needs(&plain(file)?) {
        add(&needed, found, order)?;
    }
    order.push(file.clone());
    Ok(())
}

/// A module's bytes, which may be compressed.
fn plain(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_some_and(|extension| extension == "xz") {
        return ask(Command::new("xz").args(["--decompress", "--stdout"]).arg(file));
    }
    fs::read(file).with_context(|| line(file))
}

/// Pure: the names behind `depends=` in a module's own description.
fn needs(module: &[u8]) -> Vec<String> {
    const MARK: &[u8] = b"\0depends=";
    let Some(at) = module.windows(MARK.len()).position(|window| window == MARK) else { return Vec::new() };
    let rest = module.get(at + MARK.len()..).unwrap_or_default();
    let names = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(names);
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn download(package: &str, target: &Path) -> Result<PathBuf> {
    let told = ask(Command::new("apt-cache").args(["depends", package]))?;
    let told = String::from_utf8_lossy(&told);
    let needs = told.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let name = needs.map_or_else(|| package.to_owned(), |rest| format!("linux-image-{rest}"));
    let downloads = target.join("packages");
    fs::create_dir_all(&downloads)?;
    let there = || {
        let entries = fs::read_dir(&downloads).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).find(|file| {
            let file = file.file_name().and_then(|file| file.to_str()).unwrap_or_default();
            file.starts_with(&format!("{name}_")) && file.ends_with(".deb")
        })
    };
    if let Some(file) = there() {
        return Ok(file);
    }
    say(&format!("downloading from Debian: {name}"));
    // As root it would not enter directories of others.
    ask(Command::new("apt-get")
        .args(["-qq", "-o", "APT::Sandbox::User=root", "download", &name])
        .current_dir(&downloads))?;
    there().with_context(|| format!("apt-get brought no package {name}"))
}

/// Makes the file system: the tests with their libraries, busybox, and the modules.
pub(super) fn initrd(target: &Path, kernel: &Kernel, programs: &[Program], script: &str) -> Result<PathBuf> {
    let root = target.join("root");
    let _ = fs::remove_dir_all(&root);
    for directory in ["bin", "modules", "proc", "sys", "dev", "tmp"] {
        fs::create_dir_all(root.join(directory))?;
    }
    let busybox = install::find("busybox").context("busybox is missing")?;
    ensure!(libraries(&busybox)?.is_empty(), "busybox needs libraries: install the package busybox-static");
    fs::copy(busybox, root.join("bin/busybox"))?;
    let mut order = String::new();
    for file in kernel.modules()? {
        fs::write(root.join("modules").join(format!("{}.ko", stem(&file))), plain(&file)?)?;
        order.push_str(stem(&file));
        order.push('\n');
    }
    fs::write(root.join("modules/order"), order)?;
    for program in programs {
        let copy = root.join("bin").join(program.name);
        fs::copy(&program.file, &copy).with_context(|| line(&program.file))?;
        ask(Command::new("strip").arg(&copy))?;
        for library in libraries(&program.file)? {
            let place = root.join(library.strip_prefix("/")?);
            fs::create_dir_all(place.parent().context("a library without a directory")?)?;
            fs::copy(&library, place).with_context(|| line(&library))?;
        }
    }
    let init = root.join("init");
    fs::write(&init, script)?;
    ask(Command::new("chmod").arg("755").arg(&init))?;
    let file = target.join("initrd");
    pack(&root, &file)?;
    Ok(file)
}

/// What the dynamic linker would load, itself among it.
fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output =
        Command::new("ldd").arg(program).stdin(Stdio::null()).output().context("ldd cannot be run")?;
    let told = String::from_utf8_lossy(&output.stdout);
    let paths = told.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':'));
    Ok(paths.map(PathBuf::from).collect())
}

/// An archive as the kernel unpacks it (`newc`).
fn pack(root: &Path, file: &Path) -> Result<()> {
    let mut found = Vec::new();
    files(root, &mut found)?;
    let mut names: BTreeSet<PathBuf> = BTreeSet::new();
    for path in &found {
        names.extend(path.strip_prefix(root)?.ancestors().map(Path::to_owned));
    }
    names.extend(["proc", "sys", "dev", "tmp"].map(PathBuf::from));
    let list: Vec<String> =
        names.iter().filter(|name| !name.as_os_str().is_empty()).map(|n| line(n)).collect();
    let mut cpio = Command::new("cpio")
        .args(["--create", "--format=newc", "--quiet"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(file).with_context(|| line(file))?)
        .spawn()
        .context("cpio cannot be run")?;
    let mut input = cpio.stdin.take().context("cpio has no input")?;
    input.write_all(list.join("\n").as_bytes())?;
    input.write_all(b"\n")?;
    drop(input);
    ensure!(cpio.wait()?.success(), "cpio failed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_says_what_it_needs() {
        assert_eq!(
            needs(b"\x7fELF\0alias=x\0depends=cryptd,crypto_simd\0intree=Y\0"),
            ["cryptd", "crypto_simd"]
        );
        assert!(needs(b"\0depends=\0name=tls\0").is_empty());
        assert!(needs(b"no module").is_empty());
        assert_eq!(stem(Path::new("/a/aesni-intel.ko.xz")), "aesni-intel");
    }
}
