//! `lark ca init`: a CA before the controller first runs.

use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;
use lark_core::identity::TrustDomain;

/// Flags of `lark ca init`.
#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    /// Directory for the CA, the controller's --data-dir.
    ///
    /// Default /var/lib/lark. One that has a CA already is left as it is.
    #[arg(long, env = "LARK_DATA_DIR", value_name = "DIR", default_value = "/var/lib/lark")]
    pub data_dir: PathBuf,
    /// Trust domain of the mesh, as discovery has it.
    ///
    /// Default cluster.local. It is in the root's name; what identities are of, discovery says.
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    pub trust_domain: String,
}

/// Makes the CA and prints the file of its root.
///
/// # Errors
/// When there is one, or it cannot be written.
pub fn run(args: &InitArgs) -> anyhow::Result<()> {
    let domain = TrustDomain::new(&args.trust_domain)?;
    let authority = lark_identity::authority::init(&args.data_dir, &domain, SystemTime::now())?;
    writeln!(std::io::stdout().lock(), "{}", authority.published().display())?;
    Ok(())
}
