//! `cargo xtask image`: a container image as an OCI layout, made without a container engine. It holds the
//! binary and the shared libraries that it loads, nothing else: no shell, no package manager. From the same
//! binary and libraries always comes the same digest. The list of all crates and npm packages inside
//! (CycloneDX) lies beside it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::install::say;
use crate::test::{lark, metadata, target_directory};

/// The files of the image, as a layer.
mod layer;
/// Which crates and npm packages are inside.
mod sbom;

/// Who runs it: deploy/ says otherwise for the controller.
const USER: &str = "0:0";
/// So that `kubectl exec … -- lark` finds it with every runtime.
const PATH: &str = "PATH=/usr/bin";

/// Flags.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory for the layout; what it held before is replaced. By default target/image.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// A binary that was built already. By default a release build is made.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// Runs the task.
///
/// # Errors
/// When the binary does not build, its libraries are not found, or the layout cannot be written.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let out = match &args.out {
        Some(out) => out.clone(),
        None => target_directory()?.join("image"),
    };
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => lark(true)?,
    };
    let root = metadata()?.workspace_root;
    let layer = layer::of(&binary)?;
    let bill = sbom::of(&root)?;
    let digest = write(&out, &layer)?;
    fs::write(out.join("lark.cdx.json"), &bill).context("the list of what is inside cannot be written")?;
    say(&format!("image: {}, {} MiB, {digest}", out.display(), layer.len() >> 20));
    Ok(())
}

/// Writes a layout (OCI image-spec 1.1) of one image with one layer; returns the manifest's digest.
fn write(out: &Path, layer: &[u8]) -> anyhow::Result<String> {
    if out.join("oci-layout").exists() {
        fs::remove_dir_all(out).with_context(|| format!("{} cannot be replaced", out.display()))?;
    }
    let blobs = out.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("{} cannot be made", blobs.display()))?;
    let blob = |kind: &str, content: &[u8]| -> anyhow::Result<Value> {
        let hash = hex(content);
        fs::write(blobs.join(&hash), content)
            .with_context(|| format!("{} cannot be written", blobs.display()))?;
        let media = format!("application/vnd.oci.image.{kind}");
        Ok(json!({ "mediaType": media, "digest": format!("sha256:{hash}"), "size": content.len() }))
    };
    let version = env!("CARGO_PKG_VERSION");
    let labels = json!({
        "org.opencontainers.image.title": "lark",
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.licenses": "Apache-2.0"
    });
    let config = json!({
        "architecture": architecture(), "os": "linux",
        "config": { "Entrypoint": [layer::BINARY], "Env": [PATH], "User": USER, "Labels": labels },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex(layer))] },
        "history": [{ "created_by": "cargo xtask image" }]
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("config.v1+json", config.to_string().as_bytes())?,
        "layers": [blob("layer.v1.tar", layer)?]
    });
    let mut described = blob("manifest.v1+json", manifest.to_string().as_bytes())?;
    described["platform"] = json!({ "architecture": architecture(), "os": "linux" });
    described["annotations"] = json!({ "org.opencontainers.image.ref.name": version });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [described]
    });
    fs::write(out.join("index.json"), index.to_string())?;
    // Last: what has it is complete.
    fs::write(out.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string())?;
    Ok(described["digest"].as_str().unwrap_or_default().to_owned())
}

/// The architecture by Go's name, as images have it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn hex(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_made_twice_is_the_same_and_every_blob_is_what_its_name_says() {
        let home = tempfile::tempdir().unwrap();
        let binary = std::env::current_exe().unwrap();
        let mut digests = Vec::new();
        for name in ["one", "two", "one"] {
            let out = home.path().join(name);
            digests.push(write(&out, &layer::of(&binary).unwrap()).unwrap());
            for blob in fs::read_dir(out.join("blobs/sha256")).unwrap() {
                let blob = blob.unwrap();
                assert_eq!(blob.file_name().to_string_lossy(), hex(&fs::read(blob.path()).unwrap()));
            }
        }
        assert_eq!(digests[0], digests[1]);
        assert_eq!(digests[0], digests[2]);
        let read = |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
        let out = home.path().join("one");
        let blob = |described: &Value| {
            let hash = described["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
            let path = out.join("blobs/sha256").join(hash);
            assert_eq!(described["size"], fs::metadata(&path).unwrap().len());
            path
        };
        let index = read(out.join("index.json"));
        assert_eq!(index["manifests"][0]["digest"], digests[0].as_str());
        let manifest = read(blob(&index["manifests"][0]));
        let config = read(blob(&manifest["config"]));
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        assert_eq!(config["config"]["Entrypoint"], json!(["/usr/bin/lark"]));
        blob(&manifest["layers"][0]);
    }

    #[test]
    fn a_container_engine_makes_the_same_image() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let file = fs::read_to_string(root.join("deploy/image/Dockerfile")).unwrap();
        let has = |line: &str| file.lines().any(|l| l == line);
        assert!(has(&format!("ENTRYPOINT [\"{}\"]", layer::BINARY)), "{file}");
        assert!(has(&format!("USER {USER}")) && has(&format!("ENV {PATH}")), "{file}");
        assert!(has(&format!("FROM rust:{}-bookworm AS build", env!("CARGO_PKG_RUST_VERSION"))), "{file}");
        // Its layer is the layout's, taken out by these words.
        let words = file.split("&& tar --extract").nth(1).and_then(|rest| rest.lines().next()).unwrap();
        let home = tempfile::tempdir().unwrap();
        let (layout, files) = (home.path().join("image"), home.path().join("rootfs"));
        fs::create_dir(&files).unwrap();
        write(&layout, &layer::of(&std::env::current_exe().unwrap()).unwrap()).unwrap();
        let script = format!("tar --extract{words}")
            .replace("/rootfs", files.to_str().unwrap())
            .replace("/image", layout.to_str().unwrap());
        let status = std::process::Command::new("sh").args(["-ec", &script]).status().unwrap();
        assert!(status.success(), "{script}");
        let binary = files.join(layer::BINARY.trim_start_matches('/'));
        assert!(fs::read(binary).unwrap() == fs::read(std::env::current_exe().unwrap()).unwrap());
        assert!(files.join("etc/nsswitch.conf").exists() && files.join("run/lark").is_dir());
    }
}
