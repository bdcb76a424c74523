//! What must be there before anything is attached.

use anyhow::{Context, bail};

pub(super) fn check() -> anyhow::Result<()> {
    let missing = lark_sys::capability::missing().context("the process's capabilities cannot be read")?;
    if !missing.is_empty() {
        let names: Vec<String> = missing.iter().map(|c| format!("{} (to {})", c.name, c.reason)).collect();
        bail!("capabilities are missing: {}; run as root or grant them", names.join(", "));
    }
    lark_sys::kernel::probe()?;
    lark_sys::cgroup::mount()?;
    Ok(())
}
