//! Unmodified programs in five languages and two databases' own clients, against servers that refuse at first.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redial_tests::agent::Agent;
use redial_tests::firewall::{Fate, Firewall};
use redial_tests::script::Step;
use redial_tests::upstream::Upstream;
use redial_tests::world::{Family, SERVER_V4, World};

/// The port where a client runs without redial, and the one where it runs with it.
const DIRECT: u16 = 80;
const REDIAL: u16 = 81;

fn source(name: &str) -> String {
    format!("{}/clients/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Fetches a page from a server that refuses the first two connects: the client fails without redial and does not
/// notice with it.
fn fetches(command: &[&str]) -> Result<()> {
    let world = World::new("client")?;
    let firewall = Firewall::new(&world.server)?;
    let page = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n";
    let script = [Step::ReceiveUntil("\r\n\r\n".to_owned()), Step::Send(page.to_owned())];
    let agent = Agent::start(&[&world.cgroup])?;
    for (offset, family) in [(0, Family::V4), (100, Family::V6)] {
        let (direct, redial) = (family.server(DIRECT + offset), family.server(REDIAL + offset));
        let _servers = [
            Upstream::start(&world.server, direct, &script)?,
            Upstream::start(&world.server, redial, &script)?,
        ];
        firewall.set(direct.port(), Fate::RefuseFirst(2, 1_000_000))?;
        firewall.set(redial.port(), Fate::RefuseFirst(2, 1_000_000))?;

        let without = run(&world, Command::new(command[0]), &command[1..], &format!("http://{direct}/"))?;
        ensure!(!without.status.success(), "it got through without redial: {without:?}");

        let with = run(&world, world.workload(command[0]), &command[1..], &format!("http://{redial}/"))?;
        ensure!(with.status.success(), "{family:?}: {with:?}\n{}", agent.log()?);
        assert_eq!(String::from_utf8_lossy(&with.stdout), "hello\n");
        assert_eq!(firewall.attempts_to(redial.port())?, 3);
        assert_eq!(agent.wait_record(redial.port())?.outcomes(), ["refused", "refused", "connected"]);
    }
    Ok(())
}

fn run(world: &World, mut command: Command, arguments: &[&str], url: &str) -> Result<Output> {
    command.args(arguments).arg(url).stdin(Stdio::null());
    world.pod.run(move || {
        command.output().context("starting the client; `cargo xtask setup` installs the clients")
    })
}

#[test]
fn curl() -> Result<()> {
    fetches(&["curl", "-sS", "--noproxy", "*"])
}

#[test]
fn python() -> Result<()> {
    fetches(&["env", "-u", "http_proxy", "python3", &source("client.py")])
}

#[test]
fn node() -> Result<()> {
    fetches(&["node", &source("client.mjs")])
}

#[test]
fn go() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let client = directory.path().join("client");
    let status = Command::new("go")
        .args(["build", "-o"])
        .arg(&client)
        .arg(source("client.go"))
        .status()
        .context("running go; `cargo xtask setup` installs it")?;
    ensure!(status.success(), "go build: {status}");
    fetches(&["env", "-u", "http_proxy", client.to_str().context("not UTF-8")?])
}

#[test]
fn java() -> Result<()> {
    fetches(&["java", &source("Client.java")])
}

/// The client speaks first.
#[test]
fn redis() -> Result<()> {
    let world = World::new("redis")?;
    let firewall = Firewall::new(&world.server)?;
    let address = SERVER_V4.to_string();
    let mut command = Command::new("redis-server");
    command.args(["--port", "6379", "--bind", &address, "--save", "", "--protected-mode", "no"]);
    let _server = Server::start(&world, command)?;
    let cli = ["-h", address.as_str(), "-p", "6379"];
    wait_until_up(&world, "redis-cli", &[&cli[..], &["ping"]].concat())?;
    let agent = Agent::start(&[&world.cgroup])?;

    firewall.set(6379, Fate::RefuseFirst(2, 1_000_000))?;
    let before = firewall.attempts_to(6379)?;
    let with = world
        .pod
        .run(|| Ok(world.workload("redis-cli").args(cli).args(["set", "key", "value"]).output()?))?;
    assert_eq!(String::from_utf8_lossy(&with.stdout), "OK\n", "{with:?}\n{}", agent.log()?);
    assert_eq!(firewall.attempts_to(6379)? - before, 3);
    Ok(())
}

#[test]
fn postgres() -> Result<()> {
    let world = World::new("postgres")?;
    let firewall = Firewall::new(&world.server)?;
    let programs = postgres_programs()?;
    let directory = tempfile::tempdir()?;
    let user =
        nix::unistd::User::from_name("postgres")?.context("no user postgres; run `cargo xtask setup`")?;
    chown(directory.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700))?;
    let as_postgres = |program: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(programs.join(program));
        command.arg("-D").arg(directory.path()).current_dir("/");
        command
    };
    let made = as_postgres("initdb").args(["--auth=trust", "--no-sync"]).output()?;
    ensure!(made.status.success(), "initdb: {made:?}");
    fs::write(directory.path().join("pg_hba.conf"), "host all all 10.1.0.0/24 trust\n")?;
    let address = SERVER_V4.to_string();
    let mut command = as_postgres("postgres");
    command.args(["-h", &address, "-p", "5432", "-k", "", "-F"]);
    let _server = Server::start(&world, command)?;
    let psql = ["-h", address.as_str(), "-p", "5432", "-U", "postgres", "-tA", "-c", "select 6 * 7"];
    wait_until_up(&world, "psql", &psql)?;
    let agent = Agent::start(&[&world.cgroup])?;

    firewall.set(5432, Fate::RefuseFirst(2, 1_000_000))?;
    let before = firewall.attempts_to(5432)?;
    let with = world.pod.run(|| Ok(world.workload("psql").args(psql).output()?))?;
    assert_eq!(String::from_utf8_lossy(&with.stdout), "42\n", "{with:?}\n{}", agent.log()?);
    assert_eq!(firewall.attempts_to(5432)? - before, 3);
    Ok(())
}

/// The newest `/usr/lib/postgresql/VERSION/bin`.
fn postgres_programs() -> Result<PathBuf> {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .context("no PostgreSQL; `cargo xtask setup` installs it")?
        .map(|entry| Ok(entry?.path().join("bin")))
        .collect::<Result<_>>()?;
    versions.retain(|bin| bin.join("initdb").is_file());
    versions.sort();
    versions.pop().context("no PostgreSQL server under /usr/lib/postgresql")
}

/// Waits until a client outside the workload gets through to its server.
fn wait_until_up(world: &World, client: &str, arguments: &[&str]) -> Result<()> {
    let mut said = String::new();
    for _ in 0..200 {
        let output =
            world.pod.run(|| Command::new(client).args(arguments).output().context("starting the client"))?;
        if output.status.success() {
            return Ok(());
        }
        said = String::from_utf8_lossy(&output.stderr).into_owned();
        sleep(Duration::from_millis(50));
    }
    anyhow::bail!("the server did not come up: {said}")
}

/// A real server in the server's namespace. Drop ends it.
#[derive(Debug)]
struct Server(Child);

impl Server {
    fn start(world: &World, mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(world.server.spawn(&mut command)?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGTERM lets PostgreSQL end its own children.
        drop(Command::new("kill").arg(self.0.id().to_string()).status());
        drop(self.0.wait());
    }
}
