//! Containers by runc itself, each in a cgroup of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::netns::Netns;
use crate::{cgroup, unique};

/// How long a runtime may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);

/// What a container has.
#[derive(Clone, Copy, Debug)]
pub struct Inside<'a> {
    /// The network of a pod, as every workload has one; then it sees no processes but its own. Without one it shares the
    /// machine's network and processes.
    pub network: Option<&'a Netns>,
    pub capabilities: &'a [&'a str],
    /// Programs of the tests. The container has each at `/`, under its own name.
    pub programs: &'a [&'a Path],
}

/// A running container. Its root is the machine's `/usr` and the programs that it is given. Drop ends it.
#[derive(Debug)]
pub struct Container {
    name: String,
    folder: TempDir,
    runc: Child,
}

impl Container {
    /// Starts one.
    pub fn start(role: &str, inside: &Inside<'_>, command: &[&str]) -> Result<Self> {
        let (name, folder) = (unique(role), TempDir::new()?);
        let root = folder.path().join("rootfs");
        for directory in ["dev", "etc", "proc", "run", "sys", "tmp", "usr"] {
            fs::create_dir_all(root.join(directory))?;
        }
        for link in ["bin", "lib", "lib64", "sbin"] {
            std::os::unix::fs::symlink(Path::new("usr").join(link), root.join(link))?;
        }
        let mut mounts = vec![
            json!({"destination": "/proc", "source": "proc", "type": "proc"}),
            json!({"destination": "/run", "source": "tmpfs", "type": "tmpfs", "options": ["nosuid", "nodev"]}),
            bind(Path::new("/sys"), Path::new("/sys")),
            bind(Path::new("/usr"), Path::new("/usr")),
        ];
        for program in inside.programs {
            let place = Path::new("/").join(program.file_name().context("a program without a name")?);
            mounts.push(bind(program, &place));
        }
        let mut namespaces = vec![json!({"type": "mount"})];
        if let Some(network) = inside.network {
            namespaces.extend(["cgroup", "ipc", "pid", "uts"].map(|kind| json!({"type": kind})));
            namespaces.push(json!({"type": "network", "path": network.path()}));
        }
        let sets =
            ["bounding", "effective", "permitted"].map(|set| (set.to_owned(), inside.capabilities.into()));
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "cwd": "/",
                "noNewPrivileges": true,
                "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
                "args": command,
                "capabilities": Value::Object(sets.into_iter().collect()),
            },
            "root": {"path": root, "readonly": true},
            "mounts": mounts,
            "linux": {"namespaces": namespaces, "cgroupsPath": format!("/{name}")},
        });
        fs::write(folder.path().join("config.json"), spec.to_string())?;
        let log = File::create(folder.path().join("log"))?;
        let mut runc = runc(folder.path());
        runc.args(["run", "--bundle"]).arg(folder.path()).arg(&name);
        let runc = runc.stdout(log.try_clone()?).stderr(log).spawn();
        let runc = runc.context("starting runc; `cargo xtask setup` installs it")?;
        Ok(Self { name, folder, runc })
    }

    /// Its cgroup, where cgroup2 is mounted.
    pub fn cgroup(&self) -> Result<PathBuf> {
        Ok(cgroup::mount()?.join(&self.name))
    }

    /// What it has said so far.
    pub fn said(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.path().join("log"))?)
    }

    /// Waits until it says a word.
    pub fn wait_said(&mut self, word: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.said()?.contains(word) {
            let ended = self.runc.try_wait()?;
            ensure!(
                ended.is_none() && Instant::now() < deadline,
                "{} did not say `{word}`: {}",
                self.name,
                self.said()?
            );
            sleep(POLL);
        }
        Ok(())
    }

    /// Runs another command in it, to its end.
    pub fn exec(&self, command: &[&str]) -> Result<Output> {
        let output = runc(self.folder.path()).arg("exec").arg(&self.name).args(command).output()?;
        ensure!(output.status.success(), "{command:?} in {}: {output:?}", self.name);
        Ok(output)
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.runc.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "{} does not end: {}", self.name, self.said()?);
            sleep(POLL);
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(runc(self.folder.path()).args(["delete", "--force", &self.name]).output());
        drop(self.runc.wait());
    }
}

/// runc with a memory of its own: containers of the machine's are not these.
fn runc(folder: &Path) -> Command {
    let mut runc = Command::new("runc");
    runc.arg("--root").arg(folder.join("state")).stdin(Stdio::null());
    runc
}

fn bind(from: &Path, to: &Path) -> Value {
    json!({"destination": to, "source": from, "type": "bind", "options": ["rbind", "ro"]})
}
