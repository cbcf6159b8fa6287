//! Installing packages on Debian and Ubuntu, without starting any service.

use crate::shell;
use anyhow::{Context as _, Result, bail};

/// Installs these packages and what they need. Removes nothing and starts nothing.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    if shell::which("apt-get").is_none() {
        bail!("this is neither Debian nor Ubuntu; install by hand what Debian calls: {names}");
    }
    let mut sh = shell::as_root("sh").with_context(|| format!("as root: apt-get install {names}"))?;
    println!("+ apt-get install {names}");
    let status = sh.args(["-euc", SCRIPT, "install"]).args(packages).status().context("cannot start sh")?;
    if !status.success() {
        bail!("apt-get install {names} failed: {status}");
    }
    Ok(())
}

/// Packages of daemons start them unless policy-rc.d forbids it, and enable them for the next boot. A policy that is
/// there already is the machine owner's, and stays.
const SCRIPT: &str = r#"
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
apt-get -q update
apt-get -q install -y --no-remove --no-install-recommends "$@"
if command -v systemctl > /dev/null; then
    for package in "$@"; do systemctl disable "$package" 2> /dev/null || :; done
fi
"#;
