//! Debian's packages: installing them without starting any service, and unpacking those of other releases.

use crate::shell;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

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

/// The keys of Debian's.
pub(super) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where Debian's packages come from; apt checks their signatures and sums.
pub(super) const MIRROR: &str = "http://deb.debian.org";

/// An apt with lists of its own, that reads and writes nothing of the machine's and works for any user. Its packages
/// are unpacked and not installed.
#[derive(Debug)]
pub(super) struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// In a folder that is made for it, with the newest lists of these sources (`http://deb.debian.org/debian sid main`),
    /// which are signed with one of these keys.
    pub(super) fn new(folder: &Path, keyring: &Path, sources: &[String]) -> Result<Self> {
        if !Path::new(KEYRING).is_file() {
            install(&["debian-archive-keyring"])?;
        }
        for empty in ["lists/partial", "archives/partial"] {
            let empty = folder.join(empty);
            fs::create_dir_all(&empty).with_context(|| format!("cannot make {}", empty.display()))?;
        }
        let signed_by = keyring.display();
        let list =
            sources.iter().map(|source| format!("deb [signed-by={signed_by} target=Packages] {source}\n"));
        for (name, text) in [("sources.list", list.collect()), ("status", String::new())] {
            fs::write(folder.join(name), text).with_context(|| format!("cannot write apt's {name}"))?;
        }
        let apt = Self { folder: folder.to_path_buf() };
        shell::run(apt.command("apt-get").arg("update"))?;
        Ok(apt)
    }

    /// What a package needs.
    pub(super) fn needs(&self, package: &str) -> Result<Vec<String>> {
        let depends = shell::output(self.command("apt-cache").args(["depends", "--important", package]))
            .with_context(|| format!("apt knows no package {package}"))?;
        let needs = depends.lines().filter_map(|line| line.split_once("Depends: "));
        Ok(needs.map(|(_, name)| name.trim().to_owned()).collect())
    }

    /// Unpacks packages into a folder, and forgets them and the lists.
    pub(super) fn unpack<'a>(self, packages: impl IntoIterator<Item = &'a str>, folder: &Path) -> Result<()> {
        shell::run(self.command("apt-get").arg("download").args(packages))?;
        let files =
            self.folder.read_dir().with_context(|| format!("cannot read {}", self.folder.display()))?;
        let packages = files.flatten().map(|file| file.path());
        for package in packages.filter(|file| file.extension().is_some_and(|extension| extension == "deb")) {
            shell::run(Command::new("dpkg").arg("-x").arg(&package).arg(folder))?;
        }
        fs::remove_dir_all(&self.folder).with_context(|| format!("cannot remove {}", self.folder.display()))
    }

    fn command(&self, program: &str) -> Command {
        let mut apt = Command::new(program);
        apt.arg("-q").current_dir(&self.folder);
        let set = [
            ("Dir::Etc::SourceList", "sources.list"),
            ("Dir::State", ""),
            ("Dir::State::Status", "status"),
            ("Dir::Cache", ""),
        ];
        for (option, file) in set {
            apt.arg("-o").arg(format!("{option}={}", self.folder.join(file).display()));
        }
        apt.args(["-o", "Dir::Etc::SourceParts=/dev/null", "-o", "APT::Sandbox::User=root"]);
        apt
    }
}
