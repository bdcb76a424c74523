//! `cargo xtask manifests`: writes the plain manifests of deploy/kubernetes, which are the chart with its default
//! values. A test compares them, so that neither drifts from the other.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::install::{self, say};
use crate::test::{metadata, target_directory};

/// What deploy/helm/render.py answers, as far as it is needed here.
#[derive(Debug, serde::Deserialize)]
struct Rendered {
    sets: BTreeMap<String, Set>,
    plain: BTreeMap<String, String>,
}

#[derive(Debug, serde::Deserialize)]
struct Set {
    refused: Option<String>,
}

/// Runs the task.
///
/// # Errors
/// When the chart cannot be rendered, or a manifest not be written.
pub(crate) fn run() -> anyhow::Result<()> {
    let deploy = metadata()?.workspace_root.join("deploy");
    let packages = install::python(&metadata()?.workspace_root, &target_directory()?)?;
    let output = Command::new("python3")
        .arg(deploy.join("helm/render.py"))
        .arg(deploy.join("helm/lark"))
        .env("PYTHONPATH", packages)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("python3 cannot be run: install it")?;
    ensure!(output.status.success(), "the chart cannot be rendered: {}", output.status);
    let rendered: Rendered = serde_json::from_slice(&output.stdout)
        .context("render.py answers in a form that is not known here")?;
    for (name, set) in &rendered.sets {
        ensure!(set.refused.is_none(), "profile {name}: {}", set.refused.as_deref().unwrap_or_default());
    }
    for (name, text) in &rendered.plain {
        let path = deploy.join("kubernetes").join(name);
        if fs::read_to_string(&path).is_ok_and(|before| before == *text) {
            continue;
        }
        fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
        say(&format!("wrote {}", path.display()));
    }
    Ok(())
}
