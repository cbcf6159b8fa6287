//! Requests, on a real kernel: what applications of all kinds send and get when redial reads along.

mod abuse;
mod applications;
mod idle_close;
mod memory;
mod operations;
mod storm;
mod taken;
mod wire;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redial_tests::agent::{Agent, Options};
use redial_tests::world::World;

const PORT: u16 = 80;

/// A policy with an `http` section that says this, for every destination.
fn policy(http: &str) -> String {
    format!(
        "apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata: {{name: p}}
spec:
  http: {{{http}}}
  budget: {{percent: 100, minPerSecond: 1000}}
"
    )
}

fn agent(world: &World, http: &str) -> Result<Agent> {
    // What all destinations may retry together is another test's subject.
    let arguments = ["--node-budget-percent", "100", "--node-budget-min-per-second", "10000"];
    let config = policy(http);
    Agent::start_with(
        &[&world.cgroup],
        &Options { config: Some(&config), arguments: &arguments, ..Options::default() },
    )
}

/// A file of the clients' sources.
fn client(name: &str) -> String {
    format!("{}/clients/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Where `cargo xtask setup` has put the libraries of the clients' languages: a folder for each.
fn libraries(language: &str) -> Result<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME").filter(|cache| !cache.is_empty()) {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
            .join(".cache"),
    };
    let folder = cache.join("redial/tools/clients").join(language);
    ensure!(folder.is_dir(), "there is no {}; run `cargo xtask setup`", folder.display());
    Ok(folder)
}

/// The Python that has the libraries.
fn python() -> Result<String> {
    Ok(libraries("python")?.join("bin/python").display().to_string())
}

/// Runs a client in the pod to its end, which must be a good one, and returns what it printed.
fn run(world: &World, command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } = world.pod.run(|| {
        command.stdin(Stdio::null()).output().context("starting the client; `cargo xtask setup` installs it")
    })?;
    let said = String::from_utf8_lossy(&stdout).into_owned();
    ensure!(status.success(), "{status}: {said}{}", String::from_utf8_lossy(&stderr));
    Ok(said)
}

/// Builds a Go program into a folder.
fn go_program(source: &str, folder: &Path) -> Result<String> {
    let program = folder.join("client");
    let mut build = Command::new("go");
    let status = build.args(["build", "-o"]).arg(&program).arg(source).status();
    let status = status.context("running go; `cargo xtask setup` installs it")?;
    ensure!(status.success(), "go build: {status}");
    Ok(program.to_str().context("not UTF-8")?.to_owned())
}

/// A server of ours in the server's namespace. Drop ends it.
#[derive(Debug)]
struct Server {
    child: Child,
    /// Some servers end with their input.
    _input: Option<ChildStdin>,
}

impl Server {
    /// Starts it and waits until it says that it is ready.
    fn start(world: &World, command: &mut Command) -> Result<Self> {
        let mut child = world.server.spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let server = Self { child, _input: input };
        let mut line = String::new();
        BufReader::new(output.context("no stdout")?).read_line(&mut line)?;
        ensure!(line == "ready\n", "the server said `{line}`");
        Ok(server)
    }

    /// Starts one that does not say so, and waits until a client that is no workload gets through to it.
    fn start_until(world: &World, command: &mut Command, client: &[&str]) -> Result<Self> {
        let mut child = world.server.spawn(command.stdin(Stdio::piped()).stdout(Stdio::null()))?;
        let input = child.stdin.take();
        let server = Self { child, _input: input };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !world.pod.run(|| Ok(Command::new(client[0]).args(&client[1..]).output()?))?.status.success() {
            ensure!(Instant::now() < deadline, "{client:?} does not get through");
            sleep(Duration::from_millis(20));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
