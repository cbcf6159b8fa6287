//! nginx closes connections that were idle for a moment just when clients send their next request.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use redial_tests::slow_link::{self, SlowLink};
use redial_tests::world::World;

use super::{PORT, Server, agent, client, libraries, python, run};

/// About the time that clients rest, and much less than a request is under way.
const CONFIG: &str = "
daemon off;
master_process off;
pid PLACE/pid;
error_log PLACE/error.log;
events {}
http {
    access_log PLACE/access.log;
    log_format ledger '$request_method $uri';
    client_body_temp_path PLACE/body;
    proxy_temp_path PLACE/proxy;
    fastcgi_temp_path PLACE/fastcgi;
    uwsgi_temp_path PLACE/uwsgi;
    scgi_temp_path PLACE/scgi;
    keepalive_timeout 20ms;
    keepalive_requests 1000000;
    server {
        listen ADDRESS;
        access_log PLACE/ledger ledger;
        location / { return 200 'hello'; }
    }
}
";

const CLIENTS: usize = 8;
const REQUESTS: usize = 60;
const REST_MS: usize = 60;

struct Nginx {
    files: tempfile::TempDir,
    _server: Server,
}

impl Nginx {
    fn start(world: &World) -> Result<Self> {
        let files = tempfile::tempdir()?;
        let place = files.path().to_str().context("not UTF-8")?;
        let address = format!("{}:{PORT}", slow_link::RIGHT);
        let config = files.path().join("nginx.conf");
        fs::write(&config, CONFIG.replace("PLACE", place).replace("ADDRESS", &address))?;
        let mut command = Command::new("/usr/sbin/nginx");
        command.args(["-p", place, "-e", "stderr", "-c"]).arg(config);
        let up = ["curl", "-sSf", "--noproxy", "*", &format!("http://{address}/up")];
        let server = Server::start_until(world, &mut command, &up)?;
        Ok(Self { files, _server: server })
    }

    /// How often each request was executed.
    fn ledger(&self) -> Result<BTreeMap<String, usize>> {
        let mut ledger = BTreeMap::new();
        for line in fs::read_to_string(Path::new(self.files.path()).join("ledger"))?.lines() {
            *ledger.entry(line.to_owned()).or_default() += 1;
        }
        Ok(ledger)
    }
}

/// The clients' failures.
fn load(world: &World, run_of: &str, start: impl Fn(&str) -> Command + Sync) -> Result<Vec<String>> {
    let url = format!("http://{}:{PORT}/{run_of}", slow_link::RIGHT);
    let numbers = [CLIENTS, REQUESTS, REST_MS].map(|number| number.to_string());
    // Deleting can be repeated, posting cannot.
    let methods = ["GET", "POST", "DELETE"];
    let (python, node) = (python()?, libraries("node")?);
    let said = thread::scope(|scope| -> Result<String> {
        let js = scope.spawn(|| {
            let mut command = start("node");
            command.arg(client("apps/keepalive.mjs")).arg(node).arg(&url).args(&numbers).args(methods);
            run(world, &mut command)
        });
        let mut command = start(&python);
        command.args([&client("apps/keepalive.py"), &url]).args(&numbers).args(methods);
        let py = run(world, &mut command)?;
        Ok(py + &js.join().ok().context("panicked")??)
    })?;
    let good: usize = said
        .lines()
        .filter_map(|line| line.strip_prefix("good "))
        .map(|number| number.parse().unwrap_or(0))
        .sum();
    let failed: Vec<String> =
        said.lines().filter(|line| line.starts_with("failed")).map(str::to_owned).collect();
    assert_eq!(good + failed.len(), 2 * CLIENTS * REQUESTS, "{said}");
    Ok(failed)
}

#[test]
fn no_request_is_lost_to_an_idle_close_and_none_is_repeated() -> Result<()> {
    let world = World::new("nginx")?;
    let _link = SlowLink::new(&world.pod, &world.server, Duration::from_millis(10))?;
    let nginx = Nginx::start(&world)?;
    let direct = load(&world, "direct", |program| Command::new(program))?;
    assert!(direct.len() > 10, "the race hardly happens: {direct:?}");

    let agent = agent(&world, "")?;
    let failed = load(&world, "redial", |program| world.workload(program))?;
    assert!(failed.is_empty(), "{failed:?}\n{}", agent.log()?);
    let twice: Vec<_> = nginx
        .ledger()?
        .into_iter()
        .filter(|(line, count)| line.contains("/redial/") && *count != 1)
        .collect();
    assert!(twice.is_empty(), "{twice:?}");
    let raced = agent.metrics()?.sum("redial_request_attempts_total", &[("outcome", "connection-lost")]);
    assert!(raced >= 10.0, "redial met the race {raced} times only");
    Ok(())
}
