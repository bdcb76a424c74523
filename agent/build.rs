//! Where functions lie in a release: layout.ld says it to the linker. `cargo xtask layout` writes that file.

use std::env::{VarError, var};

fn main() -> Result<(), VarError> {
    println!("cargo::rerun-if-changed=layout.ld");
    println!("cargo::rerun-if-env-changed=LARK_LAYOUT");
    // For linkers that take no such file, mold for one.
    let is_off = var("LARK_LAYOUT").is_ok_and(|layout| layout == "off");
    // Builds for tests are linked often, and nobody waits for their connections.
    if !is_off && var("PROFILE")? == "release" && var("CARGO_CFG_TARGET_OS")? == "linux" {
        println!("cargo::rustc-link-arg-bins=-T{}/layout.ld", var("CARGO_MANIFEST_DIR")?);
    }
    Ok(())
}
