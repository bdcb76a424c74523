//! What is in the binary, as a CycloneDX 1.5 document: crates, from Cargo's own resolution with the checksums of
//! Cargo.lock, and the npm packages that are bundled into the embedded page, from its lock file. Nothing in it
//! depends on when it was made.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use data_encoding::{BASE64, HEXLOWER};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::test::cargo;

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    #[serde(default)]
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
}

impl Package {
    /// Whether it runs in the compiler only.
    fn is_macro(&self) -> bool {
        self.targets.iter().any(|target| target.kind.iter().any(|kind| kind == "proc-macro"))
    }
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// `dev` or `build`; nothing for a dependency that is linked.
    kind: Option<String>,
}

/// The lock file of the page's packages.
const PAGE: &str = "agent/web/package-lock.json";

/// A package of npm as the lock file has it (version 3), by its place below `node_modules`.
#[derive(Deserialize)]
struct Npm {
    version: String,
    license: Option<String>,
    /// Subresource Integrity: algorithm, a dash, base64.
    integrity: Option<String>,
    /// Needed to build or to test the page, and not in it.
    #[serde(default)]
    dev: bool,
}

#[derive(Deserialize)]
struct NpmLock {
    packages: BTreeMap<String, Npm>,
}

/// The document for the package `lark` of the workspace.
///
/// # Errors
/// When Cargo does not tell.
pub(super) fn of(root: &Path) -> anyhow::Result<String> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = cargo()
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", &target])
        .current_dir(root)
        .output()
        .context("cargo cannot be run")?;
    ensure!(
        output.status.success(),
        "cargo cannot resolve the workspace: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).context("cargo metadata has a form that is not known here")?;
    let lock = fs::read_to_string(root.join("Cargo.lock")).context("Cargo.lock cannot be read")?;
    let page = fs::read(root.join(PAGE)).with_context(|| format!("{PAGE} cannot be read"))?;
    let page: NpmLock =
        serde_json::from_slice(&page).with_context(|| format!("{PAGE} has a form that is not known here"))?;
    let bill = bill(&metadata, &checksums(&lock), &page)?;
    Ok(format!("{}\n", serde_json::to_string_pretty(&bill)?))
}

fn bill(
    metadata: &Metadata,
    checksums: &BTreeMap<(String, String), String>,
    page: &NpmLock,
) -> anyhow::Result<Value> {
    let linked = linked(metadata, "lark");
    let component = |package: &Package, kind: &str| {
        let Package { name, version, license, .. } = package;
        let mut component = json!({
            "type": kind, "name": name, "version": version,
            "purl": format!("pkg:cargo/{name}@{version}"), "bom-ref": format!("{name}@{version}")
        });
        if let Some(license) = license {
            // Older crates separate alternatives by a slash.
            component["licenses"] = json!([{ "expression": license.replace('/', " OR ") }]);
        }
        if let Some(checksum) = checksums.get(&(name.clone(), version.clone())) {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
        }
        component
    };
    let mut packages: Vec<&Package> =
        metadata.packages.iter().filter(|p| linked.contains(p.id.as_str())).collect();
    packages.sort_by_key(|p| (&p.name, &p.version));
    let main = packages.iter().find(|p| p.name == "lark").map(|p| component(p, "application"));
    let others = packages.iter().filter(|p| p.name != "lark").map(|p| component(p, "library"));
    let mut components: Vec<Value> = others.collect();
    for (place, package) in &page.packages {
        // The page itself has no place, and what is nested has several.
        if let Some((_, name)) = place.rsplit_once("node_modules/")
            && !package.dev
        {
            components.push(bundled(name, package)?);
        }
    }
    Ok(json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": { "component": main },
        "components": components
    }))
}

/// A package of npm that is part of the page.
fn bundled(name: &str, package: &Npm) -> anyhow::Result<Value> {
    let Npm { version, license, integrity, .. } = package;
    // A scope's sign is not one of a package URL's (purl-spec, types/npm).
    let purl = format!("pkg:npm/{}@{version}", name.replace('@', "%40"));
    let mut component = json!({
        "type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl
    });
    if let Some(license) = license {
        component["licenses"] = json!([{ "expression": license }]);
    }
    if let Some(integrity) = integrity {
        let unread = || format!("the integrity of {name} in {PAGE} is of no known form: {integrity}");
        let (algorithm, hash) = integrity.split_once('-').with_context(unread)?;
        ensure!(algorithm == "sha512", unread());
        let hash = BASE64.decode(hash.as_bytes()).with_context(unread)?;
        component["hashes"] = json!([{ "alg": "SHA-512", "content": HEXLOWER.encode(&hash) }]);
    }
    Ok(component)
}

/// The packages that are linked into one: not those that only its build or its tests need, nor macros.
fn linked<'a>(metadata: &'a Metadata, name: &str) -> BTreeSet<&'a str> {
    let nodes: BTreeMap<&str, &Node> = metadata.resolve.nodes.iter().map(|n| (n.id.as_str(), n)).collect();
    let mut open: Vec<&str> =
        metadata.packages.iter().filter(|p| p.name == name).map(|p| p.id.as_str()).collect();
    let macros: BTreeSet<&str> =
        metadata.packages.iter().filter(|p| p.is_macro()).map(|p| p.id.as_str()).collect();
    let mut found = BTreeSet::new();
    while let Some(id) = open.pop() {
        if macros.contains(id) || !found.insert(id) {
            continue;
        }
        let deps = nodes.get(id).into_iter().flat_map(|node| &node.deps);
        open.extend(deps.filter(|d| d.dep_kinds.iter().any(|k| k.kind.is_none())).map(|d| d.pkg.as_str()));
    }
    found
}

/// The checksums of Cargo.lock, by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let field = |package: &str, name: &str| {
        let line = package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "))?;
        Some(line.trim_matches('"').to_owned())
    };
    lock.split("[[package]]")
        .filter_map(|package| {
            Some(((field(package, "name")?, field(package, "version")?), field(package, "checksum")?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_listed_and_what_only_builds_or_tests_is_not() {
        let package = |name: &str| {
            let kind = if name == "macro" { "proc-macro" } else { "lib" };
            json!({
                "id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0",
                "targets": [{ "kind": [kind] }]
            })
        };
        let dep = |name: &str, kinds: &[Option<&str>]| {
            let kinds: Vec<Value> = kinds.iter().map(|kind| json!({ "kind": kind })).collect();
            json!({ "pkg": name, "dep_kinds": kinds })
        };
        let packages = ["lark", "serde", "inner", "cc", "proptest", "other", "macro"].map(package);
        let metadata = json!({
            "packages": packages,
            "resolve": { "nodes": [
                { "id": "lark", "deps": [
                    dep("serde", &[None]), dep("cc", &[Some("build")]), dep("proptest", &[Some("dev")])
                ] },
                { "id": "serde", "deps": [dep("inner", &[Some("dev"), None]), dep("macro", &[None])] },
                { "id": "inner", "deps": [dep("lark", &[None])] }
            ] }
        });
        let lock = "version = 4\n\n[[package]]\nname = \"serde\"\nversion = \"1.0.0\"\nsource = \"registry\"\nchecksum = \"ab12\"\n";
        let page = json!({ "packages": {
            "": { "version": "0.1.0", "license": "Apache-2.0" },
            "node_modules/vite": { "version": "8.0.0", "license": "MIT", "dev": true },
            "node_modules/@scope/small": {
                "version": "2.0.0", "license": "MIT", "integrity": "sha512-q80="
            }
        } });
        let page = serde_json::from_value(page).unwrap();
        let bill = bill(&serde_json::from_value(metadata).unwrap(), &checksums(lock), &page).unwrap();
        let names: Vec<&str> =
            bill["components"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["inner", "serde", "@scope/small"]);
        let small = &bill["components"][2];
        assert_eq!(small["purl"], "pkg:npm/%40scope/small@2.0.0");
        assert_eq!(small["hashes"], json!([{ "alg": "SHA-512", "content": "abcd" }]));
        let serde = &bill["components"][1];
        assert_eq!(serde["purl"], "pkg:cargo/serde@1.0.0");
        assert_eq!(serde["hashes"], json!([{ "alg": "SHA-256", "content": "ab12" }]));
        assert_eq!(serde["licenses"], json!([{ "expression": "MIT OR Apache-2.0" }]));
        assert_eq!(bill["metadata"]["component"]["name"], "lark");
    }

    #[test]
    fn what_the_page_names_as_bundled_is_in_the_list() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let bill: Value = serde_json::from_str(&of(root).unwrap()).unwrap();
        let has = |purl: &str| {
            let all = bill["components"].as_array().unwrap();
            all.iter().any(|c| c["purl"].as_str().is_some_and(|own| own.starts_with(purl)))
        };
        assert!(has("pkg:npm/preact@") && has("pkg:cargo/tokio@"));
        assert!(!has("pkg:npm/vite@") && !has("pkg:npm/playwright-core@"));
        // Each committed file names its licence, with the version that is listed.
        let page = fs::read_to_string(root.join("agent/web/dist/page.js")).unwrap();
        let named = page.split("/*! Preact ").nth(1).and_then(|rest| rest.lines().next()).unwrap();
        assert!(has(&format!("pkg:npm/preact@{named}")), "{named}");
    }
}
